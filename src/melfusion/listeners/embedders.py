"""Embedders: waveform → embedding behind one interface, by `evaluation.embedders`; CLIP for pictures, by `evaluation.clip`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoFeatureExtractor, AutoTokenizer, ClapModel, CLIPModel

from melfusion.errors import WeightsError, shown
from melfusion.listeners.judge import Judge
from melfusion.listeners.panns import Cnn14
from melfusion.listeners.vggish import VGGish
from melfusion.media.mel import LogMel
from melfusion.media.options import AudioConfig
from melfusion.models.frozen import digest, freeze
from melfusion.models.image_efficientnet import efficientnet
from melfusion.models.image_vision import Preprocessing
from melfusion.models.published import loaded, pretrained
from melfusion.models.state_dicts import read_state, some
from melfusion.models.weights import resolve

# what each measures and what not, for the tables
MEASURES = {
    "judge": "what it was trained on: how places, times and weathers of the scenes differ; nothing else, such as keys",
    "efficientnet": "texture of the mel picture (timbre, density, onsets), trained on ImageNet only; no form or exact pitch",
    "vggish": "AudioSet's sound classes, each 0.96 s alone; no tempo or form, and it agrees weakly with human preference",
    "panns": "AudioSet's 527 tags, a whole clip at a time; no melody, nothing above 8 kHz",
    "clap": "what captions say of sounds and styles; no fine timing",
}


class Embedder(nn.Module):
    """A frozen network with its name and digest; `forward` takes clips of any sample rate.

    Args:
        network: waveform (B, S) at its own `sample_rate_hz` → (B, K, D), K embeddings a clip.
    """

    def __init__(self, name: str, network: Any):
        super().__init__()
        self.name, self.network = name, freeze(network)
        self.sample_rate_hz: int = network.sample_rate_hz
        # not by state_dict: a frozen part adds nothing to its parent's
        self.digest = digest({**dict(network.named_parameters()), **dict(network.named_buffers())})

    @torch.no_grad()
    def forward(self, waveform: Tensor, sample_rate_hz: int) -> Tensor:
        """waveform (B, S) → (B, K, D)."""
        return self.network(resample(waveform, sample_rate_hz, self.sample_rate_hz))


def resample(waveform: Tensor, rate: int, wanted: int) -> Tensor:
    """(B, S) at `rate` Hz → at `wanted` Hz, by soxr on the CPU."""
    if rate == wanted:
        return waveform
    made = soxr.resample(np.asarray(waveform.cpu(), dtype=np.float32).T, rate, wanted)
    return torch.from_numpy(np.ascontiguousarray(made.T)).to(waveform.device)


class Resampled(nn.Module):
    """A front end that takes clips of another rate than its own. It has no part in the state of what it stands in."""

    def __init__(self, front_end: Any, rate: int, wanted: int):
        super().__init__()
        self.front_end, self.rate, self.wanted = front_end, rate, wanted

    def shape(self, num_samples: int) -> tuple[int, int]:
        """(T, F) of a clip of so many samples at `rate`."""
        return self.front_end.shape(round(num_samples * self.wanted / self.rate))

    def forward(self, waveform: Tensor) -> Tensor:
        return self.front_end(resample(waveform, self.rate, self.wanted))


class JudgeEmbedding(nn.Module):
    """A judge's embedding (B, 1, D), before its heads."""

    def __init__(self, judge: Judge, sample_rate_hz: int):
        super().__init__()
        self.judge, self.sample_rate_hz = judge, sample_rate_hz

    def forward(self, waveform: Tensor) -> Tensor:
        return self.judge.embedding(waveform)[:, None]


