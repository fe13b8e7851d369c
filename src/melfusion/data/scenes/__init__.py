"""Drawn pictures and rendered music: controlled pairs, like CLEVR's."""
