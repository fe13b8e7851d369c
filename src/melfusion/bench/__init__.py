"""What this machine does in a second, beside the reference for each figure."""
