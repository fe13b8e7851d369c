"""Config → objects: the only file that knows concrete classes. Each part comes from weights or from random init."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    CLIPTextModel,
    CLIPVisionModel,
    SpeechT5HifiGan,
    T5EncoderModel,
)

from melfusion.audio import AudioGeometry, LogMel
from melfusion.clip_features import ClipFeatures
from melfusion.config import to_dict
from melfusion.diffusion import alphas_cumprod
from melfusion.export import STATISTICS, STATISTICS_FILE, TEXTURE_FOLDER
from melfusion.export import export_part as export_part
from melfusion.frozen import freeze
from melfusion.image_features import ImageFeatureExtractor
from melfusion.judge import NETWORKS, Judge, JudgeNetwork
from melfusion.layouts import TANGO_FILE
from melfusion.melfusion import MeLFusion
from melfusion.music_vae import MusicVAE
from melfusion.optim import TrainedModule
from melfusion.pretrained import (
    PART_FILE,
    check_pipeline,
    empty_prompt,
    load_statistics,
    load_tango,
    loaded,
    pretrained,
    read_part,
    sized,
    stored_schedule,
    tango_state,
)
from melfusion.sampler import make_scheduler
from melfusion.schema import Config, TextEncoderConfig
from melfusion.text_encoder import TextEncoder
from melfusion.texture import Texture
from melfusion.towers import ImageTower, Towers
from melfusion.twins import byte_tokenizer, random_clip_vision, random_image_vae, random_text_network, random_unet
from melfusion.unet import SynapticUNet
from melfusion.vocoder import GriffinLim, HifiGan, Vocoder, Vocos
from melfusion.weights_source import WeightsError, resolve


def music_vae(config: Config) -> MusicVAE:
    """MusicVAE from a diffusers folder (AudioLDM's `vae`, or our export with its statistics) or random init."""
    c, folder = config.music_vae, _folder(config, "music_vae")
    if folder is None:
        levels = len(c.block_out_channels)
        autoencoder = AutoencoderKL(
            in_channels=c.patch_size**2, out_channels=c.patch_size**2, latent_channels=c.latent_channels,
            block_out_channels=c.block_out_channels,
            down_block_types=["DownEncoderBlock2D"] * levels, up_block_types=["UpDecoderBlock2D"] * levels,
            layers_per_block=c.layers_per_block, norm_num_groups=c.norm_num_groups, scaling_factor=1.0,
            mid_block_add_attention=c.mid_block_attention,
        )  # fmt: skip
    else:
        autoencoder = pretrained(AutoencoderKL, folder)
    if autoencoder.config.latent_channels != c.latent_channels:
        raise WeightsError(f"music_vae.weights: {folder} has {autoencoder.config.latent_channels} latent channels, but "
                           f"music_vae.latent_channels={c.latent_channels}: set it to what the weights have.")  # fmt: skip
    if c.trainable != "all" and folder is None:
        raise WeightsError(f"music_vae.trainable={c.trainable} keeps the encoder of music_vae.weights, and there are none: "
                           "give weights.")  # fmt: skip
    vae = MusicVAE(autoencoder, LogMel(config.audio), c.mel_mean, c.mel_std, c.kl_weight, config.optim, config.trainer.max_steps,
                   c.modulation_weight, c.trainable, texture(config, folder), c.texture_steps)  # fmt: skip
    if folder is not None and (folder / STATISTICS_FILE).is_file():
        _check_front_end(load_statistics(vae, folder / STATISTICS_FILE, STATISTICS), config, "music_vae")
    return vae


def texture(config: Config, folder: Path | None) -> Texture | None:
    """What lies beside a music VAE's weights; a VAE in training has none but the one that trains, since it fits one decoder."""
    c = config.music_vae
    if config.task == "music_vae":
        sizes = {"patch_size": min(4, c.downsampling), "width": c.texture_width, "blocks": c.texture_blocks}
        return Texture(c.latent_channels, **sizes) if c.trainable == "texture" else None
    if folder is None or not (folder / TEXTURE_FOLDER / PART_FILE).is_file():
        return None
    made_for, sizes = read_part(folder / TEXTURE_FOLDER)
    _check_audio(made_for, config, "music_vae")
    return sized(Texture, folder / TEXTURE_FOLDER, c.latent_channels, **sizes)


def vocoder(config: Config) -> Vocoder:
    """HiFi-GAN from a transformers folder, or Griffin-Lim."""
    c, folder = config.vocoder, _folder(config, "vocoder")
    training = (LogMel(config.audio), c.segment_frames, config.optim, config.trainer.max_steps)
    if folder is None:
        griffin_lim = c.kind == "griffin_lim"
        network = GriffinLim(config.audio, c.griffin_lim_iterations) if griffin_lim else Vocos(config.audio, c.width, c.blocks)
        return Vocoder(network, *training)
    if (folder / PART_FILE).is_file():
        made_for, sizes = read_part(folder)
        _check_audio(made_for, config, "vocoder")
        return Vocoder(sized(Vocos, folder, config.audio, **sizes), *training, c.mel_corrections)
    network = pretrained(SpeechT5HifiGan, folder)
    if network.config.model_in_dim != config.audio.n_mels:
        raise WeightsError(f"vocoder.weights: {folder} reads {network.config.model_in_dim} mels, but "
                           f"audio.n_mels={config.audio.n_mels}: use a vocoder trained for this audio.")  # fmt: skip
    if (hop := math.prod(network.config.upsample_rates)) != config.audio.hop_length_samples:
        raise WeightsError(f"vocoder.weights: {folder} makes {hop} samples of a mel frame, but "
                           f"audio.hop_length_samples={config.audio.hop_length_samples}.")  # fmt: skip
    return Vocoder(HifiGan(network, config.audio.hop_length_samples), *training, c.mel_corrections)


def judge(config: Config) -> Judge:
    """The classifier of sounds, from a folder this project wrote or random init."""
    c, folder = config.judge, _folder(config, "judge")

    # the first judges were written before there were kinds
    def sized_judge(width: int, embedding: int, attributes: dict[str, list[str]], kind: str = "conv") -> Judge:
        front_end, network = NETWORKS[kind]
        hears, attributes = front_end(config.audio), {name: list(classes) for name, classes in attributes.items()}
        network = network(hears.shape(0)[1], width, embedding)
        made = Judge(network, hears, attributes, embedding, config.optim, config.trainer.max_steps)
        made.sizes = {"kind": kind, "width": width, "embedding": embedding, "attributes": attributes}
        return made

    if folder is None:
        return sized_judge(c.width, c.embedding, c.attributes, c.kind)
    made_for, sizes = read_part(folder)
    _check_audio(made_for, config, "judge")
    return sized(sized_judge, folder, **sizes)


def towers(config: Config) -> Towers:
    """The contrastive models with the text encoder they were trained with, from a folder this project wrote or random init."""
    c, folder = config.towers, _folder(config, "towers")

    def sized_towers(**sizes: Any) -> Towers:
        width, embedding, text = sizes["width"], sizes["embedding"], TextEncoderConfig(**sizes["text_encoder"])
        with _seeded(config.seed):  # so a random twin of the text encoder is the one that the towers were trained with
            encoder = freeze(text_encoder(dataclasses.replace(config, text_encoder=text)))
        sound = JudgeNetwork(config.audio.n_mels, width, embedding)
        made = Towers(ImageTower(width, embedding), sound, LogMel(config.audio), encoder, embedding, config.optim,
                      config.trainer.max_steps)  # fmt: skip
        made.sizes = sizes
        return made

    if folder is None:
        return sized_towers(width=c.width, embedding=c.embedding, text_encoder=dataclasses.asdict(config.text_encoder))
    made_for, sizes = read_part(folder)
    _check_audio(made_for, config, "towers")
    return sized(sized_towers, folder, **sizes)


def text_encoder(config: Config) -> TextEncoder:
    """T5, CLIP or BERT-like encoder from a transformers folder, or a random twin."""
    c, folder = config.text_encoder, _folder(config, "text_encoder")
    if folder is None:
        return TextEncoder(random_text_network(c), byte_tokenizer(), c.max_length, c.max_words)
    kind = loaded(AutoConfig, folder).model_type
    cls = {"t5": T5EncoderModel, "clip": CLIPTextModel, "clip_text_model": CLIPTextModel}.get(kind, AutoModel)
    tokenizer = loaded(AutoTokenizer, folder)
    if (
        len(set(tokenizer(["a b c d e f"])["input_ids"][0])) < 4
    ):  # transformers makes up an empty one where there is none
        raise WeightsError(
            f"text_encoder.weights: {folder} holds no tokenizer that knows words; add its tokenizer files."
        )
    network = pretrained(cls, folder)
    if c.max_length > (longest := getattr(network.config, "max_position_embeddings", c.max_length)):
        raise WeightsError(f"text_encoder.max_length={c.max_length} is more than the {longest} positions of {folder}.")
    return TextEncoder(network, tokenizer, c.max_length, c.max_words)


def image_features(config: Config, layers: list[str] | None = None) -> ImageFeatureExtractor:
    """The image-diffusion model from a pipeline folder (unet, vae, text_encoder, tokenizer) or random init."""
    c, folder = config.image, _folder(config, "image")
    schedule, prediction_type = config.diffusion, c.prediction_type
    if folder is None:
        unet = random_unet(c, 4 if c.vae else 3, c.cross_attention_dim)
        vae = random_image_vae(c) if c.vae else None
        prompt = torch.zeros(1, 1, c.cross_attention_dim)
    else:
        check_pipeline(folder)
        unet = pretrained(UNet2DConditionModel, folder / "unet")
        vae = pretrained(AutoencoderKL, folder / "vae") if (folder / "vae").is_dir() else None
        prompt = empty_prompt(folder, unet.config.cross_attention_dim)
        schedule, prediction_type = stored_schedule(folder / "scheduler" / "scheduler_config.json")
    return ImageFeatureExtractor(
        unet, vae, prompt, alphas_cumprod(schedule), layers, c.reading, c.grid_steps, c.fixed_timestep,
        prediction_type, config.optim, config.trainer.max_steps, config.data.val_items,
    )  # fmt: skip


def clip_features(config: Config) -> ClipFeatures:
    """CLIP's vision transformer from a transformers folder, or a random twin of 8×8 patches."""
    c, folder = config.image, _folder(config, "image")
    network = random_clip_vision(c, config.data.image_size_px) if folder is None else pretrained(CLIPVisionModel, folder)
    return ClipFeatures(network)


LOOKS = {"diffusion": image_features, "clip": clip_features}  # what may look at the picture


def synaptic_unet(config: Config, text_width: int, image_unet: UNet2DConditionModel | int | None) -> SynapticUNet:
    """The music UNet with its synapse, from a diffusers folder, Tango's published file, or random init."""
    c, s, folder = config.unet, config.synapse, _folder(config, "unet")
    if folder is None:
        unet = random_unet(c, config.music_vae.latent_channels, text_width)
    elif (folder / TANGO_FILE).is_file():
        state = tango_state(folder / TANGO_FILE)
        # the published UNet has linear layers around its transformer blocks, where the default are 1×1 convolutions
        linear = any(k.endswith("proj_in.weight") and v.ndim == 2 for k, v in state.items())
        flags = {"use_linear_projection": linear, "upcast_attention": linear}
        # drawn at random first, for some seconds at full size, so that the parts after it draw the same numbers as ever
        unet = random_unet(c, config.music_vae.latent_channels, text_width, **flags)
        load_tango(unet, state, folder / TANGO_FILE)
    else:
        unet = pretrained(UNet2DConditionModel, folder / "unet" if (folder / "unet").is_dir() else folder)
    if unet.config.in_channels != config.music_vae.latent_channels:
        raise WeightsError(f"unet.weights: {folder} denoises {unet.config.in_channels} channels, but "
                           f"music_vae.latent_channels={config.music_vae.latent_channels}.")  # fmt: skip
    if unet.config.cross_attention_dim != text_width:
        raise WeightsError(f"unet.weights: {folder} attends to text of width {unet.config.cross_attention_dim}, but the "
                           f"text encoder gives {text_width}: choose the encoder it was trained with.")  # fmt: skip
    if c.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    trainable = {"auto": "all" if folder is None or s.kind == "none" else "decoder"}.get(c.trainable, c.trainable)
    return SynapticUNet(unet, image_unet, s.kind, s.layers, trainable, alpha_share=s.alpha_share,
                        alpha_init=s.alpha_init, match=s.match, num_tokens=s.image_tokens, match_scale=s.match_scale)  # fmt: skip


def system(config: Config, seed_parts: bool = True) -> MeLFusion:
    """The whole of MeLFusion. Random twins are drawn from config.seed, the same in every process."""
    if (folder := _folder(config, "unet")) and (folder / TANGO_FILE).is_file():
        _check_front_end(TANGO_FRONT_END, config, "unet")
    with _seeded(config.seed) if seed_parts else contextlib.nullcontext():
        text = freeze(text_encoder(config))
        extractor = freeze(LOOKS[config.image.model](config)) if config.synapse.kind != "none" else None
        unet = synaptic_unet(config, text.width, extractor.seen_by if extractor else None)
        vae, sound = freeze(music_vae(config)), freeze(vocoder(config))
    if extractor is not None:
        extractor.layers = list(unet.synapse.specs)
    latent_shape = AudioGeometry(config.audio).latent_shape(config.music_vae.latent_channels, vae.downsampling)
    return MeLFusion(
        unet=unet, music_vae=vae, text_encoder=text, extractor=extractor, vocoder=sound, log_mel=LogMel(config.audio),
        alpha_bar=alphas_cumprod(config.diffusion), diffusion=config.diffusion, optim=config.optim, latent_shape=latent_shape,
        scheduler=lambda: make_scheduler(config.sampling.sampler, config.diffusion), max_steps=config.trainer.max_steps,
        val_items=config.data.val_items, config=to_dict(config),
    )  # fmt: skip


PARTS = {"music_vae": music_vae, "vocoder": vocoder, "image_diffusion": image_features, "judge": judge, "towers": towers}


def part(config: Config) -> TrainedModule:
    """The part that trains itself under the task of its name, on random init or its weights."""
    with _seeded(config.seed):
        return PARTS[config.task](config)


def noise_shapes(config: Config, system: nn.Module) -> dict[str, tuple]:
    """Per-sample normal draws that training, precompute and validation of this task need."""
    down = config.music_vae.downsampling
    if isinstance(system, MusicVAE | MeLFusion):
        vae = system if isinstance(system, MusicVAE) else system.music_vae
        down = vae.downsampling
    latent = AudioGeometry(config.audio).latent_shape(config.music_vae.latent_channels, down)
    if config.task == "music_vae":
        drawn = system.texture.noise_shape(latent[1] * down, latent[2] * down) if system.texture else None
        return {"vae_noise": latent} | ({"noise": drawn} if drawn else {})
    if config.task == "vocoder":
        return {}
    if config.task in ("judge", "towers"):
        return {"augment": system.log_mel.shape(AudioGeometry(config.audio).num_samples)}
    side = config.data.image_size_px
    if config.task == "image_diffusion":
        return {"image_noise": system.noise_shape(side, side)}
    shapes, extractor = {"vae_noise": latent, "noise": latent}, system.extractor
    noised = extractor is not None and extractor.reading == "noised"
    return shapes | ({"image_noise": extractor.noise_shape(side, side)} if noised else {})


def _check_audio(made_for: dict, config: Config, name: str) -> None:
    """A part that reads log-mels fits one kind of them."""
    for key in ("sample_rate_hz", "n_fft_samples", "hop_length_samples", "n_mels", "f_min_hz", "f_max_hz"):
        if made_for[key] != (here := getattr(config.audio, key)):
            raise WeightsError(f"{name}.weights={getattr(config, name).weights!r} was trained for audio.{key}="
                               f"{made_for[key]}, but it is {here} here: choose another {name} or that audio.")  # fmt: skip
    _check_front_end(made_for, config, name)


TANGO_FRONT_END = {"framing": "centred", "level": "peak"}  # of the log-mels that Tango's UNet was trained on (audio.py)
FRONT_END = {"framing": "hifigan", "level": "rms"}  # of parts that were written before these keys were there


def _check_front_end(made_for: dict, config: Config, name: str) -> None:
    """WeightsError where log-mels are framed or levelled in another way than a part was trained with."""
    for key, before in FRONT_END.items():
        if (was := made_for.get(key, before)) != (here := getattr(config.audio, key)):
            raise WeightsError(f"{name}.weights={getattr(config, name).weights!r} was trained for audio.{key}={was}, but it is "
                               f"{here} here: choose another {name} or audio.{key}={was}.")  # fmt: skip


def _folder(config: Config, name: str) -> Path | None:
    weights = getattr(config, name).weights
    return None if weights is None else resolve(weights, name, config.runs_dir)


@contextlib.contextmanager
def _seeded(seed: int):
    """Random init of all parts from one seed, without touching the caller's generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