class EfficientNetMel(nn.Module):
    """EfficientNet-Lite0 with ImageNet weights on the log-mel as a grey picture → (B, 1, 1280)."""

    def __init__(self, network: Any, audio: AudioConfig):
        super().__init__()
        self.network, self.log_mel, self.sample_rate_hz = network, LogMel(audio), audio.sample_rate_hz

    def forward(self, waveform: Tensor) -> Tensor:
        # ln magnitudes of about -11 … 1 get the range of a normalised ImageNet picture
        picture = F.interpolate((self.log_mel(waveform) + 5) / 3, scale_factor=(1, 2))
        return self.network.extract_features(picture.expand(-1, 3, -1, -1)).mean((2, 3))[:, None]

    @torch.no_grad()
    def embed_image(self, image: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1] → (B, 1280), resized to 64 pixels: the features of the leakage test."""
        image = image.to(next(self.network.parameters()).device)
        picture = F.interpolate(image, (64, 64), mode="bilinear", antialias=True) * 2
        return self.network.extract_features(picture).mean((2, 3))


class ClapAudio(nn.Module):
    """CLAP through transformers: audio at 48 kHz → (B, K, D), and `text` → (B, D) in the same space.

    K is 1 up to 10 s, the length of CLAP's input. Longer clips are cut into as many evenly placed pieces as cover them.
    """

    def __init__(self, model: Any, extractor: Any, tokenizer: Any):
        super().__init__()
        self.model, self.extractor, self.tokenizer = model, extractor, tokenizer
        self.sample_rate_hz = extractor.sampling_rate

    def forward(self, waveform: Tensor) -> Tensor:
        length, longest = waveform.shape[1], self.extractor.nb_max_samples
        k = -(-length // longest)
        starts = [i * (length - longest) // (k - 1) for i in range(k)] if k > 1 else [0]
        pieces = torch.cat([waveform[:, start : start + longest] for start in starts])
        inputs = self.extractor(list(pieces.cpu().numpy()), sampling_rate=self.sample_rate_hz, return_tensors="pt")
        inputs["is_longer"] = torch.zeros(len(pieces), 1, dtype=torch.bool)  # else the extractor marks a random piece
        return _pooled(self.model.get_audio_features(**inputs.to(self.model.device))).unflatten(0, (k, -1)).transpose(0, 1)

    def text(self, captions: list[str]) -> Tensor:
        tokens = self.tokenizer(captions, padding=True, truncation=True, return_tensors="pt").to(self.model.device)
        return _pooled(self.model.get_text_features(**tokens))


class ClipImage(nn.Module):
    """CLIP through transformers: pictures (B, 3, H, W) in [-1, 1] and captions → (B, D) in one space."""

    def __init__(self, model: Any, tokenizer: Any):
        super().__init__()
        self.model, self.tokenizer = model, tokenizer

    def forward(self, image: Tensor) -> Tensor:
        pixels = Preprocessing(self.model.config.vision_config.image_size)(image)
        return _pooled(self.model.get_image_features(pixel_values=pixels))

    def text(self, captions: list[str]) -> Tensor:
        tokens = self.tokenizer(captions, padding=True, truncation=True, return_tensors="pt").to(self.model.device)
        return _pooled(self.model.get_text_features(**tokens))


def _pooled(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output.pooler_output


def _published(cls: type[nn.Module], weights: str, part: str) -> nn.Module:
    """A network of the class with its published weights: a file, or a folder or hub id that holds one `.pth`."""
    file = Path(weights)
    if not file.is_file():
        found = sorted(resolve(weights, part).glob("*.pth"))
        if len(found) != 1:
            raise WeightsError(f"{part}: {shown(weights)} holds {len(found)} .pth files; give the path of one.")
        file = found[0]
    network: Any = cls()
    _load(network.load_published, part, file)
    return network


def _load(load: Callable[[dict[str, Tensor]], Any], part: str, file: Path) -> None:
    """Load a file's tensors into a network by `load`, strictly; WeightsError where they do not fit."""
    try:
        state = read_state(file)
    except WeightsError as error:
        raise WeightsError(f"{part}: {error}") from error
    try:
        load(state)
    except (KeyError, RuntimeError) as error:  # torch's message has many lines
        first = " ".join(str(error).split()).split(". ")[0][:200]
        raise WeightsError(
            f"{part}: {file} is not the published file of weights, since it holds {some(state)} ({type(error).__name__}: {first})."
        ) from error


def _clap(weights: str, audio: AudioConfig) -> nn.Module:
    folder = resolve(weights, "clap")
    return ClapAudio(pretrained(ClapModel, folder), loaded(AutoFeatureExtractor, folder), loaded(AutoTokenizer, folder))


def clip(weights: str) -> ClipImage:
    """CLIP from a folder or hub id in transformers' layout, frozen."""
    folder = resolve(weights, "clip")
    return freeze(ClipImage(pretrained(CLIPModel, folder), loaded(AutoTokenizer, folder)))


EMBEDDERS: dict[str, Callable[[str, AudioConfig], nn.Module]] = {
    "efficientnet": lambda weights, audio: EfficientNetMel(efficientnet(weights, "evaluation.embedders"), audio),
    "vggish": lambda weights, audio: _published(VGGish, weights, "vggish"),
    "panns": lambda weights, audio: _published(Cnn14, weights, "panns"),
    "clap": _clap,
}


def embedder(name: str, weights: str, audio: AudioConfig) -> Embedder:
    """An embedder of EMBEDDERS with its weights; WeightsError where they are missing or do not fit."""
    if name not in EMBEDDERS:
        raise WeightsError(f"evaluation.embedders names {name!r}, which is none of {', '.join(EMBEDDERS)}: correct the name.")
    return Embedder(name, EMBEDDERS[name](weights, audio))
