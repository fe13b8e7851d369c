"""diffusers' own pipelines at tiny random sizes, and this project's system on the same networks."""

import torch
from diffusers import (
    AceStepPipeline,
    AceStepTransformer1DModel,
    AudioLDM2Pipeline,
    AudioLDMPipeline,
    AutoencoderKL,
    AutoencoderOobleck,
    AutoencoderSAME,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    StableAudio3DiTModel,
    StableAudio3Pipeline,
    StableAudioDiTModel,
    StableAudioPipeline,
)
from transformers import GPT2LMHeadModel, SpeechT5HifiGan, SpeechT5HifiGanConfig

from melfusion.assembly.conditioner import BUILD as CONDITIONERS
from melfusion.assembly.configuration import load_config
from melfusion.assembly.denoiser import BUILD as BACKBONES
from melfusion.assembly.weights import seeded
from melfusion.media.mel import LogMel
from melfusion.models.codec import MusicCodec
from melfusion.models.codecs.oobleck import Oobleck
from melfusion.models.codecs.same import Same
from melfusion.models.diffusion.objective import OBJECTIVES
from melfusion.models.frozen import freeze
from melfusion.models.hifigan import HifiGan
from melfusion.models.mel_codec import MelCodec
from melfusion.models.music_vae import MusicVAE
from melfusion.models.system import MeLFusion
from melfusion.models.vocoder import Vocoder

RATE, HOP, FRAMES = 160, 8, 16  # samples a second, samples in a latent frame, latent frames of a clip
SECONDS = FRAMES * HOP / RATE


class Latents(MusicCodec):
    """Latents are what comes out: `codec_of` decodes them."""

    sample_rate_hz = RATE

    def __init__(self, shape):
        super().__init__()
        self.shape = shape

    def latent_shape(self, duration_s, multiple=1):
        return self.shape

    def decode(self, latents):
        return latents


MEL = ("audioldm", "audioldm2")  # whose latents are of log-mels

OVERRIDES = {
    "stable_audio": ["diffusion.kind=cosine", "sampling.sampler=dpm_sde"],
    "stable_audio_3": ["diffusion.kind=flow", "diffusion.logsnr=[-6.2,2.0]", "sampling.sampler=ping_pong"],
    "ace_step": ["diffusion.kind=flow", "diffusion.shift=3.0", "diffusion.guidance=apg", "sampling.sampler=euler"],
    **dict.fromkeys(MEL, ["diffusion.beta_start=0.0015", "diffusion.beta_end=0.0195"]),
}


def config_of(name, *overrides):
    """Of a random twin without a picture."""
    kinds = [f"denoiser.kind={name}", f"conditioner.kind={name}", "synapse.kind=none", f"audio.clip_duration_s={SECONDS}"]
    audio = ["audio.sample_rate_hz=160", "audio.hop_length_samples=8", "audio.n_fft_samples=8", "audio.f_max_hz=80"]
    mel = ["music_vae.block_out_channels=[4]", *audio]
    config = load_config("tiny", [*kinds, *mel, *OVERRIDES[name], *overrides])
    if name in MEL:
        config.sampling.sampler = "published"  # its scheduler comes from the pipeline
    return config


def parts_of(name, *overrides, seed=5):
    """Configuration, conditioner and backbone of a random twin."""
    config = config_of(name, *overrides)
    with seeded(seed):
        conditioner = freeze(CONDITIONERS[name](config))
        backbone = BACKBONES[name](config, conditioner.width, None)
        for parameter in [*backbone.parameters(), *conditioner.parameters()]:
            if parameter.ndim > 1:  # as they start, some are zero, and what is asked for changes hardly anything
                torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return config, conditioner, backbone.eval()


def system_of(config, conditioner, backbone, scheduler=None):
    """The system of these parts."""
    shape = (4, FRAMES, 4) if config.denoiser.kind in MEL else (16, FRAMES)
    objective = OBJECTIVES[config.diffusion.kind](config.diffusion, config.sampling.sampler, scheduler)
    made = {"objective": objective, "diffusion": config.diffusion, "optim": config.optim}
    return MeLFusion(backbone, freeze(Latents(shape)), conditioner, None, **made, clip_duration_s=SECONDS, max_steps=1).eval()


WAVE = {  # class of a pipeline → our codec, and the configuration that says how its peaks are treated
    StableAudioPipeline: (Oobleck, "stable_audio_open"),
    StableAudio3Pipeline: (Same, "stable_audio_3"),
    AceStepPipeline: (Oobleck, "ace_step"),
}


