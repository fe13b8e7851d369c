"""Evaluation sets, generated clips, their scores and pages."""
