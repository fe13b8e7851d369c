"""The conditioners: the request → what the denoiser attends to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffusers.pipelines.ace_step.modeling_ace_step import AceStepConditionEncoder
from diffusers.pipelines.audioldm2 import AudioLDM2ProjectionModel
from diffusers.pipelines.stable_audio.modeling_stable_audio import StableAudioProjectionModel
from diffusers.pipelines.stable_audio_3.modeling_stable_audio_3 import StableAudio3DurationEmbedder
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    ClapModel,
    ClapTextModelWithProjection,
    CLIPTextModel,
    GPT2Model,
    Qwen3Model,
    T5EncoderModel,
    T5GemmaEncoderModel,
)

from melfusion.assembly.schema import Config
from melfusion.assembly.weights import weights_folder
from melfusion.errors import WeightsError
from melfusion.models.audioldm_file import audioldm_clap
from melfusion.models.conditioner import Conditioner
from melfusion.models.conditioners import sizes, twins
from melfusion.models.conditioners.ace_step import AceStepConditioner
from melfusion.models.conditioners.audioldm import AudioLDMConditioner
from melfusion.models.conditioners.audioldm2 import AudioLDM2Conditioner
from melfusion.models.conditioners.options import (
    AceStepConditionerConfig,
    AudioLDM2ConditionerConfig,
    AudioLDMConditionerConfig,
    StableAudio3ConditionerConfig,
    StableAudioConditionerConfig,
)
from melfusion.models.conditioners.stable_audio import StableAudioConditioner
from melfusion.models.conditioners.stable_audio_3 import StableAudio3Conditioner
from melfusion.models.layouts import recognise
from melfusion.models.published import loaded, pretrained
from melfusion.models.published_sizes import published
from melfusion.models.text_encoder import TextEncoder
from melfusion.models.twins import byte_tokenizer, random_text_network


def text_encoder(config: Config) -> TextEncoder:
    """T5, CLIP or BERT-like encoder from a transformers folder, or a random twin."""
    c, folder = config.text_encoder, weights_folder(config, "text_encoder")
    if folder is None:
        network = random_text_network(c) if c.weights is None else published(c.weights, "text_encoder", config.sources)
        return TextEncoder(network, byte_tokenizer(), c.max_length, c.max_words)
    kind = loaded(AutoConfig, folder).model_type
    cls = {"t5": T5EncoderModel, "clip": CLIPTextModel, "clip_text_model": CLIPTextModel}.get(kind, AutoModel)
    tokenizer = tokenizer_of(folder, "text_encoder.weights")
    network = pretrained(cls, folder)
    if c.max_length > (longest := getattr(network.config, "max_position_embeddings", c.max_length)):
        raise WeightsError(f"text_encoder.max_length={c.max_length} is more than the {longest} positions of {folder}.")
    return TextEncoder(network, tokenizer, c.max_length, c.max_words)


def tokenizer_of(folder: Path, option: str = "conditioner.weights") -> Any:
    """The tokenizer of a folder; WeightsError where it knows no words."""
    tokenizer = loaded(AutoTokenizer, folder)
    if len(set(tokenizer(["a b c d e f"])["input_ids"][0])) < 4:  # transformers makes up an empty one where there is none
        raise WeightsError(f"{option}: {folder} holds no tokenizer that knows words; add its tokenizer files.")
    return tokenizer


def of_pipeline(config: Config, names: dict[str, Any]) -> list[Any] | None:
    """The parts of a published pipeline by the names of their folders, tokenizers where there is no class; None without weights.

    Where sizes alone are wanted and no folder is there, the networks are as large as the published ones.
    """
    folder, c = weights_folder(config, "conditioner"), config.conditioner
    if folder is None and getattr(c, "weights", None) is not None:
        made = iter(sizes.PUBLISHED[c.kind]())
        return [byte_tokenizer() if cls is None else next(made) for cls in names.values()]
    if folder is None:
        return None
    if missing := [name for name in names if not (folder / name).is_dir()]:
        layout = recognise(folder)
        if layout.cure:
            raise WeightsError(f"conditioner.weights: {folder} is {layout.what}: {layout.cure}.")
        raise WeightsError(
            f"conditioner.weights: {folder} lacks {', '.join(missing)}: give the whole folder of a pipeline for "
            f"conditioner.kind={c.kind}."
        )
    return [tokenizer_of(folder / name) if cls is None else pretrained(cls, folder / name) for name, cls in names.items()]


def stable_audio(config: Config) -> StableAudioConditioner:
    """Stable Audio Open's T5 and projection."""
    c = config.conditioner
    assert isinstance(c, StableAudioConditionerConfig)
    wanted = {"text_encoder": T5EncoderModel, "tokenizer": None, "projection_model": StableAudioProjectionModel}
    text, tokenizer, projection = of_pipeline(config, wanted) or [
        twins.random_t5(c.hidden_size),
        byte_tokenizer(),
        StableAudioProjectionModel(c.hidden_size, c.width, 0, c.longest_s),
    ]
    return StableAudioConditioner(
        text, tokenizer, projection, max_length=c.max_length, clip_duration_s=config.audio.clip_duration_s
    )


