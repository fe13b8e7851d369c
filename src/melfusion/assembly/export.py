"""A model → a folder that others use: what it learned, on top of the parts that it names or with all of them, and a card."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

from melfusion.assembly.codec import READ
from melfusion.assembly.conditioner import tokenizer_beside
from melfusion.assembly.load import PARTS_FOLDER, export_system
from melfusion.assembly.schema import Config
from melfusion.assembly.weights import weights_folder
from melfusion.errors import WeightsError
from melfusion.files import write_whole
from melfusion.models.audioldm_file import audioldm_clap, audioldm_unet
from melfusion.models.conditioners.options import AudioLDMConditionerConfig
from melfusion.models.licences import ALLOWS, UNKNOWN, licence_of, strictest
from melfusion.models.system import MeLFusion

SECTIONS = ("denoiser", "codec", "music_vae", "vocoder", "conditioner", "text_encoder", "image")  # that may name weights

CARD = """---
license: {license}
tags: [music, image-to-music, melfusion]
---
# {name}

A model for image + text → music, {holds}.
The backbone is `{backbone}`, the synapse `{synapse}`{adapter}: {millions:.2f} M parameters were trained.
{belongs}

```python
import melfusion

pipe = melfusion.load("this folder")
music = pipe(prompt="a calm tune in A minor", image="picture.png", seed=0)
music.save("music.wav")
```

| part | weights | licence | allows |
|---|---|---|---|
{rows}

The strictest of them holds for the whole: **{license}** ({allows}).
"""


def licences(config: Config) -> dict[str, tuple[str, str]]:
    """Section that names weights → (what it names, their licence)."""
    found = {}
    for section in SECTIONS:
        weights = getattr(getattr(config, section), "weights", None)
        if weights is not None and used(config, section):
            found[section] = (weights, licence_of(weights, weights_folder(config, section)))
    return found


def used(config: Config, section: str) -> bool:
    """Does the system of this configuration have the part of that section?"""
    if section in ("music_vae", "vocoder"):
        return config.codec.kind == "mel"
    if section == "text_encoder":
        return config.conditioner.kind == "text"
    return section != "image" or config.synapse.kind != "none"


def export(system: MeLFusion, config: Config, folder: Path, whole: bool = False, licence: str | None = None) -> Path:
    """Write the folder that `melfusion.load` reads; returns it.

    Args:
        whole: copy the weights of all parts as well, so that the folder needs nothing else.
        licence: of parts whose licence is not known. WeightsError where one is unknown and this is None.
    """
    parts = licences(config)
    unknown = [section for section, (_, known) in parts.items() if known == UNKNOWN]
    if unknown and licence is None:
        raise WeightsError(
            f"The licence of {unknown[0]}.weights={parts[unknown[0]][0]!r} is not known: write `license: NAME` into the head of "
            "README.md beside these weights, or give licence=NAME, which then stands in the card."
        )
    parts = {s: (weights, (licence or known) if known == UNKNOWN else known) for s, (weights, known) in parts.items()}
    strict = strictest(known for _, known in parts.values())
    written = with_parts(config, folder) if whole else config
    export_system(system, written, folder, strict)
    write_whole(folder / "README.md", card(system, config, parts, strict, whole))
    return folder


def with_parts(config: Config, folder: Path) -> Config:
    """Copy the weights of all parts into the folder; returns the configuration that names the copies."""
    changed: dict[str, Any] = {}
    for section in licences(config):
        source, target = weights_folder(config, section), folder / PARTS_FOLDER / section
        assert source is not None
        shutil.rmtree(target, ignore_errors=True)
        if source.is_file():  # AudioLDM's, of which one part is wanted
            save_part(section, config, source, target)
        else:
            shutil.copytree(source, target)
        changed[section] = dataclasses.replace(getattr(config, section), weights=f"{PARTS_FOLDER}/{section}")
        if isinstance(changed[section], AudioLDMConditionerConfig):
            changed[section].tokenizer = None  # it lies there, too
    return dataclasses.replace(config, **changed)


def save_part(section: str, config: Config, file: Path, folder: Path) -> None:
    """A part of AudioLDM's single file, as a folder in its library's layout."""
    if isinstance(c := config.conditioner, AudioLDMConditionerConfig) and section == "conditioner":
        audioldm_clap(file).save_pretrained(folder / "text_encoder")
        tokenizer_beside(file, c.tokenizer).save_pretrained(folder / "tokenizer")
    else:
        {**READ, "denoiser": audioldm_unet}[section](file).save_pretrained(folder)


def card(system: MeLFusion, config: Config, parts: dict[str, tuple[str, str]], strict: str, whole: bool) -> str:
    """The card of a folder."""
    count = sum(p.numel() for p in system.denoiser.parameters() if p.requires_grad)
    frozen = system.frozen_digests().get("denoiser")
    holds = "with all its parts" if whole else "as what it learned on top of the parts below"
    rows = [f"| {s} | `{weights}` | {known} | {ALLOWS.get(known, ALLOWS[UNKNOWN])} |" for s, (weights, known) in parts.items()]
    return CARD.format(
        name=config.name or "melfusion",
        license=strict,
        holds=holds,
        backbone=config.denoiser.kind,
        synapse=config.synapse.kind,
        adapter=f", with a LoRA of rank {rank}" if (rank := config.denoiser.lora_rank) else "",
        belongs=f"It belongs to a backbone with SHA-256 `{frozen}`, and any other is refused."
        if frozen
        else "The backbone is in it.",
        millions=count / 1e6,
        rows="\n".join(rows),
        allows=ALLOWS.get(strict, ALLOWS[UNKNOWN]),
    )
