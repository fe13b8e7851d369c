"""The music codec: VAE with its texture, and vocoder; built, measured and exported."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, AutoencoderOobleck, AutoencoderSAME
from transformers import SpeechT5HifiGan

from melfusion.assembly.schema import Config
from melfusion.assembly.weights import check_audio, check_front_end, weights_folder
from melfusion.errors import ConfigError, WeightsError
from melfusion.files import write_whole
from melfusion.media.mel import AudioGeometry, LogMel
from melfusion.models.audioldm_file import audioldm_vae, audioldm_vocoder
from melfusion.models.codec import MusicCodec
from melfusion.models.codecs.oobleck import Oobleck
from melfusion.models.codecs.options import WaveCodecConfig
from melfusion.models.codecs.same import Same
from melfusion.models.codecs.wave import WaveCodec
from melfusion.models.griffin_lim import GriffinLim
from melfusion.models.hifigan import HifiGan
from melfusion.models.layout_names import PART_FILE
from melfusion.models.mel_codec import MelCodec
from melfusion.models.music_vae import MusicVAE
from melfusion.models.published import load_statistics, pretrained, read_part, save_network, sized, stored_settings, write_part
from melfusion.models.published_sizes import published
from melfusion.models.texture import Texture
from melfusion.models.twins import random_music_vae, random_oobleck, random_same
from melfusion.models.vocoder import Vocoder
from melfusion.models.vocos import Vocos

STATISTICS_FILE = "melfusion.json"  # beside exported weights: what diffusers' own config has no key for

STATISTICS = ("mel_mean", "mel_std", "latent_mean", "latent_std")  # all that stands in it

TEXTURE_FOLDER = "texture"  # in that of a music VAE


def mel_codec(config: Config) -> MelCodec:
    """VAE and vocoder as one codec."""
    return MelCodec(music_vae(config), vocoder(config), LogMel(config.audio), config.audio)


def wave_codec(config: Config, cls: Any, network: Any, random: Callable[[Any, Any], Any]) -> WaveCodec:
    """A VAE over waveforms from a diffusers folder, or a pipeline's, or random init; refused before its weights are read."""
    c, folder = config.codec, weights_folder(config, "codec")
    assert isinstance(c, WaveCodecConfig)
    if folder is None:
        return check_frames(cls(random(c, config.audio), LogMel(config.audio), c.chunk_s, c.peak), config)
    folder = folder / "vae" if (folder / "vae").is_dir() else folder
    stored = stored_settings(network, folder)
    for key, name in (("sample_rate_hz", "sampling_rate"), ("channels", "audio_channels")):
        if stored[name] != (here := getattr(config.audio, key)):
            raise WeightsError(
                f"codec.weights: {folder} is of audio.{key}={stored[name]}, but here it is {here}: set that, or use another codec."
            )
    return check_frames(cls(pretrained(network, folder), LogMel(config.audio), c.chunk_s, c.peak), config)


def check_frames(codec: WaveCodec, config: Config) -> WaveCodec:
    """ConfigError where a clip has another number of latent frames than the denoiser takes."""
    seconds, multiple = config.audio.clip_duration_s, config.denoiser.frames_multiple
    if codec.latent_shape(seconds) == codec.latent_shape(seconds, multiple):
        return codec
    raise ConfigError(
        f"audio.clip_duration_s={seconds} is {codec.latent_shape(seconds)[1]} latent frames, and the denoiser takes multiples of "
        f"{multiple}: give {codec.duration_s(codec.latent_shape(seconds, multiple)):g} s."
    )


def music_vae(config: Config) -> MusicVAE:
    """MusicVAE from a diffusers folder (AudioLDM's `vae`, or our export with its statistics), AudioLDM's file, or random init."""
    c, folder = config.music_vae, weights_folder(config, "music_vae")
    autoencoder = random_music_vae(c) if folder is None else READ["music_vae"](folder)
    if autoencoder.config.latent_channels != c.latent_channels:
        raise WeightsError(
            f"music_vae.weights: {folder} has {autoencoder.config.latent_channels} latent channels, but "
            f"music_vae.latent_channels={c.latent_channels}: set it to what the weights have."
        )
    if c.trainable != "all" and c.weights is None:
        raise WeightsError(
            f"music_vae.trainable={c.trainable} keeps the encoder of music_vae.weights, and there are none: give weights."
        )
    vae = MusicVAE(
        autoencoder,
        LogMel(config.audio),
        c.mel_mean,
        c.mel_std,
        c.kl_weight,
        config.optim,
        config.trainer.max_steps,
        c.modulation_weight,
        c.trainable,
        texture(config, folder),
        c.texture_steps,
        c.stats_items,
    )
    if folder is not None and (folder / STATISTICS_FILE).is_file():
        check_front_end(load_statistics(vae, folder / STATISTICS_FILE, STATISTICS), config, "music_vae")
    return vae


