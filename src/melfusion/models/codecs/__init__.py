"""Codecs: the options of all, and those over waveforms."""
