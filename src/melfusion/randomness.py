"""Every random number of the project that must not depend on the process: generators by seed, purpose and position."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

# One stream per purpose: adding a purpose never shifts another's numbers.
STREAMS = (
    "order",
    "crop",
    "timestep",
    "noise",
    "vae_noise",
    "drop",
    "image_noise",
    "substitute",
    "augment",
    "torch",
    "sampler",
    "picture",
)

KEY = 0x6D656C66  # second half of every generator's key

# Seeds of torch's generator for noise that every clip of every call shares: Griffin-Lim's first phases, the texture's noise, and
# that of the latents of a timbre
FIXED = {"phases": 0, "texture": 0, "timbre": 0}


def generator(seed: int, stream: str, epoch: int = 0, position: int = 0) -> np.random.Generator:
    """Counter-based (Philox) generator of one purpose of one position: no state is carried between samples."""
    counter = [0, position, epoch, STREAMS.index(stream)]
    return np.random.Generator(np.random.Philox(key=[seed, KEY], counter=counter))


def fixed_generator(stream: str) -> torch.Generator:
    """A new torch generator of a stream of FIXED. It does not touch torch's global one."""
    import torch

    return torch.Generator().manual_seed(FIXED[stream])


def torch_generators(seeds: list[int], stream: str) -> list[torch.Generator]:
    """One new torch generator per seed, on the CPU: what is drawn for a clip does not depend on the clips beside it."""
    import torch

    return [torch.Generator().manual_seed(int(generator(seed, stream).integers(2**63))) for seed in seeds]


def torch_seed(seed: int, number: int) -> int:
    """For torch's own generator at one micro-batch: what a layer draws does not depend on what was drawn before."""
    return int(generator(seed, "torch", 0, number).integers(2**63))


def draws(seed: int, position: int, noise_shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """Every random number of one position: uniform timestep and drop, standard normal arrays by stream name."""
    uniform: dict[str, Any] = {name: generator(seed, name, 0, position).random(dtype=np.float32) for name in ("timestep", "drop")}
    return uniform | {
        name: generator(seed, name, 0, position).standard_normal(shape, dtype=np.float32) for name, shape in noise_shapes.items()
    }
