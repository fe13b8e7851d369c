"""What training on many GPUs should give: samples per second, network, loader and storage, from a step measured on one GPU.

An estimate, not a measurement: docs/scaling.md states what is assumed. Bytes are decimal, links are counted in one direction.
"""

from __future__ import annotations

import dataclasses

DIVIDED, WHOLE = "fsdp2", "ddp"

FLOAT = 4  # bytes: weights, gradients, moments and the average are float32 in every precision of this project

COPIES = 4  # of each trained number in a checkpoint: weight, average and the two moments of AdamW


@dataclasses.dataclass(frozen=True)
class Work:
    """A training as one GPU does it. `step_s` is measured: a forward and backward pass and the optimizer, data at hand."""

    step_s: float  # seconds of a step of one micro-batch
    batch: int  # samples of it, on each GPU
    parameters: float  # that train
    sample_bytes: float  # as precomputed, read once a step


@dataclasses.dataclass(frozen=True)
class Machine:
    """Nodes alike. The rates are those that the hardware promises; `efficiency` is the share that a collective reaches."""

    gpus_per_node: int = 8
    node_link: float = 450e9  # bytes/s out of a GPU inside its node
    network: float = 50e9  # bytes/s out of a node, over all its adapters
    efficiency: float = 0.8


def step_bytes(work: Work, gpus: int, strategy: str = WHOLE) -> float:
    """Bytes that each GPU sends in a step by rings (Patarasu and Yuan 2009).

    DDP reduces and gathers the gradients: 2 (n - 1) / n of their bytes. FSDP2 gathers the weights for the forward and for the
    backward pass, and reduces the gradients: 3 (n - 1) / n.
    """
    passes = {WHOLE: 2, DIVIDED: 3}[strategy]
    return passes * (gpus - 1) / gpus * work.parameters * FLOAT


def transfer_s(work: Work, machine: Machine, gpus: int, strategy: str = WHOLE) -> float:
    """Seconds of a step's collectives. A ring leaves each node once, so the slower of the two links sets the pace."""
    rate = machine.node_link if gpus <= machine.gpus_per_node else min(machine.node_link, machine.network)
    return step_bytes(work, gpus, strategy) / (rate * machine.efficiency)


def hidden_s(work: Work, strategy: str = WHOLE) -> float:
    """Seconds of a step behind which transfers can hide.

    DDP sends during the backward pass, two thirds of the arithmetic; FSDP2 in both passes, but for about a tenth, since nothing
    is computed while the first block is gathered and the last gradients are reduced.
    """
    return work.step_s * {WHOLE: 2 / 3, DIVIDED: 0.9}[strategy]


def total_s(work: Work, machine: Machine, gpus: int, strategy: str = WHOLE) -> float:
    """Seconds of a step on so many GPUs."""
    return work.step_s + max(0.0, transfer_s(work, machine, gpus, strategy) - hidden_s(work, strategy))


def samples_per_s(work: Work, machine: Machine, gpus: int, strategy: str = WHOLE) -> float:
    return gpus * work.batch / total_s(work, machine, gpus, strategy)


def efficiency(work: Work, machine: Machine, gpus: int, strategy: str = WHOLE) -> float:
    """Share of what the GPUs would do without each other."""
    return work.step_s / total_s(work, machine, gpus, strategy)


def network_needed(work: Work, machine: Machine, gpus: int, strategy: str = WHOLE) -> float:
    """Bytes/s that a node's network has to promise so that transfers stay hidden; 0 inside one node."""
    if gpus <= machine.gpus_per_node:
        return 0.0
    return step_bytes(work, gpus, strategy) / (hidden_s(work, strategy) * machine.efficiency)


def loader_bytes_per_s(work: Work, machine: Machine, gpus: int, strategy: str = WHOLE) -> float:
    """What the storage of the data set gives to all GPUs together."""
    return samples_per_s(work, machine, gpus, strategy) * work.sample_bytes


def state_bytes(work: Work, gpus: int, strategy: str = WHOLE) -> float:
    """On each GPU: weights, gradients, moments and average, before activations and what is frozen."""
    return work.parameters * FLOAT * (COPIES + 1) / (gpus if strategy == DIVIDED else 1)


def checkpoint_bytes(work: Work) -> float:
    return work.parameters * FLOAT * COPIES


def checkpoint_share(work: Work, machine: Machine, gpus: int, every: int, disk: float, strategy: str = WHOLE) -> float:
    """Share of the time spent on writing: rank 0 writes at `disk` bytes/s after every so many steps, and the others wait."""
    writing = checkpoint_bytes(work) / disk
    return writing / (writing + every * total_s(work, machine, gpus, strategy))


def storage_bytes(work: Work, samples: int, kept: int) -> float:
    """A precomputed data set of so many samples, and a run's checkpoints: those that are kept, and one that is being written."""
    return samples * work.sample_bytes + (kept + 1) * checkpoint_bytes(work)


def table(work: Work, machine: Machine, counts: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512)) -> str:
    """A Markdown table, one line per number of GPUs."""
    names = ["GPUs", "DDP samples/s", "of ideal", "FSDP2 samples/s", "of ideal", "sent by a GPU a step, DDP / FSDP2"]
    names += ["network a node needs, DDP / FSDP2", "loader, DDP", "state on a GPU, DDP / FSDP2"]
    lines = [names, ["--:"] * len(names)]
    for n in counts:
        row = [f"{n}"]
        for strategy in (WHOLE, DIVIDED):
            row += [f"{samples_per_s(work, machine, n, strategy):,.0f}", f"{efficiency(work, machine, n, strategy):.0%}"]
        sent, state = ([f(work, n, s) / 1e9 for s in (WHOLE, DIVIDED)] for f in (step_bytes, state_bytes))
        needed = [network_needed(work, machine, n, s) * 8 / 1e9 for s in (WHOLE, DIVIDED)]
        row += [f"{sent[0]:.1f} / {sent[1]:.1f} GB", f"{needed[0]:.0f} / {needed[1]:.0f} Gbit/s"]
        row += [f"{loader_bytes_per_s(work, machine, n) / 1e6:,.0f} MB/s", f"{state[0]:.3g} / {state[1]:.3g} GB"]
        lines.append(row)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
