"""ImageFeatureExtractor: picture → latents → DDIM inversion → {layer: (key, value)} of the frozen image UNet.

What is read are the keys and values of self-attention (MeLFusion §3.2), with the empty prompt, at a moment that the
*reading* decides:

- `inverted` (the paper): the picture is inverted once and its latents are kept at a grid of timesteps; at the music's
  timestep t the UNet reads the latent of the nearest grid timestep t' ≤ t and is given t';
- `fixed`: the inverted latent at one timestep, so that one forward pass serves the whole run;
- `noised` (the release): the clean latent with noise added to t.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from torchmetrics import MeanMetric

from melfusion.batch import MusicBatch, VisualFeatures, present
from melfusion.errors import ConfigError
from melfusion.models.diffusion import process as diffusion
from melfusion.models.diffusion.inversion import ddim_invert, ddim_reverse
from melfusion.models.frozen import digest
from melfusion.models.image_encoder import ImageEncoder
from melfusion.models.synapse.layers import attention_layers, is_unet_layer
from melfusion.models.trained import TrainedModule


class AllRead(Exception):
    """Every layer is read: what the pass would still compute is not needed."""


@contextmanager
def read_self_attention(unet: UNet2DConditionModel, layers: list[str], stop: bool = False) -> Iterator[VisualFeatures]:
    """Within it, each forward pass fills the yielded dict: layer → (key_BND, value_BND) of `attn1`, before the heads split.

    stop: AllRead ends a pass behind the last of the layers.
    """
    seen: VisualFeatures = {}
    halves: dict[str, Tensor] = {}

    def keep_key(name: str) -> Any:
        return lambda module, args, output: halves.__setitem__(name, output)

    def keep_value(name: str) -> Any:
        def keep(module: Any, args: Any, output: Tensor) -> None:
            seen[name] = (halves.pop(name), output)
            if stop and len(seen) == len(layers):
                raise AllRead

        return keep

    handles = []
    try:
        for name in layers:
            attention = unet.get_submodule(f"{name}.attn1")
            handles += [
                attention.to_k.register_forward_hook(keep_key(name)),
                attention.to_v.register_forward_hook(keep_value(name)),
            ]
        yield seen
    finally:
        for handle in handles:
            handle.remove()


class ImageFeatureExtractor(ImageEncoder, TrainedModule):
    """The image-diffusion model: an encoder (frozen), and for the small stand-in also a model that trains itself.

    Args:
        unet: diffusers UNet over latents, or over pixels where `vae` is None.
        vae: diffusers VAE, or None.
        empty_prompt: (1, L, D) embedding of the empty prompt.
        alpha_bar: (T,) of the image model's own schedule.
        reading, grid_steps, fixed_timestep: see above.
    """

    needs_pictures = True
    empty_prompt: Tensor
    alpha_bar: Tensor
    device_grid: Tensor

    def __init__(
        self,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL | None,
        empty_prompt: Tensor,
        alpha_bar: Tensor,
        reading: str = "inverted",
        grid_steps: int = 20,
        fixed_timestep: int = 0,
        prediction_type: str = "epsilon",
        optim: Any = None,
        max_steps: int | None = None,
        val_items: int = 64,
    ):
        super().__init__()
        self.unet, self.vae, self.optim, self.max_steps = unet, vae, optim, max_steps
        self.register_buffer("empty_prompt", empty_prompt)
        self.register_buffer("alpha_bar", alpha_bar, persistent=False)
        self.prediction_type, self.reading, self.val_items = prediction_type, reading, val_items
        self.grid = self._grid(grid_steps, fixed_timestep)  # on the host, which walks along it without asking the device
        self.register_buffer("device_grid", self.grid.clone(), persistent=False)
        self.val_loss, self.val_psnr = MeanMetric(), MeanMetric()

    @property
    def reads_once(self) -> bool:
        return self.reading == "fixed"

    def layer_for(self, name: str, depth: float) -> str:
        known = attention_layers(self.unet)
        return name if is_unet_layer(name) else known[round(depth * (len(known) - 1))]

    def width_of(self, layer: str) -> int:
        if layer not in (known := attention_layers(self.unet)):
            raise ConfigError(
                f"synapse.layers names {layer}, which the image UNet does not have: give both UNets the same attention blocks, "
                f"or choose among {', '.join(known)}."
            )
        return self.unet.get_submodule(f"{layer}.attn1").to_k.out_features

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(C, h, w) of the latents of a picture of that many pixels."""
        down = 1 if self.vae is None else 2 ** (len(self.vae.config.block_out_channels) - 1)
        return self.unet.config.in_channels, height // down, width // down

    def noise_shape(self, height: int, width: int) -> tuple[int, int, int] | None:
        return self.latent_shape(height, width) if self.reading == "noised" else None

    def provenance(self) -> dict[str, Any]:
        return {
            "reading": self.reading,
            "grid": self.grid.tolist(),
            "prediction_type": self.prediction_type,
            "alpha_bar": digest({"alpha_bar": self.alpha_bar}),
            "scaling_factor": self.vae and self.vae.config.scaling_factor,
        }

    def _full_grid(self, grid_steps: int) -> Tensor:
        return torch.arange(grid_steps, device="cpu") * len(self.alpha_bar) // grid_steps

    def _grid(self, grid_steps: int, fixed_timestep: int) -> Tensor:
        """Timesteps a picture is inverted along, 0 first."""
        if self.reading == "inverted":
            return self._full_grid(grid_steps)
        if self.reading == "fixed" and fixed_timestep > 0:
            moves = min(grid_steps, fixed_timestep)
            return torch.linspace(0, fixed_timestep, moves + 1, device="cpu").round().long()
        return torch.zeros(1, dtype=torch.long, device="cpu")

    @torch.no_grad()
    def to_latents(self, image: Tensor) -> Tensor:
        """image (B, 3, H, W) in [-1, 1] → clean latents (B, C, h, w), × the VAE's scaling factor; pixels without a VAE."""
        if self.vae is None:
            return image
        return self.vae.encode(image).latent_dist.mean.float() * self.vae.config.scaling_factor

    def denoise(self, latents: Tensor, timesteps: Tensor) -> Tensor:
        """One pass of the image UNet with the empty prompt."""
        prompt = self.empty_prompt.expand(len(latents), -1, -1)
        return self.unet(latents, timesteps, encoder_hidden_states=prompt).sample

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        """image → image_latents (B, G, C, h, w): the latents that the reading needs.

        `inverted`: the whole grid; `fixed`: the latent at fixed_timestep (G = 1); `noised`: the clean latent (G = 1).
        """
        path = ddim_invert(self.denoise, self.to_latents(image), self.grid, self.alpha_bar, self.prediction_type)
        return path if self.reading == "inverted" else path[:, -1:]

    @torch.no_grad()
    def inversion_psnr(self, image: Tensor, grid_steps: int = 20) -> Tensor:
        """(B,) PSNR in dB of pictures inverted up the whole grid and sampled back down it."""
        grid, latents = self._full_grid(grid_steps), self.to_latents(image)
        path = ddim_invert(self.denoise, latents, grid, self.alpha_bar, self.prediction_type)
        back = ddim_reverse(self.denoise, path[:, -1], grid, self.alpha_bar, self.prediction_type)
        if self.vae is not None:  # against the VAE's own reconstruction: what inversion alone loses
            image, back = (self.vae.decode(z / self.vae.config.scaling_factor).sample for z in (latents, back))
        return 10 * torch.log10(4 / (back - image).square().flatten(1).mean(1))

    @torch.no_grad()
    def features(
        self, image_latents: Tensor, timesteps: Tensor, noise: Tensor | None = None, layers: list[str] | None = None
    ) -> VisualFeatures:
        """image_latents (B, G, C, h, w) and the music's timesteps (B,) → layer → (image_key, image_value), (B, N, D)."""
        if self.reading == "inverted":
            index = torch.searchsorted(self.device_grid, timesteps.contiguous(), right=True) - 1
            latents, seen_at = image_latents[torch.arange(len(index), device=index.device), index], self.device_grid[index]
        elif self.reading == "fixed":
            latents, seen_at = image_latents[:, 0], self.device_grid[-1].expand(len(timesteps))
        else:
            latents, seen_at = diffusion.add_noise(image_latents[:, 0], present(noise), self.alpha_bar[timesteps]), timesteps
        layers = attention_layers(self.unet) if layers is None else layers
        with read_self_attention(self.unet, layers, stop=True) as seen, suppress(AllRead):
            self.denoise(latents, seen_at)
        return {layer: seen[layer] for layer in layers}

    def forward(self, image: Tensor, timesteps: Tensor, noise: Tensor | None = None) -> VisualFeatures:
        """image → features at the music's timesteps, nothing cached."""
        return self.features(self.encode(image), timesteps, noise)

    def _loss(self, batch: MusicBatch, timesteps: Tensor) -> Tensor:
        latents, noise = self.to_latents(present(batch.image)), batch.draws["image_noise"]
        alpha_bar = self.alpha_bar[timesteps]
        output = self.denoise(diffusion.add_noise(latents, noise, alpha_bar), timesteps)
        losses = diffusion.sample_losses(output, diffusion.target(latents, noise, alpha_bar, self.prediction_type))
        return (losses * batch.has_image).sum() / batch.has_image.sum().clamp(min=1)

    def training_step(self, batch: MusicBatch, batch_idx: int) -> Tensor:
        loss = self._loss(batch, diffusion.timesteps_from_uniform(batch.draws["timestep"], len(self.alpha_bar)))
        self.log_loss(loss, len(batch))
        return loss

    def validation_step(self, batch: MusicBatch, batch_idx: int) -> None:
        steps = diffusion.stratified_timesteps(batch.position, self.val_items, len(self.alpha_bar))
        self.val_loss.update(self._loss(batch, steps), batch.has_image.sum())
        self.log("val/loss", self.val_loss, prog_bar=True)
        if batch_idx == 0 and (seen := present(batch.image)[batch.has_image > 0]).numel():
            self.val_psnr.update(self.inversion_psnr(seen))
        self.log("val/inversion_psnr_db", self.val_psnr)  # by every rank, whatever its batch held: logging reduces

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.unet.parameters())}]
