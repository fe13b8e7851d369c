"""Random twins of VGGish, PANNs, CLAP and CLIP in their published layouts, and sets of embeddings with known moments."""

import math

import numpy as np
import torch
from synapse_fixtures import seeded
from torch import nn
from transformers import (
    ClapAudioConfig,
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    ClapTextConfig,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
)
from transformers.audio_utils import mel_filter_bank

from melfusion.evaluation.scoring import Predictions
from melfusion.models.twins import byte_tokenizer

CONVOLUTIONS = {0: (1, 64), 3: (64, 128), 6: (128, 256), 8: (256, 256), 11: (256, 512), 13: (512, 512)}
VGGISH_SHAPES = (
    {f"features.{i}.weight": (b, a, 3, 3) for i, (a, b) in CONVOLUTIONS.items()}
    | {f"features.{i}.bias": (b,) for i, (_, b) in CONVOLUTIONS.items()}
    | {
        "embeddings.0.weight": (4096, 12288),
        "embeddings.0.bias": (4096,),
        "embeddings.2.weight": (4096, 4096),
        "embeddings.2.bias": (4096,),
        "embeddings.4.weight": (128, 4096),
        "embeddings.4.bias": (128,),
    }
)


def batch_norm(name, width):
    shapes = {f"{name}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")}
    return shapes | {f"{name}.num_batches_tracked": ()}


def panns_shapes():
    shapes, width = batch_norm("bn0", 64), 1
    for i, wider in enumerate((64, 128, 256, 512, 1024, 2048)):
        for j, w in ((1, width), (2, wider)):
            shapes[f"conv_block{i + 1}.conv{j}.weight"] = (wider, w, 3, 3)
            shapes |= batch_norm(f"conv_block{i + 1}.bn{j}", wider)
        width = wider
    return shapes | {"fc1.weight": (2048, 2048), "fc1.bias": (2048,), "fc_audioset.weight": (527, 2048), "fc_audioset.bias": (527,)}


def drawn(shapes, seed):
    """Weights of about He's scale out of one repeated block of uniform numbers: the same on any machine, and fast."""
    block, state = (math.sqrt(3) * (2 * np.random.default_rng(seed).random(99991) - 1)).astype(np.float32), {}
    for i, (name, shape) in enumerate(shapes.items()):
        values = torch.from_numpy(np.resize(np.roll(block, 1009 * i), shape))
        is_norm = "bn" in name
        if name.endswith("num_batches_tracked"):
            values = torch.tensor(7)
        elif name.endswith("running_var"):
            values = 1 + values.abs()
        elif name.endswith(("bias", "running_mean")):
            values = 0.1 * values
        else:
            values = 1 + 0.2 * values if is_norm else values * math.sqrt(2 / math.prod(shape[1:]))
        state[name] = values
    return state


def vggish_state():
    return drawn(VGGISH_SHAPES, seed=1)


def panns_state():
    """With the Fourier matrices and mel filters that the published file holds beside its weights."""
    t, k = np.arange(512), np.arange(257)[:, None]
    wave = np.exp(-2j * np.pi * k * t / 512) * (0.5 - 0.5 * np.cos(2 * np.pi * t / 512))
    filters = mel_filter_bank(257, 64, 50.0, 8000.0, 16000, norm="slaney", mel_scale="slaney")
    front = {
        "spectrogram_extractor.stft.conv_real.weight": wave.real[:, None],
        "spectrogram_extractor.stft.conv_imag.weight": wave.imag[:, None],
        "logmel_extractor.melW": filters,
    }
    return {k: torch.from_numpy(v.astype(np.float32)) for k, v in front.items()} | drawn(panns_shapes(), seed=2)


def hiss(seconds, rate, seed=0, clips=2):
    """(clips, S) of noise of uniform numbers under a slow swell, the same on any machine."""
    noise = 2 * np.random.default_rng(seed).random((clips, round(seconds * rate))) - 1
    swell = 0.5 - 0.4 * np.cos(2 * np.pi * np.arange(noise.shape[1]) / rate * np.arange(1, clips + 1)[:, None])
    return torch.from_numpy((0.3 * noise * swell).astype(np.float32))


def with_moments(mean, covariance, n, seed=0):
    """(n, D) float64 whose sample mean and unbiased sample covariance are those given."""
    x = np.random.default_rng(seed).standard_normal((n, len(mean)))
    x -= x.mean(0)
    white = np.linalg.solve(np.linalg.cholesky(x.T @ x / (n - 1)), x.T)
    return torch.from_numpy((np.linalg.cholesky(np.asarray(covariance)) @ white).T + np.asarray(mean))


def write_tokenizer(folder):
    tokenizer = byte_tokenizer()
    tokenizer.model_max_length, tokenizer.model_input_names = 32, ["input_ids", "attention_mask"]
    tokenizer.save_pretrained(folder)
    return tokenizer


def clap_twin(folder, fusion=False):
    """A tiny random CLAP in the layout of the hub, whose input is 2 s."""
    text = ClapTextConfig(
        vocab_size=300,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=40,
        pad_token_id=0,
        projection_dim=12,
    )
    fused = {"enable_fusion": True, "fusion_type": "aff_2d"} if fusion else {}
    audio = ClapAudioConfig(
        depths=[1, 1],
        num_attention_heads=[1, 2],
        patch_embeds_hidden_size=8,
        hidden_size=16,
        num_hidden_layers=2,
        projection_dim=12,
        aff_block_r=2,
        **fused,
    )
    with seeded(3):
        model = ClapModel(ClapConfig(text_config=text.to_dict(), audio_config=audio.to_dict(), projection_dim=12)).eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(-10, 3)
                module.running_var.uniform_(5, 20)
    model.save_pretrained(folder)
    truncation = "fusion" if fusion else "rand_trunc"
    ClapFeatureExtractor(max_length_s=2, truncation=truncation).save_pretrained(folder)
    write_tokenizer(folder)
    return model


def write_clip(folder, side):
    """A tiny random CLIP in the layout of the hub, whose input is side × side pixels."""
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = CLIPTextConfig(vocab_size=300, max_position_embeddings=32, pad_token_id=0, eos_token_id=1, **sizes)
    vision = CLIPVisionConfig(image_size=side, patch_size=8, **sizes)
    with seeded(4):
        model = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=10)).eval()
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return model


def predictions(n, seed=0, shift=0.0, classes=("sea", "city")):
    """A row of n clips whose classes take turns, in three numbers each."""
    x = np.random.default_rng(seed).standard_normal((n, 1, 3)) + shift
    return Predictions([f"k{i}" for i in range(n)], {"place": [classes[i % 2] for i in range(n)]}, {"ear": torch.from_numpy(x)})


def labels(n):
    return [{"place": ("sea", "city")[i % 2]} for i in range(n)]
