"""Names in checkpoints and exported folders of before → the names of now."""

from __future__ import annotations

from typing import Any

FROZEN = {"music_vae": "codec", "text_encoder": "conditioner", "extractor": "image_encoder", "unet": "denoiser"}

WEIGHTS = "unet."  # before the name of each weight that trained, where `denoiser.` stands now


def rename_stored(checkpoint: dict[str, Any]) -> None:
    """Change the keys of digests, weights and their average in place. Names of now stay as they are."""
    checkpoint["frozen"] = {FROZEN.get(name, name): value for name, value in checkpoint.get("frozen", {}).items()}
    for entry in ("state_dict", "ema"):
        if entry in checkpoint:
            checkpoint[entry] = {_renamed(name): tensor for name, tensor in checkpoint[entry].items()}


def _renamed(name: str) -> str:
    return f"denoiser.{name.removeprefix(WEIGHTS)}" if name.startswith(WEIGHTS) else name
