"""How fast this machine multiplies matrices: the peak that all else is a share of."""

from __future__ import annotations

import functools
from pathlib import Path

import torch

from melfusion.assembly.peak import TYPES, format_of, multiplication
from melfusion.bench.timing import Figure, alternated, timed
from melfusion.models.device import device_name

LARGEST, LONG_ENOUGH_S, ROUNDS = 8192, 0.05, 9  # rows of a matrix; of one multiplication


def measure(size: str, folder: Path) -> dict[str, Figure | float]:
    return {f"matmul {name}": peak for name, peak in peaks().items()}


@functools.cache
def peaks() -> dict[str, Figure]:
    """fp32 and bf16 → TFLOP/s of square matrices, measured once a process."""
    sides = {name: _side(dtype) for name, dtype in TYPES.items()}
    seconds = alternated({name: multiplication(TYPES[name], side) for name, side in sides.items()}, ROUNDS)
    return {
        name: Figure("TFLOP/s", [2 * side**3 / s / 1e12 for s in seconds[name]], setting={"side": side})
        for name, side in sides.items()
    }


def _side(dtype: torch.dtype) -> int:
    """The smallest power of two whose multiplication takes long enough to be timed well: CPUs without bf16 are 100 times slower."""
    side = 128
    while side < LARGEST:
        work = multiplication(dtype, side)
        work()
        if timed(work) >= LONG_ENOUGH_S:
            break
        side *= 2
    return side


def peak(precision: str) -> float:
    """FLOP/s of the number format that this precision multiplies in (a name of training/precision.py)."""
    return 1e12 * max(peaks()[format_of(precision)].values)


def shares(rate: Figure, flops: float, floor: float, precision: str) -> Figure:
    """Set what share of the machine a rate (samples/s or clips/s) is; returns it.

    Args:
        flops: of a sample as it was computed.
        floor: of the fewest that give the same.
    """
    best = max(peak("32"), peak("bf16"))
    rate.of_peak, rate.of_floor = rate.median * flops / peak(precision), rate.median * floor / best
    rate.setting |= {"precision": precision, "TFLOP": flops / 1e12, "floor TFLOP": floor / 1e12}
    return rate


def ratio(rate: Figure, *references: Figure) -> Figure:
    """Set how many times as fast it is as the fastest of the references; returns it."""
    rate.ratio = rate.median / max(reference.median for reference in references)
    return rate


def machine_name() -> str:
    """The GPU, or the processor and how many cores this process may use."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return device_name() if torch.cuda.is_available() or not model else f"{device_name()} of {model}"
