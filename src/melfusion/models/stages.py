"""The four parts of the system, and what flows between them."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from melfusion.batch import Conditioning, MusicBatch, Prompt, VisualFeatures, present
from melfusion.models.codec import MusicCodec
from melfusion.models.conditioner import Conditioner
from melfusion.models.denoiser import Denoiser
from melfusion.models.diffusion import process
from melfusion.models.diffusion.objective import Objective
from melfusion.models.diffusion.options import ObjectiveConfig
from melfusion.models.image_encoder import ImageEncoder
from melfusion.models.trained import TrainedModule
from melfusion.randomness import generator


class Stages(TrainedModule):
    """Captions, pictures and sound → what the denoiser works on. It knows the parts by their base classes alone.

    Args:
        image_encoder: None trains and samples from text alone.
        clip_duration_s: of the clips in training, and of those that are generated where no other is asked for.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        codec: MusicCodec,
        conditioner: Conditioner,
        image_encoder: ImageEncoder | None,
        objective: Objective,
        diffusion: ObjectiveConfig,
        clip_duration_s: float,
    ):
        super().__init__()
        self.denoiser, self.codec, self.conditioner, self.image_encoder = denoiser, codec, conditioner, image_encoder
        self.objective, self.diffusion, self.clip_duration_s = objective, diffusion, clip_duration_s

    def latent_shape(self, duration_s: float | None = None) -> tuple[int, ...]:
        """(C, T, F) that holds a clip of this duration, in steps that the denoiser can take; None: of a training clip."""
        return self.codec.latent_shape(duration_s or self.clip_duration_s, self.denoiser.frames_multiple)

    def encode_music(self, batch: MusicBatch) -> Tensor:
        """Normalised latents (B, C, T, F), drawn from the codec's posterior with the sample's own noise."""
        with torch.no_grad():
            moments = batch.latent_moments
            if moments is None:
                moments = self.codec.encode_moments(present(batch.waveform))
            return self.codec.sample_latents(moments, batch.draws.get("vae_noise"))

    def condition(self, batch: MusicBatch) -> Conditioning:
        """Encode captions and pictures, unless the batch brings them precomputed."""
        prompt = self.prompt(batch)
        noise = batch.draws.get("image_noise")
        given = Conditioning(prompt.text_embeds, prompt.text_mask, batch.has_image, image_noise=noise, extra=prompt.extra)
        return self.show(given, batch)

    def prompt(self, batch: MusicBatch) -> Prompt:
        """What the batch says beside its pictures."""
        if batch.text_embeds is None or batch.text_mask is None:
            return self.conditioner(batch.captions, batch.labels)
        return Prompt(batch.text_embeds, batch.text_mask, extra=batch.extra)

    def show(self, conditioning: Conditioning, batch: MusicBatch) -> Conditioning:
        """The same text with the pictures of a batch; without pictures where the system has no image encoder."""
        if self.image_encoder is None:
            return conditioning.without_image()
        latents, features = batch.image_latents, batch.visual_features
        if latents is None and features is None and batch.image is not None:
            latents = self.image_encoder.encode(batch.image)
        return dataclasses.replace(conditioning, has_image=batch.has_image, image_latents=latents, visual_features=features)

    def null(
        self, conditioning: Conditioning, negative_prompt: str = "", fields: list[dict[str, Any]] | None = None
    ) -> Conditioning:
        """The same pictures with ∅ text, as the conditioner has it, or a negative prompt; in training and in sampling."""
        if not negative_prompt:
            return conditioning.saying(self.conditioner.without_text(conditioning).said())
        return conditioning.saying(self.conditioner([negative_prompt] * len(conditioning), fields).said())

    def drop(self, conditioning: Conditioning, uniform: Tensor) -> Conditioning:
        """Classifier-free dropout of text, of the picture and of both."""
        d = self.diffusion
        keep_text, keep_image = process.drop_masks(uniform, d.text_drop_prob, d.image_drop_prob, d.both_drop_prob)
        kept = conditioning.where(keep_text, self.null(conditioning))
        return dataclasses.replace(kept, has_image=kept.has_image * keep_image)

    def look(self, conditioning: Conditioning, times: Tensor) -> VisualFeatures | None:
        """Features of the pictures at the music's times; a picture that several samples or branches share is read once."""
        features, latents = conditioning.visual_features, conditioning.image_latents
        if features is None and latents is not None and self.image_encoder is not None:
            noise, layers = conditioning.image_noise, self.denoiser.layers
            features = self.image_encoder.features(latents, self.objective.steps(times[: len(latents)]), noise, layers)
        if features is None:
            return None
        n = len(conditioning)
        return {
            layer: (key.repeat(n // len(key), 1, 1), value.repeat(n // len(value), 1, 1))
            for layer, (key, value) in features.items()
        }

    def read_once(self, conditioning: Conditioning) -> Conditioning:
        """The features in place of the pictures, where they are the same at every timestep."""
        latents = conditioning.image_latents
        if self.image_encoder is None or latents is None or not self.image_encoder.reads_once:
            return conditioning
        timesteps = torch.zeros(len(latents), dtype=torch.long, device=latents.device)
        features = self.image_encoder.features(latents, timesteps, layers=self.denoiser.layers)
        return dataclasses.replace(conditioning, visual_features=features, image_latents=None)

    def denoise(self, noisy_latents: Tensor, times: Tensor, conditioning: Conditioning) -> Tensor:
        """One conditional pass of the denoiser."""
        features = self.look(conditioning, times)
        return self.denoiser(
            noisy_latents,
            times,
            conditioning.text_embeds,
            conditioning.text_mask,
            features,
            conditioning.has_image,
            conditioning.extra | self.conditioner.frame_context(noisy_latents),
        )

    def encode_captions(
        self, captions: list[str], has_image: Tensor | None, fields: list[dict[str, Any]] | None = None
    ) -> Conditioning:
        """Captions of a user, encoded; `has_image` (B,) is 1 where a sample has a picture, None for all of them."""
        prompt = self.conditioner(captions, fields)
        shown = torch.ones(len(captions)) if has_image is None else has_image
        shown = shown.to(prompt.text_embeds.device)
        return Conditioning(prompt.text_embeds, prompt.text_mask, shown, extra=prompt.extra)

    def see(self, conditioning: Conditioning, image: Tensor | None, seeds: list[int]) -> Conditioning:
        """The same text with the pictures of a user, encoded."""
        if image is None or self.image_encoder is None:
            return conditioning.without_image()
        latents = self.image_encoder.encode(image.to(self.image_encoder.device))
        if (shape := self.image_encoder.noise_shape(*image.shape[2:])) is None:
            return dataclasses.replace(conditioning, image_latents=latents)
        noise = self.draw("image_noise", seeds, shape).to(latents.device)
        return dataclasses.replace(conditioning, image_latents=latents.expand(len(noise), *latents.shape[1:]), image_noise=noise)

    def draw(self, stream: str, seeds: list[int], shape: tuple[int, ...]) -> Tensor:
        """One standard normal array of this shape per seed, stacked."""
        draws = [generator(seed, stream).standard_normal(shape, dtype="float32") for seed in seeds]
        return torch.stack([torch.from_numpy(draw) for draw in draws]).to(self.device)
