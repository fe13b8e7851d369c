"""The corpus `games`: real ⟨image, text, music⟩ tuples from freely licensed games, unpacked from Debian's packages.

A tuple is a place in a game, a picture of it and the track that plays there, paired by the game's own files, which one
module per game reads and draws. Nothing of it is committed, and neither are weights trained on it; every sample carries
the licences that Debian's copyright files and the game's own files state.
"""

from melfusion.data.games.clips import assign, caption, samples
from melfusion.data.games.packages import download
from melfusion.data.games.tuples import GAMES, GameTuple, read_games
from melfusion.data.splits import components, split_components
from melfusion.data.tempo import estimate_tempo

__all__ = [
    "GAMES",
    "GameTuple",
    "assign",
    "caption",
    "components",
    "download",
    "estimate_tempo",
    "read_games",
    "samples",
    "split_components",
]
