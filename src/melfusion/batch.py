"""What travels between the stages. The legend of shapes:

B batch, S audio samples, C channels, T mel or latent frames, F mel or latent bins, L text tokens, N image tokens,
D width, G grid timesteps of an inverted picture.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from melfusion.errors import DataError

VisualFeatures = dict[str, tuple[Tensor, Tensor]]  # layer → (image_key_BND, image_value_BND)


@dataclass
class _Movable:
    """`.to()` and `.pin_memory()` for dataclasses of tensors, so that Lightning and DataLoader move them."""

    def map_tensors(self, fn: Any) -> Any:
        """A copy with `fn` of each tensor in its place."""

        def apply(value: Any) -> Any:
            if isinstance(value, Tensor):
                return fn(value)
            if isinstance(value, _Movable):
                return value.map_tensors(fn)
            if isinstance(value, dict):
                return {k: apply(v) for k, v in value.items()}
            if isinstance(value, tuple):
                return tuple(apply(v) for v in value)
            return value

        return dataclasses.replace(self, **{f.name: apply(getattr(self, f.name)) for f in dataclasses.fields(self)})

    def to(self, *args: Any, **kwargs: Any) -> Any:
        return self.map_tensors(lambda t: t.to(*args, **kwargs))

    def pin_memory(self) -> Any:
        return self.map_tensors(lambda t: t.pin_memory())


@dataclass
class MusicBatch(_Movable):
    """One micro-batch as the DataModule gives it; precomputed tensors stand in for the raw ones where present."""

    keys: list[str]
    captions: list[str]
    position: Tensor  # (B,) int64, global position in the run (training) or item number (evaluation)
    has_image: Tensor  # (B,) float, 1 where the sample has a picture
    waveform: Tensor | None = None  # (B, S), or (B, 2, S) where audio.channels is 2
    image: Tensor | None = None  # (B, 3, H, W) in [-1, 1]; zeros where there is none
    draws: dict[str, Tensor] = field(default_factory=dict)  # per-sample random numbers, see data/order.py
    latent_moments: Tensor | None = None  # (B, 2C, T, F) or as its codec makes them: mean and log-variance
    text_embeds: Tensor | None = None  # (B, L, D)
    text_mask: Tensor | None = None  # (B, L) bool
    extra: dict[str, Tensor] = field(default_factory=dict)  # what else a Conditioner made of the sample: name → (B, …)
    image_latents: Tensor | None = None  # (B, G, C, h, w) the picture at the reading's grid timesteps; of CLIP (B, 1, N, D)
    visual_features: VisualFeatures | None = None  # reading `fixed`: cached, tokens already matched
    labels: list[dict[str, Any]] = field(default_factory=list)
    full_captions: list[str] = field(default_factory=list)  # everything in words; the caption where there is no other
    replaced: list[tuple[str, str]] = field(default_factory=list)  # (key, reason) of samples that others stand in for
    other: MusicBatch | None = None  # in validation: of each sample's partner key, caption and picture

    def __len__(self) -> int:
        return len(self.keys)

    def first(self, n: int) -> MusicBatch:
        """Its first n samples."""
        lists = {f.name: value[:n] for f in dataclasses.fields(self) if isinstance(value := getattr(self, f.name), list)}
        return dataclasses.replace(self.map_tensors(lambda t: t[:n]), **lists)

    def pictures_differ(self, other: MusicBatch) -> Tensor:
        """(B,) bool: do the two batches have different pictures of a sample, or only one of them a picture?"""
        seen = self.has_image > 0
        unlike = (self._picture() != other._picture()).flatten(1).any(1)
        return (seen != (other.has_image > 0)) | (seen & unlike)

    def _picture(self) -> Tensor:
        """(B, …) the pictures as the batch holds them, raw or precomputed."""
        held = (self.image, self.image_latents, *(key for key, _ in (self.visual_features or {}).values()))
        return next((t for t in held if t is not None), self.has_image)


def present(tensor: Tensor | None) -> Tensor:
    """A tensor that a batch of this data set holds; DataError where it is not there."""
    if tensor is None:
        raise DataError(
            "The batch lacks a tensor that this step needs, since its shards are of another kind: give data.path= of those that "
            "hold it, or make them again."
        )
    return tensor


@dataclass
class Prompt(_Movable):
    """What a request says beside the picture, encoded by a Conditioner."""

    text_embeds: Tensor  # (B, L, D)
    text_mask: Tensor  # (B, L) bool
    extra: dict[str, Tensor] = field(default_factory=dict, kw_only=True)  # name → (B, …): what else a backbone takes

    def __len__(self) -> int:
        return self.text_embeds.shape[0]

    def said(self) -> dict[str, Tensor]:
        """Every tensor by its name."""
        return {"text_embeds": self.text_embeds, "text_mask": self.text_mask} | {f"{EXTRA}{n}": t for n, t in self.extra.items()}

    @staticmethod
    def of(said: dict[str, Tensor]) -> Prompt:
        """Tensors by the names of `said` → Prompt."""
        extra = {name.removeprefix(EXTRA): tensor for name, tensor in said.items() if name.startswith(EXTRA)}
        return Prompt(said["text_embeds"], said["text_mask"], extra=extra)

    def saying(self, said: dict[str, Tensor]) -> Any:
        """A copy that says this in place of its own."""
        return dataclasses.replace(self, **vars(Prompt.of(said)))


EXTRA = "extra."  # before the name of an extra tensor where all stand in one place


@dataclass
class Conditioning(Prompt):
    """What the denoiser is conditioned on: text always, a picture where `has_image` is 1.

    A picture is either features (reading `fixed`: the same at every timestep) or latents to be read at each timestep.
    """

    has_image: Tensor  # (B,) float
    image_latents: Tensor | None = None  # (B, G, C, h, w), or of CLIP (B, 1, N, D)
    image_noise: Tensor | None = None  # (B, C, h, w), reading `noised`
    visual_features: VisualFeatures | None = None

    def where(self, keep: Tensor, other: Prompt) -> Conditioning:
        """Samples of self where `keep` (B,) is true, else what `other` says; pictures stay self's."""
        theirs = other.said()
        return self.saying({n: torch.where(keep.reshape(-1, *[1] * (t.ndim - 1)), t, theirs[n]) for n, t in self.said().items()})

    def pictures(self) -> dict[str, Tensor]:
        """Every tensor of the pictures by a name, (B, …) or (1, …) where all samples share it; those that are there."""
        features = {f"{i}.{layer}": t for layer, pair in (self.visual_features or {}).items() for i, t in enumerate(pair)}
        tensors = {"image_latents": self.image_latents, "image_noise": self.image_noise} | features
        return {name: tensor for name, tensor in tensors.items() if tensor is not None}

    @staticmethod
    def seen(pictures: dict[str, Tensor]) -> dict[str, Any]:
        """Tensors by the names of `pictures` → the fields that hold them."""
        layers = [name.removeprefix("0.") for name in pictures if name.startswith("0.")]
        features = {layer: (pictures[f"0.{layer}"], pictures[f"1.{layer}"]) for layer in layers}
        return {name: pictures.get(name) for name in ("image_latents", "image_noise")} | {"visual_features": features or None}

    def without_image(self) -> Conditioning:
        return dataclasses.replace(self, has_image=torch.zeros_like(self.has_image))


