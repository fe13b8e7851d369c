"""Judge and towers; built, measured and exported."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from melfusion.assembly.conditioner import text_encoder
from melfusion.assembly.schema import Config
from melfusion.assembly.weights import check_audio, seeded, weights_folder
from melfusion.listeners.judge import Judge
from melfusion.listeners.judge_networks import NETWORKS, JudgeNetwork
from melfusion.listeners.towers import ImageTower, Towers
from melfusion.media.mel import AudioGeometry, LogMel
from melfusion.models.frozen import freeze
from melfusion.models.options import TextEncoderConfig
from melfusion.models.published import read_part, sized, write_part


def judge(config: Config) -> Judge:
    """The classifier of clips, from a folder that this project wrote or random init."""
    c, folder = config.judge, weights_folder(config, "judge")

    # the first judges were written before there were kinds
    def sized_judge(width: int, embedding: int, attributes: dict[str, list[str]], kind: str = "conv") -> Judge:
        front_end, make_network = NETWORKS[kind]
        log_mel: Any = front_end(config.audio)
        attributes = {name: list(classes) for name, classes in attributes.items()}
        sizes = {"kind": kind, "width": width, "embedding": embedding, "attributes": attributes}
        network = make_network(log_mel.shape(0)[1], width, embedding)
        return Judge(network, log_mel, attributes, embedding, config.optim, config.trainer.max_steps, sizes)

    if folder is None:
        return sized_judge(c.width, c.embedding, c.attributes, c.kind)
    made_for, sizes = read_part(folder)
    check_audio(made_for, config, "judge")
    return sized(sized_judge, folder, **sizes)


def towers(config: Config) -> Towers:
    """The contrastive models with the text encoder they were trained with, from a folder that this project wrote or random init."""
    c, folder = config.towers, weights_folder(config, "towers")

    def sized_towers(**sizes: Any) -> Towers:
        width, embedding, text = sizes["width"], sizes["embedding"], TextEncoderConfig(**sizes["text_encoder"])
        with seeded(config.seed):  # so a random twin of the text encoder is the one that the towers were trained with
            encoder = freeze(text_encoder(dataclasses.replace(config, text_encoder=text)))
        sound = JudgeNetwork(config.audio.n_mels, width, embedding)
        pictures, steps = ImageTower(width, embedding), config.trainer.max_steps
        return Towers(pictures, sound, LogMel(config.audio), encoder, embedding, config.optim, steps, sizes)

    if folder is None:
        return sized_towers(width=c.width, embedding=c.embedding, text_encoder=dataclasses.asdict(config.text_encoder))
    made_for, sizes = read_part(folder)
    check_audio(made_for, config, "towers")
    return sized(sized_towers, folder, **sizes)


def augment_noise(config: Config, module: Any) -> dict[str, tuple[int, ...]]:
    return {"augment": module.log_mel.shape(AudioGeometry(config.audio).num_samples)}


def export_listener(module: Judge | Towers, config: Config, folder: Path) -> None:
    """All but what is frozen in it, with the sizes it was built with."""
    write_part(module, folder, config.audio, module.sizes)
