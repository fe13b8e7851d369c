"""`melfusion generate influence=NAME.png`: where the picture acts, as a picture."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from melfusion.errors import ConfigError
from melfusion.files import require_writable

if TYPE_CHECKING:
    from melfusion.assembly.pipeline import Pipeline

PATCHES = 8  # to a side


def checked(options: Any, taken: Iterable[Path] = ()) -> None:
    """ConfigError where a call asks for a map and makes no clip from one picture, or where the map cannot be written.

    taken: other files of the call.
    """
    if options.influence is None:
        return
    said, file = f"influence={options.influence}", Path(options.influence)
    if not options.image or options.audio or options.story or options.items:
        raise ConfigError(f"{said} is of a clip that is made from one picture: give image=, no audio=, story= or list=.")
    if file.resolve() in [one.resolve() for one in (Path(options.image), *taken)]:
        raise ConfigError(f"{said} is a file that this call reads or writes already: give another NAME.png.")
    try:
        require_writable(file.parent)
    except OSError as error:
        raise ConfigError(f"{said} cannot be written ({error.strerror}): give another NAME.png.") from None


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
