"""The user's own files, and the formats that others published."""
