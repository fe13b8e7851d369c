"""Judge and towers; built, measured and exported."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from melfusion.assembly.conditioner import text_encoder
from melfusion.assembly.schema import Config
from melfusion.assembly.weights import FRONT_END, MEL, check_audio, check_front_end, seeded, weights_folder
from melfusion.listeners.embedders import Resampled
from melfusion.listeners.judge import Judge
from melfusion.listeners.judge_networks import NETWORKS, JudgeNetwork
from melfusion.listeners.towers import ImageTower, Towers
from melfusion.media.mel import AudioGeometry, LogMel
from melfusion.media.options import AudioConfig
from melfusion.models.device import best_device
from melfusion.models.frozen import freeze
from melfusion.models.options import TextEncoderConfig
from melfusion.models.published import read_part, sized, write_part


def input_audio(config: Config, made_for: dict[str, Any] | None = None, name: str = "") -> AudioConfig:
    """The audio that a listener takes, in one channel; `made_for`: what its weights were trained for, if it has any.

    Beside a codec over log-mels it must be the configuration's own (WeightsError). What a codec over waveforms makes is brought to
    what the listener was trained for.
    """
    if config.codec.READS_MEL:
        if made_for is not None:
            check_audio(made_for, config, name)
        return config.audio
    if made_for is None:
        return dataclasses.replace(config.audio, channels=1)
    audio = dataclasses.replace(config.audio, channels=1, **{key: made_for[key] for key in MEL})
    audio.framing = made_for.get("framing", FRONT_END["framing"])
    check_front_end(made_for, dataclasses.replace(config, audio=audio), name)
    return audio


def at_rate(front_end: Any, config: Config, audio: AudioConfig) -> Any:
    """The front end for clips of the configuration's rate."""
    rate = config.audio.sample_rate_hz
    return front_end if audio.sample_rate_hz == rate else Resampled(front_end, rate, audio.sample_rate_hz)


def judge(config: Config) -> Judge:
    """The classifier of clips, from a folder that this project wrote or random init."""
    c, folder = config.judge, weights_folder(config, "judge")
    made_for, sizes = (None, {}) if folder is None else read_part(folder)
    audio = input_audio(config, made_for, "judge")

    # the first judges were written before there were kinds
    def sized_judge(width: int, embedding: int, attributes: dict[str, list[str]], kind: str = "conv") -> Judge:
        front_end, make_network = NETWORKS[kind]
        log_mel: Any = at_rate(front_end(audio), config, audio)
        attributes = {name: list(classes) for name, classes in attributes.items()}
        sizes = {"kind": kind, "width": width, "embedding": embedding, "attributes": attributes}
        network = make_network(log_mel.shape(0)[1], width, embedding)
        return Judge(network, log_mel, attributes, embedding, config.optim, config.trainer.max_steps, sizes)

    if folder is None:
        return sized_judge(c.width, c.embedding, c.attributes, c.kind)
    return sized(sized_judge, folder, **sizes)


def frozen_judge(config: Config, weights: str | None) -> Judge | None:
    """The judge of these weights on the device that computes; None for none."""
    if not weights:
        return None
    of_weights = dataclasses.replace(config, judge=dataclasses.replace(config.judge, weights=weights))
    return freeze(judge(of_weights)).to(best_device())


def towers(config: Config) -> Towers:
    """The contrastive models with the text encoder they were trained with, from a folder that this project wrote or random init."""
    c, folder = config.towers, weights_folder(config, "towers")
    made_for, stored = (None, {}) if folder is None else read_part(folder)
    audio = input_audio(config, made_for, "towers")

    def sized_towers(**sizes: Any) -> Towers:
        width, embedding, text = sizes["width"], sizes["embedding"], TextEncoderConfig(**sizes["text_encoder"])
        with seeded(config.seed):  # so a random twin of the text encoder is the one that the towers were trained with
            encoder = freeze(text_encoder(dataclasses.replace(config, text_encoder=text)))
        sound = JudgeNetwork(audio.n_mels, width, embedding)
        pictures, steps = ImageTower(width, embedding), config.trainer.max_steps
        return Towers(pictures, sound, at_rate(LogMel(audio), config, audio), encoder, embedding, config.optim, steps, sizes)

    if folder is None:
        return sized_towers(width=c.width, embedding=c.embedding, text_encoder=dataclasses.asdict(config.text_encoder))
    return sized(sized_towers, folder, **stored)


def augment_noise(config: Config, module: Any) -> dict[str, tuple[int, ...]]:
    return {"augment": module.log_mel.shape(AudioGeometry(config.audio).num_samples)}


def export_listener(module: Judge | Towers, config: Config, folder: Path) -> None:
    """All but what is frozen in it, with the sizes it was built with."""
    write_part(module, folder, config.audio, module.sizes)
