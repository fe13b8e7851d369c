"""Sound files, log-mels, pictures and figures."""
