"""Conditioners of published models: their text networks, and what else they take of a request. One file each."""
