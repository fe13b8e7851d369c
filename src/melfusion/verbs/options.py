"""The options of each verb beside configuration keys, and what can be checked of them before anything slow is imported."""

from __future__ import annotations

import difflib
import math
import os
import re
from pathlib import Path
from typing import Any

from melfusion.errors import ConfigError
from melfusion.files import require_writable
from melfusion.media.file_kinds import picture_bytes

# option → how its text is read; what is not given comes from the checkpoint's or the named configuration
GENERATE = {
    "image": str,
    "prompt": str,
    "out": str,
    "ckpt": str,
    "seed": int,
    "n": int,
    "num_inference_steps": int,
    "guidance_scale": float,
    "image_guidance_scale": float,
    "negative_prompt": str,
    "duration_s": float,
    "limit": int,
}

EVALUATE = {
    "ckpt": str,
    "wavs": str,
    "n": int,
    "data.seed": int,
    "out": str,
    "rows": str,
    "share": str,
    "listening": bool,
    "limit": int,
}

ABLATE = {"suite": str, "rows": str, "jobs": int, "table": bool, "publish": bool, "cluster": str}

TORTURE = {"points": int, "seed": int, "out": str, "goodput": str}

MOST_CLIPS = {"generate": 1000, "evaluate": 10_000}  # of one call that does not say limit=

LONGEST_S = 600.0  # of one clip: memory grows with it

TRUTHS = {"true": True, "false": False}


def parse(options: list[str], known: dict[str, type]) -> dict[str, Any]:
    """['seed=3'] → {'seed': 3}; the text after the first `=` is taken verbatim."""
    parsed: dict[str, Any] = {}
    for item in options:
        key, _, value = item.partition("=")
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise ConfigError(
                f"There is no option {key!r}{f'; did you mean {near[0]!r}?' if near else ''}; "
                f"known are {', '.join(known) or 'none'}."
            )
        try:
            parsed[key] = TRUTHS[value.lower()] if known[key] is bool else known[key](value)
        except (ValueError, KeyError):
            kind = "true or false" if known[key] is bool else f"a valid {known[key].__name__}"
            raise ConfigError(f"{key}={value!r} is not {kind}.") from None
    return parsed


def check_generate(options: dict[str, Any]) -> None:
    """All that can be known of a call of `generate` before the model is loaded; raises ConfigError."""
    image, prompt = options.get("image"), options.get("prompt")
    if not image and not prompt:
        raise ConfigError('generate needs IMAGE=picture.png, PROMPT="a sentence", or both.')
    _at_least(options, {"n": 1, "seed": 0, "num_inference_steps": 1, "duration_s": 0.1, "limit": 1})
    if (options.get("duration_s") or 0) > LONGEST_S:
        raise ConfigError(f"duration_s={options['duration_s']:g} must be at most {LONGEST_S:g}: memory grows with the length.")
    for name in ("guidance_scale", "image_guidance_scale"):
        if not math.isfinite(options.get(name) or 0.0):
            raise ConfigError(f"{name}={options[name]} must be a finite number.")
    _within_limit("generate", options)
    if image:
        picture_bytes("image", image)
    _checkpoint_is_there(options.get("ckpt"))
    n, seed = options.get("n") or 1, options.get("seed") or 0
    check_out(clip_files(options.get("out"), prompt or Path(image).stem, seed, n)[0].parent, options.get("out"))


def check_evaluate(options: dict[str, Any]) -> None:
    """The same for `evaluate`."""
    _at_least(options, {"n": 1, "data.seed": 0, "limit": 1})
    _within_limit("evaluate", options)
    read_share(options.get("share") or "0/1")
    if options.get("wavs") and not Path(options["wavs"]).is_dir():
        raise ConfigError(f"wavs={options['wavs']}: there is no such folder.")
    if not options.get("wavs"):
        _checkpoint_is_there(options.get("ckpt"))
    check_out(evaluation_folder(options), options.get("out"))


def evaluation_folder(options: dict[str, Any]) -> Path:
    """Where `evaluate` writes: OUT=, else beside what is scored."""
    return Path(options.get("out") or (Path(options.get("ckpt") or options.get("wavs") or "outputs/shipped") / "evaluation"))


def check_out(folder: Path, out: str | None) -> None:
    """Make the folder for what will be written, and look whether it can be; ConfigError where it cannot."""
    try:
        require_writable(folder)
    except OSError as error:
        raise ConfigError(f"{f'out={out}' if out else folder} cannot be written ({error.strerror}): give another out=….") from None


def clip_files(out: str | None, words: str, seed: int, n: int) -> list[Path]:
    """OUT=name.wav → that file (name-0.wav … for several); OUT=folder or nothing → a name no file has yet."""
    if out and Path(out).suffix.lower() == ".wav":
        if Path(out).is_dir():
            raise ConfigError(f"out={out} is a folder: give a file, or a folder whose name does not end in .wav.")
        base = Path(out)
        return [base] if n == 1 else [base.with_stem(f"{base.stem}-{i}") for i in range(n)]
    stem = re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")[:40] or "music"
    folder = Path(out or "outputs")
    taken = {file.name for file in folder.glob(f"{stem}-seed*.wav")} if folder.is_dir() else set()
    files = []
    for i in range(n):
        name, k = f"{stem}-seed{seed + i}.wav", 1
        while name in taken:
            name, k = f"{stem}-seed{seed + i}-{k}.wav", k + 1
        taken.add(name)
        files.append(folder / name)
    return files


def read_share(text: str) -> tuple[int, int]:
    """'2/8' → (2, 8); ConfigError for anything else."""
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and int(part) < int(parts)):
        raise ConfigError(f"share={text!r} must read I/N with I from 0 to N-1, such as share=0/4.")
    return int(part), int(parts)


def from_environment(names: dict[str, str]) -> dict[str, str]:
    """Variable → option, as make passes them: verbatim text, whatever characters it holds."""
    return {option: os.environ[name] for name, option in names.items() if os.environ.get(name)}


def _at_least(options: dict[str, Any], least: dict[str, float]) -> None:
    for name, low in least.items():
        if options.get(name) is not None and not low <= options[name] < math.inf:
            raise ConfigError(f"{name}={options[name]} must be at least {low}.")


def _within_limit(verb: str, options: dict[str, Any]) -> None:
    n, most = options.get("n") or 1, options.get("limit") or MOST_CLIPS[verb]
    if n > most:
        raise ConfigError(
            f"n={n} clips are more than limit={most}: give a smaller n, or limit={n} where so many are wanted; the "
            "first ones will tell how long all take and what room they need."
        )


def _checkpoint_is_there(ckpt: str | None) -> None:
    if ckpt and not Path(ckpt).exists():
        raise ConfigError(f"There is no checkpoint in {ckpt}: give CKPT=runs/<name> of a run that has saved one.")
