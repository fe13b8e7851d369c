"""What is measured: the configurations of a size, systems and batches of them, and the setting of the released code."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig, T5Config, T5EncoderModel

from melfusion.assembly.configuration import load_config, override
from melfusion.assembly.schema import Config
from melfusion.assembly.system import system
from melfusion.batch import Conditioning, MusicBatch
from melfusion.bench.options import SIZES
from melfusion.data.datamodule import MusicDataModule
from melfusion.data.sources import ensure_corpus
from melfusion.errors import ConfigError
from melfusion.models.device import best_device
from melfusion.models.diffusion.guidance import guided
from melfusion.models.system import MeLFusion
from melfusion.models.twins import byte_tokenizer
from melfusion.training.fit import StageClock, training_data
from melfusion.training.precision import attention_in_float32_on_cpu, keep_frozen, resolve_precision

OURS = (  # of all sizes: steps alone are measured, and nothing is drawn or scored between them
    "data.draw=true",
    "data.crop=start",
    "data.precompute.enabled=true",
    "trainer.media_items=0",
    "trainer.progress_bar=false",
    "trainer.val_every_n_steps=1000000",
    "evaluation.items=0",
)

READINGS = {"live": "inverted", "cached": "fixed"}  # the image model runs in each step, or its features are stored

REFERENCE = (  # the released code: everything live, float32, 200 steps; it has neither average nor texture nor corrections
    "image.reading=noised",
    "synapse.kind=context_mix",
    "denoiser.trainable=all",
    "denoiser.gradient_checkpointing=false",
    "denoiser.compile=false",
    "data.precompute.enabled=false",
    "trainer.precision=32-true",
    "optim.ema_decay=0",
    "diffusion.prediction_type=v_prediction",
    "diffusion.loss_space=output",
    "diffusion.min_snr_gamma=5",
    "diffusion.pure_noise_share=0",
    "sampling.sampler=ddim",
    "sampling.num_inference_steps=200",
    "sampling.guidance_scale=3",
    "music_vae.texture_steps=0",
    "vocoder.mel_corrections=0",
    "data.global_batch_size=8",  # the release steps after 8 samples, one at a time
)


def ours(size: str, folder: Path, keys: Sequence[str] = ()) -> Config:
    """The configuration of a size, on a small drawn corpus in the folder; `keys` are laid over it."""
    published = published_sizes(folder) if size == "full" else ()
    where = (f"data.path={folder / 'data'}", f"runs_dir={folder / 'runs'}")
    config = load_config(SIZES[size].config, [*SIZES[size].keys, *OURS, *where, *published, *keys])
    attention_in_float32_on_cpu()
    ensure_corpus(config)
    return config


def reference(size: str, folder: Path, keys: Sequence[str] = ()) -> Config:
    """The same data and sizes of networks in the setting of the released code."""
    kept = [key for key in keys if not key.startswith("synapse.")]  # those of another kind
    return ours(size, folder, [*kept, *REFERENCE])


def refuse(size: str) -> None:
    """ConfigError where this machine cannot hold what the size needs."""
    least = SIZES[size].least_gib
    there = torch.cuda.mem_get_info()[1] / 2**30 if torch.cuda.is_available() else 0
    if there < least:
        has = f"this one has {there:.0f} GiB" if there else "there is none"
        raise ConfigError(f"size={size} needs a GPU of {least} GiB, and {has}: give size=small.")


def published_sizes(folder: Path) -> tuple[str, ...]:
    """Random networks of the sizes of HiFi-GAN and T5-large, whose twins are smaller; the keys that name their folders."""
    vocoder, text = folder / "hifigan", folder / "t5-large"
    if not vocoder.is_dir():
        rates = {"upsample_rates": [5, 4, 2, 2, 2], "upsample_kernel_sizes": [16, 16, 8, 4, 4]}
        shape = SpeechT5HifiGanConfig(model_in_dim=64, upsample_initial_channel=1024, sampling_rate=16000, **rates)
        SpeechT5HifiGan(shape).save_pretrained(vocoder)
    if not text.is_dir():
        sizes = {"d_model": 1024, "d_kv": 64, "d_ff": 2816, "num_layers": 24, "num_heads": 16}
        T5EncoderModel(T5Config(vocab_size=32128, feed_forward_proj="gated-gelu", **sizes)).save_pretrained(text)
        byte_tokenizer().save_pretrained(text)
    return f"vocoder.weights={vocoder}", f"text_encoder.weights={text}"


def built(config: Config) -> MeLFusion:
    """The system on the device, its frozen parts in the type of the run's precision."""
    return keep_frozen(system(config).to(best_device()), resolve_precision(config.trainer))


def batches(config: Config, model: MeLFusion, size: int) -> list[MusicBatch]:
    """The samples of one step, on the device, `size` at once; precomputed where the configuration says so."""
    parts = config.data.global_batch_size // size
    alone = override(config, ["data.num_workers=0", "trainer.micro_batch_size=null", f"trainer.accumulate={parts}"])
    data = training_data(alone, model, StageClock())
    data.setup()
    loader = iter(data.train_dataloader())
    return [next(loader).to(model.device) for _ in range(parts)]


def picture(config: Config) -> tuple[str, Tensor]:
    """Caption and picture (1, 3, H, W) of the first sample."""
    data = MusicDataModule(config.data, config.audio, config.seed)
    item = data.dataset("val")[0]
    return item["caption"], torch.as_tensor(item["image"])[None]


def denoise_both(model: MeLFusion, latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
    """One pass as the released code makes it: the image model reads the picture for each branch of guidance anew."""
    seen = conditioning.image_latents, conditioning.image_noise
    widened = [t if t is None else t.repeat(len(conditioning) // len(t), *[1] * (t.ndim - 1)) for t in seen]
    return model.denoise(latents, timesteps, dataclasses.replace(conditioning, image_latents=widened[0], image_noise=widened[1]))


@torch.no_grad()
def reference_clip(model: MeLFusion, config: Config, caption: str, image: Tensor) -> Tensor:
    """One clip as the released code makes it: 200 steps, both networks under guidance; returns the waveform (1, S)."""
    known = model.see(model.encode_captions([caption], None), image, [0])
    scale = config.sampling.guidance_scale
    denoise = guided(lambda *args: denoise_both(model, *args), known, model.null(known), scale, scale)
    noise = model.draw("noise", [0], model.latent_shape())
    return model.vocode(model.codec.decode(model.objective.sample(denoise, noise, config.sampling.num_inference_steps)))