def stable_audio_3(config: Config) -> StableAudio3Conditioner:
    """Stable Audio 3's T5Gemma and duration embedder."""
    c = config.conditioner
    assert isinstance(c, StableAudio3ConditionerConfig)
    wanted = {"text_encoder": T5GemmaEncoderModel, "tokenizer": None, "duration_embedder": StableAudio3DurationEmbedder}
    text, tokenizer, duration = of_pipeline(config, wanted) or [
        twins.random_t5gemma(c.width),
        byte_tokenizer(),
        StableAudio3DurationEmbedder(output_dim=c.width, max_val=c.longest_s),
    ]
    return StableAudio3Conditioner(text, tokenizer, duration, max_length=c.max_length, clip_duration_s=config.audio.clip_duration_s)


def ace_step(config: Config) -> AceStepConditioner:
    """ACE-Step 1.5's language model and condition encoder."""
    c = config.conditioner
    assert isinstance(c, AceStepConditionerConfig)
    wanted = {"text_encoder": Qwen3Model, "tokenizer": None, "condition_encoder": AceStepConditionEncoder}
    text, tokenizer, encoder = of_pipeline(config, wanted) or [
        twins.random_qwen3(c.hidden_size),
        byte_tokenizer(),
        random_condition_encoder(c),
    ]
    frames = round(c.frames_per_s * c.seconds_of_timbre)
    lengths = {"max_length": c.max_length, "lyrics_length": c.lyrics_length, "timbre_frames": frames}
    return AceStepConditioner(
        text, tokenizer, encoder, **lengths, clip_duration_s=config.audio.clip_duration_s, timbre_s=c.seconds_of_timbre
    )


def random_condition_encoder(c: AceStepConditionerConfig) -> AceStepConditionEncoder:
    return AceStepConditionEncoder(
        hidden_size=c.width,
        intermediate_size=2 * c.width,
        text_hidden_dim=c.hidden_size,
        timbre_hidden_dim=c.latent_channels,
        num_lyric_encoder_hidden_layers=2,
        num_timbre_encoder_hidden_layers=2,
        num_attention_heads=twins.HEADS,
        num_key_value_heads=1,
        head_dim=c.width // twins.HEADS,
    )


def audioldm(config: Config) -> AudioLDMConditioner:
    """CLAP's half that reads words, from the folder of a pipeline, the authors' single file, or random init."""
    c, folder = config.conditioner, weights_folder(config, "conditioner")
    assert isinstance(c, AudioLDMConditionerConfig)
    if folder is not None and folder.is_file():
        return AudioLDMConditioner(audioldm_clap(folder), tokenizer_beside(folder, c.tokenizer), c.max_length)
    wanted = {"text_encoder": ClapTextModelWithProjection, "tokenizer": None}
    clap, tokenizer = of_pipeline(config, wanted) or [twins.random_clap_text(c.hidden_size, c.width), byte_tokenizer()]
    return AudioLDMConditioner(clap, tokenizer, c.max_length)


def tokenizer_beside(file: Path, folder: str | None) -> Any:
    """The tokenizer that AudioLDM's file does not hold."""
    if folder is None or not Path(folder).is_dir():
        raise WeightsError(
            f"conditioner.tokenizer={folder}: {file} holds no tokenizer: give the folder of roberta-base's, or as "
            "conditioner.weights the folder of a pipeline, which has one."
        )
    return tokenizer_of(Path(folder), "conditioner.tokenizer")


def audioldm2(config: Config) -> AudioLDM2Conditioner:
    """AudioLDM 2's T5, CLAP, projection and GPT-2."""
    c = config.conditioner
    assert isinstance(c, AudioLDM2ConditionerConfig)
    wanted = {
        "text_encoder_2": T5EncoderModel,
        "tokenizer_2": None,
        "text_encoder": ClapModel,
        "tokenizer": None,
        "projection_model": AudioLDM2ProjectionModel,
        "language_model": GPT2Model,
    }
    positions = c.max_length + c.generated_length + 5
    text, words, clap, tokenizer, projection, gpt2 = of_pipeline(config, wanted) or [
        twins.random_t5(c.width),
        byte_tokenizer(),
        twins.random_clap(c.hidden_size),
        byte_tokenizer(),
        AudioLDM2ProjectionModel(c.hidden_size, c.width, c.generated_width),
        twins.random_gpt2(c.generated_width, positions),
    ]
    return AudioLDM2Conditioner(text, words, clap, tokenizer, projection, gpt2, max_length=c.max_length, written=c.generated_length)


BUILD: dict[str, Callable[[Config], Conditioner]] = {
    "text": text_encoder,
    "audioldm": audioldm,
    "audioldm2": audioldm2,
    "stable_audio": stable_audio,
    "stable_audio_3": stable_audio_3,
    "ace_step": ace_step,
}
