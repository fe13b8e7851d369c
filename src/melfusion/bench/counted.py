"""The FLOPs that a measured configuration counts, on the meta device; each configuration is counted once a process."""

from __future__ import annotations

from melfusion.assembly.counting import StageWork, clip_flops, count, on_meta, sample_flops
from melfusion.assembly.schema import Config
from melfusion.models.system import MeLFusion

_COUNTED: dict[str, tuple[MeLFusion, dict[str, StageWork]]] = {}  # by the whole configuration in words


def of_a_sample(config: Config) -> int:
    """FLOPs of a sample of this training."""
    return sample_flops(config, *_counted(config))


def of_a_clip(config: Config, read_by_branch: bool = False) -> int:
    """FLOPs of one clip; `read_by_branch` is that of `clip_flops`."""
    return clip_flops(config, *_counted(config), read_by_branch)


def _counted(config: Config) -> tuple[MeLFusion, dict[str, StageWork]]:
    """The system without bytes, and the work of its stages."""
    name = repr(config)
    if name not in _COUNTED:
        twin = on_meta(config)
        _COUNTED[name] = twin, count(config, twin)[0]
    return _COUNTED[name]
