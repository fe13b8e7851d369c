"""Sizes of published networks that no options describe, as their config.json has them: for counting, where no file is at hand."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig, T5Config, T5EncoderModel

from melfusion.errors import WeightsError, shown

FLAN_T5_LARGE: dict[str, Any] = {
    "vocab_size": 32128,
    "d_model": 1024,
    "d_kv": 64,
    "d_ff": 2816,
    "num_layers": 24,
    "num_heads": 16,
    "feed_forward_proj": "gated-gelu",
}

AUDIOLDM_VOCODER: dict[str, Any] = {
    "model_in_dim": 64,
    "upsample_initial_channel": 1024,
    "upsample_rates": [5, 4, 2, 2, 2],
    "upsample_kernel_sizes": [16, 16, 8, 4, 4],
    "resblock_kernel_sizes": [3, 7, 11],
    "resblock_dilation_sizes": [[1, 3, 5]] * 3,
    "normalize_before": False,
}

PUBLISHED = {  # what follows `hub:` up to the commit, or what a folder of `sources` is
    "google/flan-t5-large": lambda: T5EncoderModel(T5Config(**FLAN_T5_LARGE)),
    "cvssp/audioldm-s-full-v2": lambda: SpeechT5HifiGan(SpeechT5HifiGanConfig(**AUDIOLDM_VOCODER)),
    "cvssp/audioldm2-music": lambda: SpeechT5HifiGan(SpeechT5HifiGanConfig(**AUDIOLDM_VOCODER)),  # AudioLDM's own
}


def published(weights: str, part: str, sources: dict[str, str]) -> nn.Module:
    """A network as large as the one that `hub:NAME@COMMIT`, or a folder of `sources`, names; WeightsError where it is not known."""
    source = sources.get(weights.partition(":")[0], weights.removeprefix("hub:"))
    if make := PUBLISHED.get(source.partition("@")[0]):
        return make()
    raise WeightsError(
        f"{part}.weights={shown(weights)!r}: its sizes are not known without its files: give a local folder with its config.json, "
        f"or one of {', '.join(f'hub:{name}' for name in PUBLISHED)}."
    )