def codec_of(pipe):
    """Our codec over the networks of a pipeline."""
    audio = config_of("ace_step").audio
    if type(pipe) in WAVE:
        cls, name = WAVE[type(pipe)]
        return freeze(cls(pipe.vae, LogMel(audio), 30.0, load_config(name).codec.peak))
    audio = config_of("audioldm2", "audio.sample_rate_hz=1280", "audio.n_mels=16", "audio.f_max_hz=640").audio
    log_mel = LogMel(audio)
    return freeze(MelCodec(MusicVAE(pipe.vae, log_mel), Vocoder(HifiGan(pipe.vocoder, HOP), log_mel), log_mel, audio))


def oobleck():
    sizes = {"encoder_hidden_size": 32, "downsampling_ratios": [2, 4], "channel_multiples": [1, 2], "decoder_channels": 4}
    return AutoencoderOobleck(**sizes, decoder_input_channels=16, audio_channels=2, sampling_rate=RATE).eval()


def flow_scheduler(stochastic):
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=1.0, stochastic_sampling=stochastic)


def stable_audio():
    from diffusers import CosineDPMSolverMultistepScheduler

    config, c, backbone = parts_of("stable_audio")
    assert isinstance(backbone.network, StableAudioDiTModel)
    c.tokenizer.model_max_length = c.max_length
    pipe = StableAudioPipeline(
        oobleck(), c.network, c.projection, c.tokenizer, backbone.network, CosineDPMSolverMultistepScheduler()
    )
    return pipe, system_of(config, c, backbone)


def stable_audio_3(*overrides, stochastic=True):
    config, c, backbone = parts_of("stable_audio_3", *overrides)
    assert isinstance(backbone.network, StableAudio3DiTModel)
    c.tokenizer.model_max_length = c.max_length
    same = {"patch_size": 2, "encoder_channels": 16, "encoder_c_mults": [1], "encoder_strides": [4], "dim_heads": 8}
    vae = AutoencoderSAME(**same, audio_channels=2, encoder_transformer_depths=[1], latent_dim=16, sampling_rate=RATE).eval()
    pipe = StableAudio3Pipeline(vae, c.network, c.tokenizer, c.embedder, backbone.network, flow_scheduler(stochastic))
    return pipe, system_of(config, c, backbone)


def ace_step(*overrides):
    config, c, backbone = parts_of("ace_step", *overrides)
    assert isinstance(backbone.network, AceStepTransformer1DModel)
    c.encoder.silence_latent.normal_(generator=torch.Generator().manual_seed(1))
    c.timbre_frames = 30 * RATE // HOP
    pipe = AceStepPipeline(oobleck(), c.network, c.tokenizer, backbone.network, c.encoder, flow_scheduler(False))
    return pipe, system_of(config, c, backbone)


def ddim_scheduler():
    schedule = {"beta_start": 0.0015, "beta_end": 0.0195, "beta_schedule": "scaled_linear"}
    return DDIMScheduler(**schedule, clip_sample=False, set_alpha_to_one=False, steps_offset=1)


def audioldm2(*overrides):
    config, c, backbone = parts_of("audioldm2", *overrides)
    c.tokenizer.model_max_length, c.clap_tokenizer.model_max_length = c.max_length, 512
    language = GPT2LMHeadModel(c.writer.config).eval()
    language.transformer, language.config.max_new_tokens = c.writer, c.written
    tokenizers = {"tokenizer": c.clap_tokenizer, "tokenizer_2": c.tokenizer, "feature_extractor": None}
    texts = {"text_encoder": c.clap, "text_encoder_2": c.network, "projection_model": c.projection, "language_model": language}
    codec, scheduler = mel_codec(), ddim_scheduler()
    pipe = AudioLDM2Pipeline(**codec, unet=backbone.network, scheduler=scheduler, **tokenizers, **texts)
    return pipe, system_of(config, c, backbone, scheduler)


def audioldm(*overrides):
    """As long a text as its vector is wide: its pipeline pads the empty one to that width."""
    config, c, backbone = parts_of("audioldm", "conditioner.max_length=16", *overrides)
    c.tokenizer.model_max_length, scheduler = c.max_length, ddim_scheduler()
    parts = {"text_encoder": c.network, "tokenizer": c.tokenizer, "unet": backbone.network, "scheduler": scheduler}
    return AudioLDMPipeline(**mel_codec(), **parts), system_of(config, c, backbone, scheduler)


def mel_codec():
    """VAE and vocoder of AudioLDM's family."""
    vae = AutoencoderKL(
        in_channels=1,
        out_channels=1,
        latent_channels=4,
        block_out_channels=[4, 4, 4],
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
        layers_per_block=1,
        norm_num_groups=2,
        scaling_factor=0.4,
    ).eval()
    sizes = {"model_in_dim": 16, "upsample_initial_channel": 8, "upsample_rates": [2, 4], "upsample_kernel_sizes": [4, 8]}
    blocks = {"resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1]], "sampling_rate": 8 * 160}
    vocoder = SpeechT5HifiGan(SpeechT5HifiGanConfig(**sizes, **blocks)).eval()
    return {"vae": vae, "vocoder": vocoder}
