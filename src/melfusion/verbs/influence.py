"""`melfusion generate influence=NAME.png`: where the picture acts, as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from melfusion.errors import ConfigError

if TYPE_CHECKING:
    from melfusion.assembly.pipeline import Pipeline

PATCHES = 8  # to a side


def checked(options: Any) -> None:
    """ConfigError where a call asks for a map and makes no clip from one picture."""
    if options.influence and (not options.image or options.audio or options.story or options.items):
        raise ConfigError(
            f"influence={options.influence} is of a clip that is made from one picture: give image=, no audio=, story= or list=."
        )


def fits(pipe: Pipeline, options: Any) -> None:
    """ConfigError where this model has no such map."""
    from melfusion.assembly.influence import check_method

    if options.influence:
        check_method(pipe, options.influence_by)


def write(pipe: Pipeline, options: Any, picture: Any, request: dict[str, Any]) -> None:
    """The map of the first clip, over its picture.

    Args:
        picture: as the pipeline takes it.
        request: what else the model takes.
    """
    import numpy as np
    from rich.progress import track

    from melfusion.assembly.influence import METHODS, picture_influence
    from melfusion.media.figures import heat_figure, save

    heat = picture_influence(
        pipe,
        options.prompt or "",
        picture,
        options.seed,
        min(PATCHES, pipe.config.data.image_size_px),
        duration_s=options.duration_s,
        method=options.influence_by,
        progress=lambda parts: track(list(parts), description="where the picture acts", transient=True),
        **request,
    )
    save(heat_figure(np.asarray(picture.image), heat, METHODS[options.influence_by]), Path(options.influence))
    does = "acts" if options.influence_by == "occlusion" else "is attended to"
    print(f"{options.influence}: red is what {does} most")
