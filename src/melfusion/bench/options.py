"""The sizes of a benchmark. No heavy imports."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    config: str  # the configuration that is ours
    keys: tuple[str, ...]  # laid over it
    rounds: int  # of the alternation: each gives one value
    steps: int  # optimizer steps of a block, in which one side has the machine
    clips: int  # generated at once
    clip_rounds: int  # rounds of generation, in which the reference takes its 200 steps
    least_gib: int = 0  # memory of the GPU that it needs; 0: it needs none


RANDOM = ("music_vae", "image", "denoiser")  # parts at full scale whose random twins have the sizes of the published ones

SIZES = {
    "tiny": Size(
        "tiny",
        ("data.splits.train=32", "data.global_batch_size=32", "image.grid_steps=10", "sampling.num_inference_steps=25"),
        rounds=3,
        steps=3,
        clips=8,
        clip_rounds=2,
    ),
    "small": Size(
        "scenes", ("data.splits.train=96", "data.splits.val=8", "data.splits.test=8"), rounds=5, steps=3, clips=8, clip_rounds=3
    ),
    "full": Size(
        "melfusion",
        (
            *(f"{part}.weights=null" for part in RANDOM),
            "data.source=scenes",
            "data.splits.train=64",
            "data.splits.val=8",
            "data.splits.test=8",
            "data.global_batch_size=32",
            "data.num_workers=2",
            "trainer.micro_batch_size=null",
            "denoiser.gradient_checkpointing=false",
        ),
        rounds=5,
        steps=4,
        clips=16,
        clip_rounds=3,
        least_gib=75,
    ),
}
