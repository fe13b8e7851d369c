"""Suites of experiments/: rows, trainings, tables; the recipes of the shipped parts."""
