"""FLOPs, counted on the meta device: on a CPU torch's counter misses attention."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from melfusion.batch import Conditioning, MusicBatch, join, present
from melfusion.models.conditioner import Conditioner
from melfusion.models.system import MeLFusion


class Shapes(Conditioner):
    """What an encoder of the prompt gives, without values: transformers' own looks into its mask, which meta tensors forbid."""

    def __init__(self, encoder: Conditioner):
        super().__init__()
        self.example = [t.to("meta") for t in encoder([""])]

    def forward(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        embeds, mask = (t.expand(len(captions), *t.shape[1:]) for t in self.example)
        return embeds, mask


def on_meta(system: MeLFusion) -> MeLFusion:
    """A copy of the system whose tensors have shapes and no memory, with Shapes in place of its conditioner."""
    memo: dict[int, Any] = {}
    for tensor in chain(system.parameters(), system.buffers()):
        twin = torch.empty_like(tensor, device="meta")
        memo[id(tensor)] = nn.Parameter(twin, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else twin
    twin = copy.deepcopy(system, memo).to("meta")
    twin.conditioner = Shapes(system.conditioner)
    return twin


def flops(work: Callable[[], object]) -> float:
    """FLOPs of a call."""
    with FlopCounterMode(display=False) as counter, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there is no trainer to log to
        work()
    return float(counter.get_total_flops())


def of_a_sample(system: MeLFusion, batch: MusicBatch) -> float:
    """FLOPs of a training step, forward and backward, over its samples.

    Text and waveforms are encoded where the system lies: tokenizers and front ends know no meta tensors.
    """
    twin, total = on_meta(system), 0.0
    with torch.no_grad():
        if batch.text_embeds is None:
            total += flops(lambda: system.conditioner(batch.captions))
            text, mask = twin.conditioner(batch.captions)
            batch = dataclasses.replace(batch, text_embeds=text, text_mask=mask)
        if batch.latent_moments is None:
            made: list[Tensor] = []
            total += flops(lambda: made.append(system.codec.encode_moments(present(batch.waveform))))
            batch = dataclasses.replace(batch, latent_moments=made[0])
    shapes = batch.to("meta")
    return (total + flops(lambda: twin.training_step(shapes, 0)["loss"].backward())) / len(batch)


Denoise = Callable[[MeLFusion, Tensor, Tensor, Conditioning], Tensor]


def of_a_clip(system: MeLFusion, image: Tensor, steps: int, denoise: Denoise = MeLFusion.denoise) -> float:
    """FLOPs of one clip under guidance in two branches.

    Args:
        image: (1, 3, H, W).
        denoise: one pass over both branches.
    """
    twin = on_meta(system)
    known: list[Conditioning] = []

    def read() -> None:
        known.append(twin.read_once(twin.encode_prompt(["a tune"], image.to("meta"), None, [0])))

    with torch.no_grad():
        once = flops(read)
        both = join([known[0], twin.null(known[0]).without_image()])
        latents = torch.empty(2, *twin.latent_shape(), device="meta")
        timesteps = torch.zeros(2, dtype=torch.long, device="meta")
        each = flops(lambda: denoise(twin, latents, timesteps, both))
        decoded = system.codec.decode(torch.zeros(1, *system.latent_shape(), device=system.device))
        after = flops(lambda: twin.codec.decode(latents[:1])) + flops(lambda: system.vocode(decoded))
        text = flops(lambda: system.conditioner(["a tune"]))
    return text + once + steps * each + after
