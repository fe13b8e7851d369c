"""FLOPs by torch's counter, which misses attention on a CPU: both UNets and the decoder are counted on the meta device.

The prompt, the picture's and the sound's latents, and the vocoder are counted where the system lies, since tokenizers, inversion
and front ends look into their tensors. On a CPU their attention is missing, so the sums are a little low.
"""

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

from melfusion.batch import Conditioning, MusicBatch, Prompt, join, present
from melfusion.models.conditioner import Conditioner
from melfusion.models.system import MeLFusion


class Shapes(Conditioner):
    """What an encoder of the prompt gives, without values: transformers' own looks into its mask, which meta tensors forbid."""

    def __init__(self, encoder: Conditioner):
        super().__init__()
        self.example: Prompt = encoder([""]).to("meta")

    def forward(self, captions: list[str], fields: list[dict[str, Any]] | None = None) -> Prompt:
        return Prompt.of({name: t.expand(len(captions), *t.shape[1:]) for name, t in self.example.said().items()})


def on_meta(system: MeLFusion) -> MeLFusion:
    """A copy of the system whose tensors have shapes and no memory, with Shapes in place of its conditioner."""
    memo: dict[int, Any] = {}
    for tensor in chain(system.parameters(), system.buffers()):
        empty = torch.empty_like(tensor, device="meta")
        memo[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
    twin: MeLFusion = copy.deepcopy(system, memo)
    twin.to("meta")
    twin.conditioner = Shapes(system.conditioner)
    return twin


def flops(work: Callable[[], object]) -> float:
    """FLOPs of a call."""
    with FlopCounterMode(display=False) as counter, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there is no trainer to log to
        work()
    return float(counter.get_total_flops())


def of_a_sample(system: MeLFusion, batch: MusicBatch) -> float:
    """FLOPs of a training step, forward and backward, over its samples; of precomputed ones where the batch has them."""
    made: list[Any] = []
    with torch.no_grad():
        total = flops(lambda: made.append(system.condition(batch)))
        if batch.latent_moments is None:
            total += flops(lambda: made.append(system.codec.encode_moments(present(batch.waveform))))
            batch = dataclasses.replace(batch, latent_moments=made[1])
    known: Conditioning = made[0]
    batch = dataclasses.replace(batch, text_embeds=known.text_embeds, text_mask=known.text_mask, image_latents=known.image_latents)
    twin, shapes = on_meta(system), batch.to("meta")
    return (total + flops(lambda: twin.training_step(shapes, 0)["loss"].backward())) / len(batch)


Denoise = Callable[[MeLFusion, Tensor, Tensor, Conditioning], Tensor]


def of_a_clip(system: MeLFusion, image: Tensor, steps: int, denoise: Denoise = MeLFusion.denoise) -> float:
    """FLOPs of one clip under guidance in two branches.

    Args:
        image: (1, 3, H, W).
        denoise: one pass over both branches.
    """
    twin, made = on_meta(system), []
    with torch.no_grad():
        once = flops(lambda: made.append(system.see(system.encode_captions(["a tune"], None), image, [0])))
        once += flops(lambda: made.append(twin.read_once(made[0].to("meta"))))
        both = join([made[1], twin.null(made[1]).without_image()])
        latents = torch.empty(2, *twin.latent_shape(), device="meta")
        timesteps = torch.zeros(2, dtype=torch.long, device="meta")
        each = flops(lambda: denoise(twin, latents, timesteps, both))
        once += flops(lambda: twin.codec.decode(latents[:1]))
        decoded = system.codec.decode(torch.zeros(1, *system.latent_shape(), device=system.device))
        once += flops(lambda: system.vocode(decoded))
    return once + steps * each
