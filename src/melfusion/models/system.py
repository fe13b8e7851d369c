"""MeLFusion, the system: picture and caption condition the denoising of music latents (Chowdhury et al., CVPR 2024)."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from typing import Any

from torch import Tensor, nn
from torchmetrics import MeanMetric

from melfusion.batch import Conditioning, MusicBatch
from melfusion.errors import CheckpointError
from melfusion.models.codec import MusicCodec
from melfusion.models.conditioner import Conditioner
from melfusion.models.denoiser import Denoiser
from melfusion.models.diffusion.objective import Objective
from melfusion.models.diffusion.options import ObjectiveConfig
from melfusion.models.frozen import digest
from melfusion.models.generation import Generation
from melfusion.models.image_encoder import ImageEncoder
from melfusion.models.options import OptimConfig
from melfusion.models.sharding import divide
from melfusion.models.stored_names import WEIGHTS, rename_stored


class MeLFusion(Generation):
    """Built parts and plain values in; `training_step` and `generate` out. Only the denoiser trains and is checkpointed.

    Args:
        config: the plain tree stored in checkpoints.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        codec: MusicCodec,
        conditioner: Conditioner,
        image_encoder: ImageEncoder | None,
        objective: Objective,
        diffusion: ObjectiveConfig,
        optim: OptimConfig,
        clip_duration_s: float,
        max_steps: int,
        val_items: int = 64,
        config: dict[str, Any] | None = None,
    ):
        super().__init__(denoiser, codec, conditioner, image_encoder, objective, diffusion, clip_duration_s)
        self.optim = optim
        self.max_steps, self.val_items, self.config = max_steps, val_items, config or {}
        self.val_loss, self.val_other, self.val_unlike = MeanMetric(), MeanMetric(), MeanMetric()
        self.val_attention: dict[str, MeanMetric] = {}  # by layer
        self._digests: dict[str, str] | None = None

    def losses(self, latents: Tensor, conditioning: Conditioning, times: Tensor, noise: Tensor) -> Tensor:
        """(B,) weighted losses, each sample's own (eq. 7)."""
        return self.objective.losses(lambda noisy, at: self.denoise(noisy, at, conditioning), latents, noise, times)

    # --- Lightning ------------------------------------------------------------------------------------------------

    def training_step(self, batch: MusicBatch, batch_idx: int) -> dict[str, Tensor]:
        latents, conditioning = self.encode_music(batch), self.condition(batch)
        conditioning = self.drop(conditioning, batch.draws["drop"])
        times = self.objective.times(batch.draws["timestep"])
        losses = self.losses(latents, conditioning, times, batch.draws["noise"])
        self.log_loss(losses.mean(), len(batch))
        return {"loss": losses.mean(), "losses": losses.detach(), "timesteps": self.objective.steps(times)}

    def validation_step(self, batch: MusicBatch, batch_idx: int) -> None:
        """Each item always has its own noise and its own stratum of t; it is scored again with its partner's picture.

        `val/loss_other_picture` above `val/loss` shows that the picture is used: a falling loss alone does not.
        """
        times = self.objective.stratified(batch.position, self.val_items)
        batch = dataclasses.replace(batch, draws={name: t for name, t in batch.draws.items() if name != "vae_noise"})
        latents, conditioning = self.encode_music(batch), self.condition(batch)
        nothing: dict[str, Tensor] = {}
        with nullcontext(nothing) if self.denoiser.alphas() else self.denoiser.measuring_attention() as attended:  # α says it
            self.val_loss.update(self.losses(latents, conditioning, times, batch.draws["noise"]))
        self.log("val/loss", self.val_loss, prog_bar=True)
        for layer, share in attended.items():
            mean = self.val_attention.setdefault(layer, MeanMetric().to(share.device))
            mean.update(share.sum(1), conditioning.has_image.to(share.dtype))
        if batch.other is not None:
            other = self.show(conditioning, batch.other)
            self.val_other.update(self.losses(latents, other, times, batch.draws["noise"]))
            self.val_unlike.update(batch.pictures_differ(batch.other).float())

    def on_validation_epoch_end(self) -> None:
        """What the right picture is worth: near 0 the synapse is dead, even if the loss falls.

        Nothing is logged where no item has another picture than its partner. Attention to the picture is a mean over the items that
        have one; Lightning's own mean over ranks does not weigh them.
        """
        for layer, mean in self.val_attention.items():
            if (share := mean.compute()).isfinite():  # some item has a picture
                self.log(f"synapse/attention/{layer}", share)
            mean.reset()
        if not self.val_other.update_called:
            return
        other, unlike = self.val_other.compute(), self.val_unlike.compute()  # over all ranks
        if unlike > 0:
            self.log("val/loss_other_picture", other)
            self.log("val/picture_gain", other - self.val_loss.compute())
        self.val_other.reset()
        self.val_unlike.reset()

    def configure_model(self) -> None:
        if self.device_mesh is not None:  # the strategy is fsdp2 (training/fsdp.py)
            divide(self.denoiser, self.device_mesh["data_parallel"])

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [
            {"params": self.denoiser.other_parameters()},
            {"params": self.denoiser.alpha_parameters(), "lr": self.optim.alpha_lr, "weight_decay": 0.0},
        ]

    def frozen_networks(self) -> list[nn.Module]:
        """Conditioner and image encoder; the codec is small, and its latents are what is learned."""
        self.frozen_digests()  # of the weights as they were loaded, whatever type they are kept in from here on
        parts = (self.conditioner, self.image_encoder)
        return [network for part in parts if part is not None for network in part.children()]

    def frozen_digests(self) -> dict[str, str]:
        """SHA-256 of each frozen part, of the codec what makes latents; computed once."""
        if self._digests is None:
            parts: dict[str, Any] = {
                "codec": self.codec.latent_state(),
                "conditioner": self.conditioner,
                "image_encoder": self.image_encoder,
            }
            self._digests = {name: digest(part) for name, part in parts.items() if part is not None}
            if frozen := self.denoiser.frozen_state():  # under the names of before, so that their digests stay valid
                self._digests["denoiser"] = digest({f"{WEIGHTS}{name}": tensor for name, tensor in frozen.items()})
        return self._digests

    def _frozen_denoiser(self) -> dict[str, Tensor]:
        """What of the denoiser stays as it was loaded, by its name in a checkpoint."""
        return {f"denoiser.{name}": tensor for name, tensor in self.denoiser.frozen_state().items()}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        for name in self._frozen_denoiser():
            checkpoint.get("state_dict", {}).pop(name, None)
        checkpoint["frozen"], checkpoint["config"] = self.frozen_digests(), self.config

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        rename_stored(checkpoint)
        stored, here = checkpoint.get("frozen", {}), self.frozen_digests()
        checkpoint["state_dict"] = self._frozen_denoiser() | checkpoint.get("state_dict", {})
        for name in ("codec", "conditioner", "image_encoder", "denoiser"):
            if stored.get(name) != here.get(name):
                raise CheckpointError(
                    f"The checkpoint was trained with another {name} (SHA-256 {str(stored.get(name))[:12]}…) than the one given "
                    f"here ({str(here.get(name))[:12]}…): give the weights of that part that it was trained with."
                )
