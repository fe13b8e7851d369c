"""The data card of the corpus: what is in it, counted from its pairs."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from melfusion.data.games import corpus
from melfusion.data.games.describe import PAIRINGS
from melfusion.data.games.licences import kind_of
from melfusion.data.games.material import Material
from melfusion.data.games.pairing import Pair
from melfusion.data.shards import SPLITS
from melfusion.files import write_whole

FLAWS = """- Most music is game-level: no file of these games says which picture goes with which track. Use the label `pairing`.
- A theme's pictures go with all of its tracks; what a level shows besides its picture (other rooms, figures) is not in it.
- Loading screens, title art and backgrounds of menus count as pictures; some of them hold lettering.
- Few free games ship music together with pictures of 256 px: most of what lies in these packages is sprites, tiles and textures.
  Map pictures below that size (UFO: Alien Invasion, half of OpenArena) and music in tracker formats or MIDI are left out.
- Many tracks loop. Tempo is measured, not stated by the game.
- The same piece in another recording or encoding is not found as a duplicate; only equal bytes are.
- Licences are those of Debian's copyright files; where one states them in prose, the catalogue says them for the package."""


def write_card(path: Path, games_dir: Path, games: list[str], licence: str = "any") -> None:
    """Count the chosen games' pairs, and write what is in them as Markdown."""
    found, material = corpus.pairs(games_dir, games, licence)
    names = "all" if set(games) == set(corpus.chosen("all")) else ",".join(games)
    write_whole(path, card(found, material, f"games={names}", list(corpus.packages_of(games))))


def card(found: Sequence[Pair], material: Material, command: str, packages: Sequence[str]) -> str:
    """The whole page. packages: all that are fetched."""
    tracks = {one.track.id: one for one in found}
    pictures = {one.picture.id: one for one in found}
    hours = sum(one.track.seconds for one in tracks.values()) / 3600
    games = {one.track.game for one in found}
    lines = [
        "# The games corpus",
        "",
        f"Counted by `make data-games ARGS='{command} card=data/games.md'`; hash of the whole: `{whole(found)}`.",
        "",
        f"{len(games)} games, {len(tracks)} tracks of 20 s or more, {hours:.1f} hours of music, {len(pictures)} pictures.",
        "Debian 12 (main); text, licences and sources are in [README.md](README.md).",
        "",
        *_table("split", SPLITS, tracks, pictures, lambda one: one.split),
        *_table("pairing", PAIRINGS, tracks, pictures, lambda one: one.pairing),
        *_table(
            "licence of each file",
            ("permissive", "copyleft", "other"),
            tracks,
            pictures,
            lambda one: kind_of(one.track.licence),
            lambda one: kind_of(one.picture.licence),
        ),
        *_games(found),
        _fetched(found, packages),
        "",
        "## Left out",
        "",
        *(f"- {reason}: {number}" for reason, number in _reasons(material)),
        "",
        "## Known flaws",
        "",
        FLAWS,
        "",
    ]
    return "\n".join(lines)


def whole(found: Sequence[Pair]) -> str:
    """A hash of which tracks and pictures are paired, how, and in which split."""
    lines = sorted(f"{one.track.digest} {one.picture.digest} {one.pairing} {one.split} {one.held_out}" for one in found)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _table(
    name: str,
    words: Sequence[str],
    tracks: Mapping[str, Pair],
    pictures: Mapping[str, Pair],
    of: Callable[[Pair], str],
    of_picture: Callable[[Pair], str] | None = None,
) -> list[str]:
    """Tracks, hours and pictures by what `of` says of a pair; pictures by `of_picture`, where it is given."""
    rows = [f"| {name} | tracks | hours | pictures |", "|---|---|---|---|"]
    for word in words:
        played = [one for one in tracks.values() if of(one) == word]
        shown = [one for one in pictures.values() if (of_picture or of)(one) == word]
        rows.append(f"| {word} | {len(played)} | {sum(one.track.seconds for one in played) / 3600:.1f} | {len(shown)} |")
    return [*rows, ""]


def _packages(found: Sequence[Pair]) -> list[str]:
    return sorted({name.split("/")[0] for one in found for name in (one.track.id, one.picture.id)})


def _fetched(found: Sequence[Pair], packages: Sequence[str]) -> str:
    """How many packages are fetched, and which of them gave neither a track nor a picture."""
    none = sorted(set(packages) - set(_packages(found)))
    return f"{len(packages)} packages are fetched. Neither a track nor a picture is of: {', '.join(none) or '-'}."


def _games(found: Sequence[Pair]) -> list[str]:
    """One row for each game."""
    groups: dict[str, list[Pair]] = defaultdict(list)
    for one in found:
        groups[one.track.game].append(one)
    rows = [
        "| game | packages | tracks | level / theme | hours | pictures | licences of the music |",
        "|---|---|---|---|---|---|---|",
    ]
    for game, pairs in sorted(groups.items(), key=lambda item: item[0].casefold()):
        tracks = {one.track.id: one for one in pairs}
        kinds = Counter(one.pairing for one in tracks.values())
        hours = sum(one.track.seconds for one in tracks.values()) / 3600
        facts = (
            f"{game}{' (held out)' if pairs[0].held_out else ''}",
            ", ".join(_packages(pairs)),
            str(len(tracks)),
            f"{kinds['level']} / {kinds['theme']}",
            f"{hours:.2f}",
            str(len({one.picture.id for one in pairs})),
            ", ".join(sorted({one.track.licence for one in pairs})),
        )
        rows.append("| " + " | ".join(facts) + " |")
    return [*rows, ""]


def _reasons(material: Material) -> list[tuple[str, int]]:
    """What was left out over all games, by reason; pictures that are no scenes are not listed."""
    counts: Counter[str] = Counter()
    for reason, number in material.skipped.items():
        counts[reason.rpartition(": ")[2]] += number
    return [
        (reason, number) for reason, number in counts.most_common() if "track" in reason or "another" in reason or "twice" in reason
    ]
