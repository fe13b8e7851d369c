"""VisionFeatures: a vision transformer reads the picture in place of the image-diffusion model (`image.kind=vision`).

CLIP, SigLIP 2 and DINOv3 through transformers' Auto classes. Every layer of the synapse gets the same patch tokens. The layer
before the last is read where no other is asked for, as Ye et al. 2023 (IP-Adapter, arXiv 2308.06721) do.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoConfig, AutoModel

from melfusion.errors import ConfigError, WeightsError
from melfusion.models.image_encoder import OneLayer
from melfusion.models.layout_names import VISION
from melfusion.models.published import loaded, pretrained

FILE = "preprocessor_config.json"  # beside a published network: how it was trained to see pictures

FILTERS = {2: "bilinear", 3: "bicubic"}  # PIL's numbers, which stand in that file


@dataclass(frozen=True)
class Preprocessing:
    """How a network was trained to see pictures; mean and deviation of the colours are CLIP's where no others are given."""

    side: int  # pixels
    mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)
    filter: str = "bicubic"

    def __call__(self, image: Tensor, statistics: Tensor | None = None) -> Tensor:
        """(B, 3, H, W) in [-1, 1] → (B, 3, side, side).

        statistics: (2, 3), mean and std as a tensor on the image's device; None copies them there.
        """
        pixels = F.interpolate((image + 1) / 2, (self.side, self.side), mode=self.filter, antialias=True).clamp(0, 1)
        given = torch.tensor((self.mean, self.std), device=image.device) if statistics is None else statistics
        mean, std = given[..., None, None]
        return (pixels - mean) / std


class VisionFeatures(OneLayer):
    """A frozen vision transformer as an image encoder.

    Args:
        network: transformers' CLIPVisionModel, SiglipVisionModel, DINOv3ViTModel or one that is called and answers as they do.
        layer: the hidden state that is read, counted as Python does; 0 is the input of the first block.
    """

    statistics: Tensor

    def __init__(self, network: Any, preprocessing: Preprocessing, layer: int = -2):
        super().__init__()
        self.network, self.preprocessing = network, preprocessing
        statistics = torch.tensor((preprocessing.mean, preprocessing.std))
        self.register_buffer("statistics", statistics, persistent=False)  # moved once, not with every batch
        count = network.config.num_hidden_layers + 1
        if not -count <= layer < count:
            raise ConfigError(
                f"image.layer={layer} must lie between {-count} and {count - 1}: this network has {count} hidden states."
            )
        self.layer = layer % count

    def width_of(self, layer: str) -> int:
        return self.network.config.hidden_size

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        """image (B, 3, H, W) in [-1, 1] → patch tokens (B, 1, N, D)."""
        pixels = self.preprocessing(image, self.statistics).to(self.network.dtype)
        tokens = self.network(pixel_values=pixels, output_hidden_states=True).hidden_states[self.layer]
        patches = (self.preprocessing.side // self.network.config.patch_size) ** 2
        return tokens[:, None, tokens.shape[1] - patches :]  # class and register tokens stand before them

    def provenance(self) -> dict[str, Any]:
        see = self.preprocessing  # lists, since what is stored beside the features becomes lists
        return {"reading": "vision", "layer": self.layer, **vars(see), "mean": list(see.mean), "std": list(see.std)}


def vision_network(folder: Path) -> Any:
    """The vision transformer that lies in a folder alone or beside a text encoder; WeightsError where there is none."""
    whole = loaded(AutoConfig, folder, wanted=VISION)
    config = getattr(whole, "vision_config", whole)
    if config.model_type.startswith("siglip2"):
        raise WeightsError(
            f"{folder} is a SigLIP 2 for pictures of any shape (NaFlex), and one of a fixed size is wanted: "
            "give hub:google/siglip2-base-patch16-224@COMMIT or a folder like it."
        )
    with torch.device("meta"):  # for its class alone
        cls = type(AutoModel.from_config(config))
    sizes = (getattr(config, name, None) for name in ("hidden_size", "num_hidden_layers", "patch_size", "image_size"))
    if cls.main_input_name != "pixel_values" or not all(isinstance(size, int) for size in sizes):
        raise WeightsError(f"{folder} holds a {cls.__name__}, which is no vision transformer: give CLIP, SigLIP 2 or DINOv3.")
    return pretrained(cls, folder)


def preprocessing(folder: Path, config: Any) -> Preprocessing:
    """What the folder says of its network's pictures. WeightsError where it says nothing that can be used.

    CLIP may lie without that file: all of its networks were trained with the same numbers.
    """
    file = folder / FILE
    if not file.is_file():
        if config.model_type == "clip_vision_model":
            return Preprocessing(config.image_size)
        raise WeightsError(
            f"{folder} lacks {FILE}, which says how its network sees pictures: copy it from where the weights are from."
        )
    try:
        tree = json.loads(file.read_text())
        size = tree.get("crop_size") or tree["size"]
        (side,) = {size} if isinstance(size, int) else set(size.values())
        mean, std = (tuple(float(v) for v in tree[name]) for name in ("image_mean", "image_std"))
        found = Preprocessing(int(side), mean, std, FILTERS[tree.get("resample", 3)])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{file} does not say how square pictures are prepared ({type(error).__name__}): copy it again."
        ) from error
    learned = getattr(config, "rope_theta", None) is None  # its positions, of one size alone
    if found.side % config.patch_size or (learned and found.side != config.image_size):
        raise WeightsError(
            f"{file} prepares {found.side} pixels a side, but the network sees {config.image_size} in patches of "
            f"{config.patch_size}: copy the folder again."
        )
    return found
