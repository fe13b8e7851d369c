"""Extreme Tux Racer: a course has a preview, a race names course and theme, a theme names music."""

from __future__ import annotations

import re
from pathlib import Path

from melfusion.data.games.drawing import finish, open_rgba
from melfusion.data.games.scene import Found, GameScene, attempt, inside, read_text


def read(data: Path) -> Found:
    """Every listed course; its racing theme is its race's, else its own, else the first of the list (the default)."""
    files = {r["name"]: r["file"] for r in _records(data / "music/music.lst") if {"name", "file"} <= r.keys()}
    themes = {r["name"]: r["race"] for r in _records(data / "music/racing_themes.lst") if {"name", "race"} <= r.keys()}
    races = {r["course"]: r for r in _records(data / "courses/events.lst") if "course" in r}
    readme = read_text(data / "music/readme") if (data / "music/readme").is_file() else ""
    composers = re.findall(r"^([^<\n]+?) *(?:<.*>)? composed:((?:\s+\S+\.ogg\b)+)", readme, re.MULTILINE)
    artists = {name: artist for artist, names in composers for name in names.split()}

    def course_scene(entry: tuple[Path, dict[str, str]]) -> Found:
        listing, record = entry
        folder = inside(listing.parent, f"{record['dir']}/course.dim").parent
        course = {k: v for r in reversed(_records(folder / "course.dim")) for k, v in r.items()}
        race = races.get(record["dir"], {})
        theme = next((t for t in (race.get("theme"), course.get("theme")) if t in themes), next(iter(themes), ""))
        track = inside(data / "music", files[themes[theme]])
        mood = " ".join(w for w in ("" if theme == "normal" else theme, race.get("light", "")) if w)
        picture = finish(open_rgba(inside(folder, "preview.png")))
        yield GameScene(record["name"], mood, track, picture, folder / "preview.png", artists.get(track.name))

    listings = sorted(data.glob("courses/*/courses.lst"))
    yield from attempt([(path, record) for path in listings for record in _records(path)], course_scene)


def _records(path: Path) -> list[dict[str, str]]:
    """A `.lst` file: records start with `*`, fields are `[name] value`."""
    text = re.sub(r"^\s*#.*", "", read_text(path), flags=re.MULTILINE) if path.is_file() else ""
    return [{k: " ".join(v.split()) for k, v in re.findall(r"\[(.*?)\]([^\[]*)", part)} for part in text.split("*")[1:]]
