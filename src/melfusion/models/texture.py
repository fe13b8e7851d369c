"""Texture: log_mel (B, 1, T, F) as a decoder made it → what it lacks of a real one, drawn."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from melfusion.media.mel import in_float32
from melfusion.models.codecs.chunks import windowed
from melfusion.randomness import fixed_generator

OCTAVES = 8  # of the waves that encode t


class Texture(nn.Module):
    """Rectified flow (Liu et al. 2023, eq. 1) of a decoder's residual, given the log_mel that it made and the latents.

    A latent holds how fast and how deep a band is modulated, but not its phase. The decoder's best guess is then a constant, and
    what it leaves out can only be drawn. On the straight line from noise (t = 0) to the residual (t = 1) the network predicts the
    direction, residual - noise, and `forward` follows it in a few Euler steps.

    Args:
        latent_channels: of the latents (B, C, T/r, F/r).  patch_size: p×p bins are one position, p divides r.
        width, blocks: of the network.  scale: of the residual, in the log_mel's unit; it brings the residual near variance 1.
    """

    def __init__(self, latent_channels: int, patch_size: int = 4, width: int = 64, blocks: int = 6, scale: float = 0.1):
        super().__init__()
        self.sizes = {"patch_size": patch_size, "width": width, "blocks": blocks, "scale": scale}
        self.patch_size, self.scale = patch_size, scale
        channels = patch_size**2
        self.enter = nn.Conv2d(2 * channels + latent_channels, width, 3, padding=1)
        self.time = nn.Sequential(nn.Linear(2 * OCTAVES, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.blocks = nn.ModuleList(Block(width, 1 / blocks) for _ in range(blocks))
        self.norm, self.leave = nn.LayerNorm(width), nn.Linear(width, channels)

    def noise_shape(self, frames: int, bins: int) -> tuple[int, int, int]:
        """Of one log_mel's noise: p² bins at each position."""
        return self.patch_size**2, frames // self.patch_size, bins // self.patch_size

    def loss(self, residual: Tensor, log_mel: Tensor, latents: Tensor, uniform: Tensor, noise: Tensor) -> Tensor:
        """Mean square error of the direction at t drawn from a logit-normal (Esser et al. 2024).

        Args:
            residual: wanted - log_mel, both (B, 1, T, F).  uniform: (B,) in [0, 1).  noise: (B, p², T/p, F/p).
        """
        wanted = F.pixel_unshuffle(residual / self.scale, self.patch_size)
        t = torch.special.ndtri(uniform.double()).sigmoid().to(wanted)
        point = torch.lerp(noise, wanted, t[:, None, None, None])
        return (self.direction(point, t, self.condition(log_mel, latents)) - (wanted - noise)).square().mean()

    @torch.no_grad()
    def forward(self, log_mel: Tensor, latents: Tensor, steps: int, window: int | None = None) -> Tensor:
        """The decoder's log_mel and latents → residual to add; every clip of every call has the same noise, as in Griffin-Lim.

        window: longer clips go in windows of so many latent frames, to the same end, since it sees few frames. None: at once.
        """
        with in_float32(log_mel):
            condition = self.condition(log_mel.float(), latents.float())
            noise = torch.randn(self.noise_shape(*log_mel.shape[2:]), generator=fixed_generator("texture"))
            both = torch.cat([noise.to(condition).expand(len(condition), -1, -1, -1), condition], 1)
            positions, reach = both.shape[2], steps * (1 + 3 * len(self.blocks))
            size = positions if window is None else max(window * positions // latents.shape[2], 4 * reach)
            point = windowed(lambda part: self.follow(part, steps), both, size, reach, (1, 1), 2)
            return F.pixel_shuffle(point, self.patch_size) * self.scale

    def follow(self, both: Tensor, steps: int) -> Tensor:
        """Noise and condition, side by side as channels → where Euler steps from that noise end."""
        point, condition = both.split([self.patch_size**2, both.shape[1] - self.patch_size**2], 1)
        for step in range(steps):
            t = point.new_full((len(point),), step / steps)
            point = point + self.direction(point, t, condition) / steps
        return point

    def condition(self, log_mel: Tensor, latents: Tensor) -> Tensor:
        """Patches of the log_mel, and at each position the latent that lies there."""
        patches = F.pixel_unshuffle(log_mel, self.patch_size)
        return torch.cat([patches, F.interpolate(latents, patches.shape[2:])], 1)

    def direction(self, point: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """The predicted direction (B, p², T/p, F/p) at t (B,)."""
        angles = math.pi * t[:, None] * 2.0 ** torch.arange(OCTAVES, device=t.device)
        time = self.time(torch.cat([angles.sin(), angles.cos()], 1))
        h = self.enter(torch.cat([point, condition], 1)).permute(0, 2, 3, 1)
        for block in self.blocks:
            h = block(h, time)
        return self.leave(self.norm(h)).permute(0, 3, 1, 2)


class Block(nn.Module):
    """(B, T/p, F/p, D) → the same: ConvNeXt (Liu et al. 2022) of 7 frames, then 7 bands, modulated by t (Peebles & Xie 2023)."""

    def __init__(self, width: int, scale: float):
        super().__init__()
        self.along_time = nn.Conv2d(width, width, (7, 1), padding=(3, 0), groups=width)
        self.along_frequency = nn.Conv2d(width, width, (1, 7), padding=(0, 3), groups=width)
        self.norm, self.modulation = nn.LayerNorm(width, elementwise_affine=False), nn.Linear(width, 2 * width)
        self.pointwise = nn.Sequential(nn.Linear(width, 3 * width), nn.SiLU(), nn.Linear(3 * width, width))
        self.scale = nn.Parameter(torch.full((width,), scale))
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, h: Tensor, time: Tensor) -> Tensor:
        gain, shift = self.modulation(time)[:, None, None].chunk(2, dim=-1)
        inner = self.along_frequency(self.along_time(h.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
        return h + self.scale * self.pointwise(self.norm(inner) * (1 + gain) + shift)
