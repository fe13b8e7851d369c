"""A training run: fit, stages, guards, logs."""
