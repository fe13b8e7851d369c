"""Tell what a configuration takes before a GPU is there: parameters, FLOPs, memory to train and to generate.

All is counted on the meta device: no weights are read, and none are fetched from the hub. CUDA's context, workspaces and fragments
come on top; the table of GPUs leaves a tenth of each free for them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from melfusion.errors import ConfigError
from melfusion.verbs.imports import heavy_imports
from melfusion.verbs.options import configuration, option

if TYPE_CHECKING:
    from melfusion.assembly.counting import StageWork
    from melfusion.assembly.schema import Config
    from melfusion.batch import MusicBatch
    from melfusion.models.system import MeLFusion
    from melfusion.training.footprint import Footprint

FREE = 0.1  # of a GPU, for what is not counted
CHECKPOINTING = {"kept": "false", "computed again": "true"}  # activations → denoiser.gradient_checkpointing

Needs = dict[str, Callable[[int], float]]  # what is done → samples at once → bytes


@dataclass
class Options:
    config: str = configuration("melfusion")
    batches: str = option("1,8", "samples at once on a device: two numbers or more, comma-separated, ascending")
    fsdp: int = option(1, "devices that share what trains, by fully sharded data parallelism", least=1)
    gpus: str = option("16,24,48,80", "sizes of GPUs, GB, comma-separated")


MORE = "It also takes every key of the configuration, such as:"
SECTIONS = ("denoiser",)
EXAMPLES = ("melfusion memory melfusion", "melfusion memory melfusion image.reading=fixed trainer.precision=bf16-mixed fsdp=8")


def run(options: Options, more: list[str]) -> None:
    """Print the tables."""
    from melfusion.assembly.configuration import load_config
    from melfusion.assembly.parts import PARTS

    config = load_config(options.config, more)
    batches, gpus = numbers("batches", options.batches), numbers("gpus", options.gpus)
    if len(batches) < 2 or sorted(set(batches)) != batches:
        raise ConfigError(f"batches={options.batches} must be two numbers or more, ascending, such as batches=1,8.")
    if not PARTS[config.task].modes:
        raise ConfigError(f"memory counts the whole system, and task={config.task} is one part of it: name another configuration.")

    with heavy_imports():
        from melfusion.assembly.counting import count, on_meta

    system = on_meta(config)
    stages, ready = count(config, system)
    print(f"{parts(config, system)}\n\n{work(config, system, stages)}\n")
    trained, live = to_train(config, options.fsdp, stages, ready, batches)
    needs = {name: between(by) for name, by in trained.items()} | to_generate(system, stages)
    share = f" on each of {options.fsdp} devices" if options.fsdp > 1 else ""
    print(f"GiB{share} to train ({precision(config)}) and to generate (32-true), by samples at once:\n")
    print(f"{in_gib(needs, live, batches)}\n\nSamples at once that fit a GPU, with a tenth of it left free:\n")
    print(fitting(needs, gpus))


def numbers(name: str, text: str) -> list[int]:
    """`1,8` → [1, 8]; ConfigError where one is no whole number above 0."""
    words = text.split(",")
    if not all(word.strip().isdecimal() and int(word) > 0 for word in words):
        raise ConfigError(f"{name}={text} must be whole numbers above 0, comma-separated.")
    return [int(word) for word in words]


def precision(config: Config) -> str:
    """That of a training on CUDA."""
    return {"auto": "bf16-mixed", "32": "32-true"}.get(config.trainer.precision, config.trainer.precision)


def parts(config: Config, system: MeLFusion) -> str:
    """Part → parameters."""
    from melfusion.assembly.counting import parameters

    rows = {name: [f"{parameters(part) / 1e6:.1f}"] for name, part in system.named_children() if parameters(part)}
    rows |= {"all": [f"{parameters(system) / 1e6:.1f}"], f"that train (denoiser.trainable={config.denoiser.trainable})": []}
    rows[list(rows)[-1]] = [f"{parameters(system, True) / 1e6:.1f}"]
    return table(["part", "parameters, millions"], rows)


def work(config: Config, system: MeLFusion, stages: dict[str, StageWork]) -> str:
    """Stage → TFLOP and GiB."""
    from melfusion.assembly.counting import clip_flops

    rows = {name: [f"{w.flops / 1e12:.3g}", gib(w.bytes) if w.bytes else ""] for name, w in stages.items()}
    steps = config.sampling.num_inference_steps
    rows[f"a clip in {steps} steps, all stages"] = [f"{clip_flops(config, system, stages) / 1e12:.3g}", ""]
    return table(["stage, one sample", "TFLOP", "GiB beside weights"], rows)


def to_train(
    config: Config, devices: int, stages: dict[str, StageWork], ready: MusicBatch, batches: list[int]
) -> tuple[dict[str, dict[int, Footprint]], dict[str, list[int]]]:
    """Every choice of what trains and of what becomes of activations → samples at once → what is taken; and the bytes for each
    number of samples where nothing is precomputed.
    """
    import logging

    from melfusion.assembly.configuration import override
    from melfusion.assembly.counting import on_meta, parameters, repeated
    from melfusion.assembly.parts import PARTS
    from melfusion.training.footprint import live_encoding, sharded, training
    from melfusion.training.precision import keep_frozen

    logging.getLogger("diffusers").setLevel(logging.ERROR)  # it names the networks that bf16-true casts
    found: dict[str, dict[int, Footprint]] = {}
    live: dict[str, list[int]] = {}
    for mode in PARTS[config.task].modes:
        for activations, again in CHECKPOINTING.items():
            try:
                chosen = override(config, [mode, f"denoiser.gradient_checkpointing={again}"])
            except ConfigError:  # such as a decoder that this backbone does not have
                continue
            module = keep_frozen(on_meta(chosen), precision(config))
            if not parameters(module, True):
                continue
            name = f"{mode}, activations {activations}"
            for n in batches:
                more = n * devices < config.data.global_batch_size  # micro-batches to a step
                made = sharded(training(chosen, module, repeated(ready, n), precision(config), more), module, devices)
                found.setdefault(name, {})[n] = made
                live.setdefault(name, []).append(max(made.total, made.total - made.work + live_encoding(stages, n)))
    return found, live


def to_generate(system: MeLFusion, stages: dict[str, StageWork]) -> Needs:
    """Generation, with all parts on the device or each while it is needed."""
    from melfusion.training.footprint import generation

    return {
        "generate": lambda n: generation(system, stages, n),
        "generate offload=true": lambda n: generation(system, stages, n, offload=True),
    }


def between(by: dict[int, Footprint]) -> Callable[[int], float]:
    """Samples at once → bytes, never too few: between what was counted on a straight line, above it in proportion to the last.

    The most that is alive at once is the largest of several sums that grow with the samples, so it bends upwards alone.
    """

    def bytes_at(n: int) -> float:
        low = max((m for m in by if m <= n), default=min(by))
        high = min((m for m in by if m >= n), default=None)
        if high is None:
            return by[low].total + by[low].work * (n - low) / low
        return by[low].total + (by[high].total - by[low].total) * (n - low) / max(1, high - low)

    return bytes_at


def in_gib(needs: Needs, live: dict[str, list[int]], batches: list[int]) -> str:
    """The bytes as a table."""
    rows = {name: [gib(size) for size in (*map(bytes_at, batches), *live.get(name, ()))] for name, bytes_at in needs.items()}
    return table(["", *map(str, batches), *(f"{n}, nothing precomputed" for n in batches)], rows)


def gib(size: float) -> str:
    return f"{size / 2**30:.1f}" if size >= 2**30 else f"{size / 2**30:.2g}"


def fitting(needs: Needs, gpus: list[int]) -> str:
    """GPU → the most samples at once."""
    room = [(1 - FREE) * gb * 2**30 for gb in gpus]
    rows = {name: [str(most(bytes_at, r) or "-") for r in room] for name, bytes_at in needs.items()}
    return table(["", *(f"{gb} GB" for gb in gpus)], rows)


def most(bytes_at: Callable[[int], float], room: float) -> int:
    """The most samples at once within these bytes; 0 where one is too many."""
    high = 1
    while bytes_at(high) <= room:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if bytes_at(middle) <= room else (low, middle)
    return low


def table(head: list[str], rows: dict[str, list[str]]) -> str:
    """Markdown."""
    full = ([name, *cells, *[""] * (len(head) - 1 - len(cells))] for name, cells in rows.items())
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *full]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
