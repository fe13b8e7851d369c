"""How a synapse enters a stock backbone: processors around the stock ones, and what the picture shows in the pass that runs.

No backbone is rewritten. A layer that listens makes its keys and values as ever, the synapse mixes the picture into them, and the
stock processor gets the result in their place: its norms, groups of heads, differences and masks stay its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from melfusion.batch import VisualFeatures
from melfusion.models.synapse.base import VisualSynapse, attention_to


class Sight:
    """What the layers of one backbone see: prepared features (layer → key and value) and has_image (B,), or nothing; and the
    text's mask (B, L), for a network that takes none.

    It is set for one pass. Activation checkpointing runs layers again during `backward`, when later passes may have seen other
    pictures: `checkpointed` shows them what their own pass saw.
    """

    def __init__(self) -> None:
        self.now: tuple[VisualFeatures, Tensor] | None = None
        self.mask: Tensor | None = None
        self.attended: dict[str, Tensor] | None = None  # where it is measured

    @contextlib.contextmanager
    def of(self, now: tuple[VisualFeatures, Tensor] | None, mask: Tensor | None = None) -> Iterator[None]:
        before = self.now, self.mask
        self.now, self.mask = now, mask
        try:
            yield
        finally:
            self.now, self.mask = before

    @contextlib.contextmanager
    def measuring(self) -> Iterator[dict[str, Tensor]]:
        """Within it a pass notes the attention that each token of the picture gets: layer → (B, M)."""
        self.attended = {}
        try:
            yield self.attended
        finally:
            self.attended = None

    def checkpointed(self, module: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """For diffusers' `enable_gradient_checkpointing`."""
        now, mask = self.now, self.mask

        def run(*again: Any) -> Any:
            with self.of(now, mask):
                return module(*again, **kwargs)

        return checkpoint(run, *args, use_reentrant=False)


class Stand:
    """An attention layer to its stock processor, with some of its attributes replaced."""

    def __init__(self, attention: nn.Module, replaced: dict[str, Any]):
        self.attention, self.replaced = attention, replaced

    def __getattr__(self, name: str) -> Any:
        return self.replaced[name] if name in self.replaced else getattr(self.attention, name)