def texture(config: Config, folder: Path | None) -> Texture | None:
    """The texture beside a music VAE's weights. In training only the one that trains: a texture fits one decoder."""
    c = config.music_vae
    if config.task == "music_vae":
        sizes = {"patch_size": min(4, c.downsampling), "width": c.texture_width, "blocks": c.texture_blocks}
        return Texture(c.latent_channels, **sizes) if c.trainable == "texture" else None
    if folder is None or not (folder / TEXTURE_FOLDER / PART_FILE).is_file():
        return None
    made_for, sizes = read_part(folder / TEXTURE_FOLDER)
    check_audio(made_for, config, "music_vae")
    return sized(Texture, folder / TEXTURE_FOLDER, c.latent_channels, **sizes)


def vocoder(config: Config) -> Vocoder:
    """HiFi-GAN from a transformers folder or AudioLDM's file, or Griffin-Lim."""
    c, folder = config.vocoder, weights_folder(config, "vocoder")
    training = (LogMel(config.audio), c.segment_frames, config.optim, config.trainer.max_steps)
    if folder is None and c.weights is not None:
        network = published(c.weights, "vocoder", config.sources)
        return Vocoder(HifiGan(network, config.audio.hop_length_samples), *training, c.mel_corrections)
    if folder is None:
        griffin_lim = c.kind == "griffin_lim"
        network = GriffinLim(config.audio, c.griffin_lim_iterations) if griffin_lim else Vocos(config.audio, c.width, c.blocks)
        return Vocoder(network, *training)
    if (folder / PART_FILE).is_file():
        made_for, sizes = read_part(folder)
        check_audio(made_for, config, "vocoder")
        return Vocoder(sized(Vocos, folder, config.audio, **sizes), *training, c.mel_corrections)
    network = READ["vocoder"](folder)
    if network.config.model_in_dim != config.audio.n_mels:
        raise WeightsError(
            f"vocoder.weights: {folder} reads {network.config.model_in_dim} mels, but "
            f"audio.n_mels={config.audio.n_mels}: use a vocoder trained for this audio."
        )
    if (hop := math.prod(network.config.upsample_rates)) != config.audio.hop_length_samples:
        raise WeightsError(
            f"vocoder.weights: {folder} makes {hop} samples of a mel frame, but "
            f"audio.hop_length_samples={config.audio.hop_length_samples}."
        )
    return Vocoder(HifiGan(network, config.audio.hop_length_samples), *training, c.mel_corrections)


# a part of AudioLDM → its network from where its weights lie: a folder, or the file of all parts
READ: dict[str, Callable[[Path], Any]] = {
    "music_vae": lambda path: audioldm_vae(path) if path.is_file() else pretrained(AutoencoderKL, path),
    "vocoder": lambda path: audioldm_vocoder(path) if path.is_file() else pretrained(SpeechT5HifiGan, path),
}


def music_vae_noise(config: Config, module: MusicVAE) -> dict[str, tuple[int, ...]]:
    frames, bins = AudioGeometry(config.audio).num_frames, config.audio.n_mels
    shape, down = module.latent_shape(frames, bins), module.downsampling
    drawn = module.texture.noise_shape(shape[1] * down, shape[2] * down) if module.texture else None
    shapes: dict[str, tuple[int, ...]] = {"vae_noise": shape}
    return shapes | {"noise": drawn} if drawn else shapes


def vocoder_noise(config: Config, module: Vocoder) -> dict[str, tuple[int, ...]]:
    return {}


def export_music_vae(module: MusicVAE, config: Config, folder: Path) -> None:
    """diffusers' layout, the statistics of log-mel and latents, and the texture in a folder of its own."""
    save_network(module.autoencoder, folder)
    front_end = {"audio": {"framing": config.audio.framing, "level": config.audio.level}}
    write_whole(folder / STATISTICS_FILE, json.dumps({n: getattr(module, n).tolist() for n in STATISTICS} | front_end))
    if (texture := module.texture) is not None:
        write_part(texture, folder / TEXTURE_FOLDER, config.audio, texture.sizes)


def export_vocoder(module: Vocoder, config: Config, folder: Path) -> None:
    write_part(module.network, folder, config.audio, {"width": config.vocoder.width, "blocks": config.vocoder.blocks})


BUILD: dict[str, Callable[[Config], MusicCodec]] = {
    "mel": mel_codec,
    "oobleck": lambda config: wave_codec(config, Oobleck, AutoencoderOobleck, random_oobleck),
    "same": lambda config: wave_codec(config, Same, AutoencoderSAME, random_same),
}
