"""Networks that score sound, pictures and words."""
