"""How a game is described in a few lines: its packages, which files are tracks and pictures, and how they belong together.

All patterns match paths relative to a package's data folder, without regard to case. In globs `*` matches slashes too, and a glob
that begins with `!` takes files out again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch

PAIRINGS = ("level", "theme", "game")  # the game plays this track where this picture is seen; same chapter or mood; nothing closer


@dataclass(frozen=True)
class Package:
    """One Debian package.

    Attributes:
        data: the folder below the unpacked package in which the game's files lie.
        source: how its copyright file calls that folder, with a slash at the end.
        archives: globs of zip archives in that folder; those of their files that the game's globs name lie in `<archive>.d/`.
        licence: of files that its copyright file states only in prose.
    """

    name: str
    data: str
    source: str = ""
    archives: tuple[str, ...] = ()
    licence: str = ""


@dataclass(frozen=True)
class Script:
    """Files of the game that name tracks together with pictures: each track found in one goes with each picture found in it.

    Attributes:
        files: glob of such files. One that ends with `/` means folders, of which all text files are read as one.
        track, picture: regular expressions; group 1 is a name. An empty one finds the empty name once.
        track_name, picture_name: globs of the end of a path. In them {0} is that name, {stem} the file's, {folder} its folder's.
        tracks: what a found track's name stands for, where that is written elsewhere; several names with `|` between them.
        title: regular expression, group 1 is the place's title; without one it is {stem}, or {folder} for folders.
        theme: words for the place or its mood, with the same fields; {0} is the name of the track.
    """

    files: str
    track: str = ""
    picture: str = ""
    track_name: str = "{0}"
    picture_name: str = "{0}"
    tracks: Mapping[str, str] = field(default_factory=dict)
    title: str = ""
    theme: str = ""
    pairing: str = "level"


@dataclass(frozen=True)
class Theme:
    """Tracks and pictures whose paths name one theme.

    Attributes:
        track, picture: regular expressions of the whole path; group 1 is the theme, unless `word` is.
        same: the track's word for a theme → a regular expression of the picture's words for it, where these differ.
        words: the track's word for a theme → plain words for captions, where these differ.
    """

    track: str
    picture: str
    same: Mapping[str, str] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)
    word: str = ""
    pairing: str = "theme"


@dataclass(frozen=True)
class Described:
    """A game whose tracks and pictures are found by globs.

    Attributes:
        name: as captions give it.
        place: what a place is in this game: "level", "area" …
        together: regular expression of a picture's path; pictures with the same group 1 show one place, and stay in one split.
        crop: glob of pictures → the width and height, from the top left, px, that hold the picture; the rest is padding.
        held_out: is the whole game kept for tests?
        artist: who wrote all of its music, where no tag says so.
    """

    name: str
    packages: tuple[Package, ...]
    tracks: tuple[str, ...]
    pictures: tuple[str, ...]
    pairs: tuple[Script | Theme, ...] = ()
    place: str = "level"
    together: str = ""
    crop: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    held_out: bool = False
    artist: str = ""

    def wants(self, name: str) -> bool:
        """Is a file of this name one of the game's tracks, pictures or scripts?"""
        scripts = tuple(rule.files + "*" * rule.files.endswith("/") for rule in self.pairs if isinstance(rule, Script))
        return matches(name, self.tracks) or matches(name, self.pictures) or matches(name, scripts)


def matches(name: str, globs: tuple[str, ...]) -> bool:
    """Does one of the globs match, and none of those that begin with `!`?"""
    name = name.lower()
    wanted = any(fnmatch(name, pattern.lower()) for pattern in globs if pattern[0] != "!")
    return wanted and not any(fnmatch(name, pattern[1:].lower()) for pattern in globs if pattern[0] == "!")
