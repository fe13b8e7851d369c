"""All described games, by the name that `games=` takes; the four games of tuples.GAMES have readers that draw their levels."""

from __future__ import annotations

from melfusion.data.games.catalogue_levels import LEVELS
from melfusion.data.games.catalogue_themes import THEMES
from melfusion.data.games.catalogue_whole import WHOLE
from melfusion.data.games.describe import Described

DESCRIBED: dict[str, Described] = LEVELS | THEMES | WHOLE
