"""Audio files, log-mels, pictures and figures."""
