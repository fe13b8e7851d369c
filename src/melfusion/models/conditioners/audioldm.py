"""AudioLDM's conditioner (Liu et al. 2023, arXiv 2301.12503): CLAP's vector of the text."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from melfusion.batch import Prompt
from melfusion.models.text_encoder import TextEncoder


class AudioLDMConditioner(TextEncoder):
    """text_embeds (B, 1, D): one vector of length 1 for a caption, from CLAP's half that reads words."""

    option = "conditioner.max_length"

    @property
    def width(self) -> int:
        return self.network.config.projection_dim

    @property
    def length(self) -> int:
        return 1

    @torch.no_grad()
    def forward(self, captions: list[str], fields: list[dict[str, Any]] | None = None) -> Prompt:
        ids, mask = self.tokenize(captions)
        vectors: Tensor = self.network(input_ids=ids, attention_mask=mask).text_embeds.float()
        return Prompt(F.normalize(vectors, dim=-1)[:, None], torch.ones(len(captions), 1, dtype=torch.bool, device=ids.device))
