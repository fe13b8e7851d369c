"""The diffusion process, samplers, guidance and inversion, as functions."""
