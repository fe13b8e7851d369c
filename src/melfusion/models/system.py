"""MeLFusion, the system: picture and caption condition the denoising of music latents (Chowdhury et al., CVPR 2024)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from melfusion.batch import Conditioning, MusicBatch, VisualFeatures
from melfusion.data import order
from melfusion.errors import CheckpointError
from melfusion.models.diffusion import process as diffusion
from melfusion.models.diffusion.guidance import guided
from melfusion.models.diffusion.samplers import sample
from melfusion.models.frozen import digest
from melfusion.models.image_clip import ClipFeatures
from melfusion.models.image_diffusion import ImageFeatureExtractor
from melfusion.models.music_vae import MusicVAE
from melfusion.models.options import DiffusionConfig, OptimConfig
from melfusion.models.text_encoder import TextEncoder
from melfusion.models.trained import TrainedModule
from melfusion.models.unet import SynapticUNet
from melfusion.models.vocoder import Vocoder

FROZEN = ("music_vae", "text_encoder", "extractor")  # what training depends on; any decoder and vocoder may follow


class MeLFusion(TrainedModule):
    """Built parts and plain values in; `training_step` and `generate` out. Only `unet` trains and is checkpointed.

    Args:
        extractor: None trains and samples from text alone.
        alpha_bar: (T,) of the music's schedule.
        latent_shape: (C, T, F) of one clip.
        scheduler: makes a fresh sampler schedule.
        config: the plain tree stored in checkpoints.
    """

    def __init__(
        self,
        unet: SynapticUNet,
        music_vae: MusicVAE,
        text_encoder: TextEncoder,
        extractor: ImageFeatureExtractor | ClipFeatures | None,
        vocoder: Vocoder,
        log_mel: nn.Module,
        alpha_bar: Tensor,
        diffusion: DiffusionConfig,
        optim: OptimConfig,
        latent_shape: tuple[int, int, int],
        scheduler: Callable[[], Any],
        max_steps: int,
        val_items: int = 64,
        config: dict[str, Any] | None = None,
    ):
        super().__init__()
        self.unet, self.music_vae, self.text_encoder, self.extractor = unet, music_vae, text_encoder, extractor
        self.vocoder, self.log_mel = vocoder, log_mel
        self.diffusion, self.optim, self.latent_shape, self.scheduler = diffusion, optim, latent_shape, scheduler
        self.max_steps, self.val_items, self.config = max_steps, val_items, config or {}
        self.register_buffer("alpha_bar", alpha_bar, persistent=False)
        self.val_loss, self.val_other, self.val_unlike = MeanMetric(), MeanMetric(), MeanMetric()
        self._null_text: tuple[Tensor, Tensor] | None = None
        self._digests: dict[str, str] | None = None

    # --- stages ---------------------------------------------------------------------------------------------------

    def encode_music(self, batch: MusicBatch) -> Tensor:
        """Normalised latents (B, C, T, F), drawn from the VAE's posterior with the sample's own noise."""
        with torch.no_grad():
            moments = batch.latent_moments
            if moments is None:
                moments = self.music_vae.encode_moments(self.log_mel(batch.waveform))
            return self.music_vae.sample_latents(moments, batch.draws.get("vae_noise"))

    def condition(self, batch: MusicBatch) -> Conditioning:
        """Encode captions and pictures, unless the batch brings them precomputed."""
        text, mask = batch.text_embeds, batch.text_mask
        if text is None:
            text, mask = self.text_encoder(batch.captions)
        return self.show(Conditioning(text, mask, batch.has_image, image_noise=batch.draws.get("image_noise")), batch)

    def show(self, conditioning: Conditioning, batch: MusicBatch) -> Conditioning:
        """The same text with the pictures of a batch; with none, where the system has no eyes."""
        if self.extractor is None:
            return conditioning.without_image()
        latents, features = batch.image_latents, batch.visual_features
        if latents is None and features is None and batch.image is not None:
            latents = self.extractor.invert(batch.image)
        return dataclasses.replace(conditioning, has_image=batch.has_image, image_latents=latents, visual_features=features)

    def null(self, conditioning: Conditioning, negative_prompt: str = "") -> Conditioning:
        """The same pictures with ∅ text: the encoded empty string, or a negative prompt; in training and in sampling."""
        if negative_prompt:
            text, mask = self.text_encoder([negative_prompt])
        else:
            if self._null_text is None or self._null_text[0].device != self.device:
                self._null_text = self.text_encoder([""])
            text, mask = self._null_text
        n = len(conditioning)
        return dataclasses.replace(conditioning, text_embeds=text.expand(n, -1, -1), text_mask=mask.expand(n, -1))

    def drop(self, conditioning: Conditioning, uniform: Tensor) -> Conditioning:
        """Classifier-free dropout of text, of the picture and of both."""
        d = self.diffusion
        keep_text, keep_image = diffusion.drop_masks(uniform, d.text_drop_prob, d.image_drop_prob, d.both_drop_prob)
        kept = conditioning.where(keep_text, self.null(conditioning))
        return dataclasses.replace(kept, has_image=kept.has_image * keep_image)

    def look(self, conditioning: Conditioning, timesteps: Tensor) -> VisualFeatures | None:
        """Features of the pictures at the music's timesteps; pictures that several branches share are read once."""
        features, latents = conditioning.visual_features, conditioning.image_latents
        if features is None and latents is not None:
            features = self.extractor.features(latents, timesteps[: len(latents)], conditioning.image_noise)
        if features is None:
            return None
        return {layer: tuple(t.repeat(len(conditioning) // len(t), 1, 1) for t in pair) for layer, pair in features.items()}

    def denoise(self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """One conditional pass of the UNet."""
        features = self.look(conditioning, timesteps)
        return self.unet(
            noisy_latents, timesteps, conditioning.text_embeds, conditioning.text_mask, features, conditioning.has_image
        )

    def losses(self, latents: Tensor, conditioning: Conditioning, timesteps: Tensor, noise: Tensor) -> Tensor:
        """(B,) weighted losses, each sample's own (eq. 7)."""
        d, alpha_bar = self.diffusion, self.alpha_bar[timesteps]
        if d.pure_noise_share:
            last = (timesteps == len(self.alpha_bar) - 1)[:, None, None, None]
            noise = torch.where(last, diffusion.noise_hiding(latents, noise, alpha_bar), noise)
        output = self.denoise(diffusion.add_noise(latents, noise, alpha_bar), timesteps, conditioning)
        wanted = diffusion.target(latents, noise, alpha_bar, d.prediction_type)
        kind = "v_prediction" if d.loss_space == "v" else d.prediction_type  # of the error that min-SNR weighs
        weights = diffusion.min_snr_weight(alpha_bar, d.min_snr_gamma, kind)
        weights = weights * diffusion.loss_space_weight(alpha_bar, d.loss_space, d.prediction_type)
        return diffusion.sample_losses(output, wanted) * weights

    # --- Lightning ------------------------------------------------------------------------------------------------

    def training_step(self, batch: MusicBatch, batch_idx: int) -> dict[str, Tensor]:
        latents, conditioning = self.encode_music(batch), self.condition(batch)
        conditioning = self.drop(conditioning, batch.draws["drop"])
        share = self.diffusion.pure_noise_share
        timesteps = diffusion.timesteps_from_uniform(batch.draws["timestep"], len(self.alpha_bar), share)
        losses = self.losses(latents, conditioning, timesteps, batch.draws["noise"])
        self.log_loss(losses.mean(), len(batch))
        return {"loss": losses.mean(), "losses": losses.detach(), "timesteps": timesteps}

    def validation_step(self, batch: MusicBatch, batch_idx: int) -> None:
        """Each item always has its own noise and its own stratum of t; scored again with its partner's picture.

        `val/loss_other_picture` above `val/loss` shows that the picture is used: a falling loss alone does not.
        """
        timesteps = diffusion.stratified_timesteps(batch.position, self.val_items, len(self.alpha_bar))
        batch.draws.pop("vae_noise", None)
        latents, conditioning = self.encode_music(batch), self.condition(batch)
        self.val_loss.update(self.losses(latents, conditioning, timesteps, batch.draws["noise"]))
        self.log("val/loss", self.val_loss, prog_bar=True)
        if batch.other is not None:
            other = self.show(conditioning, batch.other)
            self.val_other.update(self.losses(latents, other, timesteps, batch.draws["noise"]))
            self.val_unlike.update(batch.pictures_differ(batch.other).float())

    def on_validation_epoch_end(self) -> None:
        """What the right picture is worth: near 0 the synapse is dead, however the loss falls.

        Nothing is said where no item has another picture than its partner.
        """
        if not self.val_other.update_called:
            return
        other, unlike = self.val_other.compute(), self.val_unlike.compute()  # over all ranks
        if unlike > 0:
            self.log("val/loss_other_picture", other)
            self.log("val/picture_gain", other - self.val_loss.compute())
        self.val_other.reset(), self.val_unlike.reset()

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [
            {"params": self.unet.other_parameters()},
            {"params": self.unet.alpha_parameters(), "lr": self.optim.alpha_lr, "weight_decay": 0.0},
        ]

    def frozen_networks(self) -> list[nn.Module]:
        """Text encoder and image model; the music VAE is small, and its latents are what is learned."""
        self.frozen_digests()  # of the weights as they were loaded, whatever type they are kept in from here on
        return [network for part in (self.text_encoder, self.extractor) if part is not None for network in part.children()]

    def frozen_digests(self) -> dict[str, str]:
        """SHA-256 of each frozen part, of the VAE what makes latents; computed once."""
        if self._digests is None:
            parts = {name: getattr(self, name) for name in FROZEN} | {"music_vae": self.music_vae.latent_state()}
            self._digests = {name: digest(part) for name, part in parts.items() if part is not None}
            if frozen := self._frozen_unet():
                self._digests["unet"] = digest(frozen)
        return self._digests

    def _frozen_unet(self) -> dict[str, Tensor]:
        """What `unet.trainable` leaves as it was loaded, by its name in a checkpoint."""
        return {f"unet.{n}": p.detach() for n, p in self.unet.named_parameters() if not p.requires_grad}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        for name in self._frozen_unet():
            checkpoint.get("state_dict", {}).pop(name, None)
        checkpoint["frozen"], checkpoint["config"] = self.frozen_digests(), self.config

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        stored, here = checkpoint.get("frozen", {}), self.frozen_digests()
        checkpoint["state_dict"] = self._frozen_unet() | checkpoint.get("state_dict", {})
        for name in (*FROZEN, "unet"):
            if stored.get(name) != here.get(name):
                raise CheckpointError(
                    f"The checkpoint was trained with another {name} (SHA-256 "
                    f"{str(stored.get(name))[:12]}…) than the one given here "
                    f"({str(here.get(name))[:12]}…): point {name}.weights at the original."
                )

    # --- generation -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def generate(
        self,
        captions: list[str],
        image: Tensor | None = None,
        seeds: list[int] | None = None,
        num_inference_steps: int = 25,
        guidance_scale: float = 3.0,
        image_guidance_scale: float | None = None,
        negative_prompt: str = "",
        has_image: Tensor | None = None,
        progress: Callable = iter,
    ) -> Tensor:
        """Captions ("" for none) and pictures (B, 3, H, W) in [-1, 1] (None for none) → log_mel (B, 1, T, F).

        Each sample's noise comes from its own seed, so a clip does not depend on what else is in the batch.
        `vocode` makes sound of the result.
        """
        n, seeds = len(captions), seeds or list(range(len(captions)))
        if has_image is None:
            has_image = torch.full((n,), float(image is not None))
        unseen = image is None or self.extractor is None
        draws = {} if unseen else {"image_noise": self._draw("image_noise", seeds, self.extractor.noise_shape(*image.shape[2:]))}
        batch = MusicBatch(
            ["" for _ in captions],
            captions,
            torch.arange(n, device=self.device),
            has_image.to(self.device),
            image=image,
            draws=draws,
        )
        conditioning = self.condition(batch)
        if self.extractor is not None and self.extractor.reading == "fixed" and conditioning.image_latents is not None:
            features = self.look(conditioning, batch.position)  # the same at every step: read once
            conditioning = dataclasses.replace(conditioning, visual_features=features, image_latents=None)
        s_image = guidance_scale if image_guidance_scale is None else image_guidance_scale
        null = self.null(conditioning, negative_prompt)
        denoise = guided(self.denoise, conditioning, null, guidance_scale, s_image)
        noise = self._draw("noise", seeds, self.latent_shape)
        latents = sample(denoise, noise, self.scheduler(), num_inference_steps, progress, bool(self.diffusion.pure_noise_share))
        return self.music_vae.decode(latents)

    def vocode(self, log_mel: Tensor) -> Tensor:
        """log_mel (B, 1, T, F) → waveform (B, S)."""
        return self.vocoder(log_mel)

    def _draw(self, stream: str, seeds: list[int], shape: tuple[int, ...]) -> Tensor:
        draws = [order.generator(seed, stream).standard_normal(shape, dtype="float32") for seed in seeds]
        return torch.stack([torch.from_numpy(draw) for draw in draws]).to(self.device)
