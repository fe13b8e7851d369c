"""Options of verbs that make more than one clip of training's length, or edit a sound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from melfusion.verbs.options import option

if TYPE_CHECKING:
    from melfusion.assembly.edit_request import Editing


@dataclass
class WindowOptions:
    window_s: float | None = option(None, "what the model sees at once, s; null: as much as in training", least=0.1)
    overlap_s: float | None = option(None, "by which windows overlap where a piece is longer, s; null: half a window", least=0.01)


@dataclass
class EditOptions(WindowOptions):
    audio: str | None = option(None, "sound file to edit, in one of the next three ways; null: none", variable="AUDIO")
    strength: float | None = option(None, "how far audio= is changed: 1 from noise, 0 not at all; try 0.8", least=0)
    keep_key: bool | None = option(
        None, "false: with strength= and no prompt the key of audio= is not given to the model; null: it is"
    )
    repaint: str | None = option(None, "START-END, s: make this span of audio= anew; the rest keeps its samples")
    extend_s: float | None = option(None, "go on after the end of audio= for so many seconds", least=0.1)
    story: str | None = option(
        None, "JSON or YAML file: a list of {image, start_s, prompt}, one scene after another; null: none", variable="STORY"
    )


def asked(options: Any) -> dict[str, Any]:
    """What a call asks for of this, as the pipeline takes it."""
    from melfusion.assembly.edit_request import EDITING

    return {name: value for name in EDITING if (value := getattr(options, name, None)) is not None}


def checked(options: Any, image: Any, duration_s: float | None) -> tuple[Editing, float | None]:
    """The same, checked, and the seconds of the piece where they are known; ConfigError says what is wrong."""
    from melfusion.assembly.edit_request import Editing

    return Editing(**asked(options)).checked(image, duration_s)