def side_by_side(parts: list[Conditioning]) -> Conditioning:
    """Conditionings of some windows, one after another, as one batch. Where all are the same one, a picture that its samples share
    stays shared."""
    alike = all(part is parts[0] for part in parts)
    shared = {name: t for name, t in parts[0].pictures().items() if alike and len(t) == 1}
    rows = [part.pictures() for part in parts]
    known = {name: tensor for pictures in rows for name, tensor in pictures.items()}

    def of(part: Conditioning, pictures: dict[str, Tensor], name: str) -> Tensor:
        like = known[name]
        given = pictures.get(name, like.new_zeros(1, *like.shape[1:]))
        return given.expand(len(part), *given.shape[1:])

    joined = {name: shared.get(name, torch.cat([of(*pair, name) for pair in zip(parts, rows, strict=True)])) for name in known}
    said = {name: torch.cat([part.said()[name] for part in parts]) for name in parts[0].said()}
    has_image = torch.cat([part.has_image for part in parts])
    return dataclasses.replace(parts[0].saying(said), has_image=has_image, **Conditioning.seen(joined))


def join(branches: list[Conditioning]) -> Conditioning:
    """The branches of guidance as one batch. Pictures stay those of the first branch, B rows, and serve all of them."""
    said = {name: torch.cat([branch.said()[name] for branch in branches]) for name in branches[0].said()}
    return dataclasses.replace(branches[0].saying(said), has_image=torch.cat([branch.has_image for branch in branches]))
