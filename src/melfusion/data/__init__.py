"""Shards of ⟨audio, image, text⟩, the order they come in, and the sources they are built from."""