class SynapseProcessor:
    """Around the stock processor of a cross-attention that has `to_k` and `to_v`: diffusers' UNets and Stable Audio Open.

    A plain object, not an nn.Module: the backbone's state_dict keeps its stock keys.
    """

    context, mask = "encoder_hidden_states", "attention_mask"  # names of the stock processor's arguments
    one_softmax = True  # is its output one softmax times the values?

    def __init__(self, stock: Any, layer: str, synapse: VisualSynapse, sight: Sight):
        self.stock, self.layer, self.synapse, self.sight = stock, layer, synapse, sight

    def __call__(self, attention: Any, hidden_states: Tensor, *args: Any, **given: Any) -> Tensor:
        given |= dict(zip((self.context, self.mask), args, strict=False))
        if self.sight.now is None or given.get(self.context) is None:
            return self.stock(attention, hidden_states, **given)
        features, has_image = self.sight.now[0][self.layer], self.sight.now[1].to(hidden_states.dtype)
        context = self.synapse.context(self.layer, given[self.context], features, has_image)
        key, value = self.key_value(attention, context)
        shown, words = has_image.to(key.dtype), key.shape[1]
        key, value, mask = self.synapse.mix(self.layer, key, value, self.additive(given.get(self.mask)), features, shown)
        replaced = self.with_key_value(attention, key, value)
        if self.synapse.beside:
            replaced |= self.with_beside(attention, features, shown)
        given[self.mask] = self.own_mask(mask)
        if self.sight.attended is not None and self.one_softmax and key.shape[1] > words:
            self.sight.attended[self.layer] = self.attended(attention, hidden_states, key, value, words, given)
        return self.stock(Stand(attention, replaced), hidden_states, **given)

    @torch.no_grad()
    def attended(
        self, attention: Any, hidden_states: Tensor, key: Tensor, value: Tensor, words: int, given: dict[str, Any]
    ) -> Tensor:
        """(B, M) in [0, 1]: the attention that each token after the first `words` gets, a mean over heads and queries.

        The stock processor itself computes it: its norms, rotary positions, masks and groups of heads are those of the pass.
        """
        plain = {"to_out": [nn.Identity(), nn.Identity()], "residual_connection": False, "rescale_output_factor": 1.0}
        heads = self.synapse.specs[self.layer].heads

        def attend(marks: Tensor) -> Tensor:
            marked = torch.zeros_like(value)
            marked[:, words:] = marks.repeat(1, heads).to(value)
            return self.stock(Stand(attention, self.with_key_value(attention, key, marked) | plain), hidden_states, **given)

        return attention_to(value.shape[1] - words, value.shape[2] // heads, attend)

    def key_value(self, attention: Any, context: Tensor) -> tuple[Tensor, Tensor]:
        """Context (B, L, D) → the layer's key and value (B, L, ·), before they are divided into heads."""
        if getattr(attention, "norm_cross", None):
            context = attention.norm_encoder_hidden_states(context)
        return attention.to_k(context), attention.to_v(context)

    def with_key_value(self, attention: Any, key: Tensor, value: Tensor) -> dict[str, Any]:
        """What gives the stock processor these."""

        def heads(mask: Tensor, length: int, batch: int) -> Tensor:  # diffusers pads a mask that is not of the text's length
            return attention.prepare_attention_mask(mask, mask.shape[-1], batch)

        return {"to_k": lambda _: key, "to_v": lambda _: value, "norm_cross": None, "prepare_attention_mask": heads}

    def with_beside(self, attention: Any, features: tuple[Tensor, Tensor], has_image: Tensor) -> dict[str, Any]:
        """What adds the attention of the picture's own before the output's projection."""
        kept: list[Tensor] = []

        def to_q(hidden_states: Tensor) -> Tensor:
            kept.append(attention.to_q(hidden_states))
            return kept[0]

        def out(attended: Tensor) -> Tensor:
            seen = (self.layer, kept[0], features, has_image, attention.heads)
            if self.sight.attended is not None:
                self.sight.attended[self.layer] = self.synapse.looked_at(*seen)
            return attention.to_out[0](attended + self.synapse.look(*seen))

        return {"to_q": to_q, "to_out": [out, *attention.to_out[1:]]}

    def additive(self, mask: Tensor | None) -> Tensor | None:
        """The stock mask → (B, 1, L), to be added to the scores."""
        return mask

    def own_mask(self, mask: Tensor | None) -> Tensor | None:
        """(B, 1, L) → what the stock processor takes."""
        return mask


class SelfProcessor(SynapseProcessor):
    """AudioLDM's second attention of a layer, which attends to the sound itself: that is what the picture stands beside."""

    def __call__(self, attention: Any, hidden_states: Tensor, *args: Any, **given: Any) -> Tensor:
        given |= dict(zip((self.context, self.mask), args, strict=False))
        if self.sight.now is not None and given.get(self.context) is None:
            given[self.context] = hidden_states
        return super().__call__(attention, hidden_states, **given)


class GroupedProcessor(SynapseProcessor):
    """ACE-Step's cross-attention: groups of query heads share a key; keys are normed per head. It gets its mask whole."""

    def with_key_value(self, attention: Any, key: Tensor, value: Tensor) -> dict[str, Any]:
        return {"to_k": lambda _: key, "to_v": lambda _: value}

    def additive(self, mask: Tensor | None) -> Tensor | None:
        return None if mask is None else mask[:, 0]

    def own_mask(self, mask: Tensor | None) -> Tensor | None:
        return None if mask is None else mask[:, None]


class Masked:
    """Around the processor of a cross-attention whose network takes no mask of its text: it brings the mask of the pass."""

    def __init__(self, inner: Any, sight: Sight):
        self.inner, self.sight = inner, sight

    def __call__(self, attention: Any, hidden_states: Tensor, *args: Any, **given: Any) -> Tensor:
        given |= dict(zip((SynapseProcessor.context, SynapseProcessor.mask), args, strict=False))
        if (mask := self.sight.mask) is not None:
            given[SynapseProcessor.mask] = (~mask.bool()).to(hidden_states.dtype)[:, None, None] * -1e4
        return self.inner(attention, hidden_states, **given)


class DifferentialProcessor(SynapseProcessor):
    """Stable Audio 3's cross-attention: the difference of two, with keys k1 and k2 side by side and one value."""

    context, mask = "context", "context_mask"
    one_softmax = False

    def key_value(self, attention: Any, context: Tensor) -> tuple[Tensor, Tensor]:
        width = attention.heads * attention.dim_heads
        made = attention.to_kv(context)
        return made[..., :-width], made[..., -width:]

    def with_key_value(self, attention: Any, key: Tensor, value: Tensor) -> dict[str, Any]:
        return {"to_kv": lambda _: torch.cat([key, value], -1)}

    def additive(self, mask: Tensor | None) -> Tensor | None:
        return None if mask is None else (~mask.bool()).float()[:, None] * -1e4

    def own_mask(self, mask: Tensor | None) -> Tensor | None:
        return None if mask is None else mask[:, 0] > -1e4


def attach(backbone: Any, synapse: VisualSynapse, sight: Sight, processor: type[SynapseProcessor]) -> None:
    """Put a processor on every layer of a diffusers backbone that the synapse sits in."""
    for layer, spec in synapse.specs.items():
        attention = backbone.get_submodule(spec.attention)
        attention.set_processor(processor(attention.processor, layer, synapse, sight))
