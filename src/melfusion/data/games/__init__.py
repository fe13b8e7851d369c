"""The corpus `games`: real ⟨image, text, music⟩ tuples from freely licensed games, unpacked from Debian's packages.

A tuple is a place in a game, a picture of it and the track that plays there, paired by the game's own files, which one
module per game reads and draws. Nothing of it is committed, and neither are weights trained on it; every sample carries
the licences that Debian's copyright files and the game's own files state.
"""
