"""The corpus `games`: real ⟨image, text, music⟩ tuples from freely licensed games, unpacked from Debian's packages.

A tuple is a place in a game, a picture of it, and the track that plays there. The game's own files pair them; one module per game
reads these files and draws the picture. Neither the corpus nor weights trained on it are committed. Every sample carries the
licences that Debian's copyright files and the game's own files state.
"""
