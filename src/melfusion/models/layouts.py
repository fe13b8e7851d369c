"""What lies at a path of weights, in words: published layouts that are near misses, recognised before a library reads them.

Nothing here runs, builds or decodes anything: names of files, configurations and the first bytes of files are looked at.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

from melfusion.models.layout_names import (
    AUDIOLDM,
    ELSE,
    ELSE_OF,
    FILES,
    FILM,
    FILM_UNET,
    FITS,
    FOLDERS,
    HEADER_BYTES,
    NO_TEXT_ENCODER,
    NO_VISION,
    PART,
    PART_FILE,
    PIPELINE,
    SMALL,
    STORED,
    UNUSUAL,
    VISION,
    WORDS,
)


class Layout(NamedTuple):
    """What a path is.

    what: words for a sentence, with their article.
    holds: sub-folder ("" for the path itself) → what the config.json there calls its network.
    cure: what to do, where that does not depend on what is wanted.
    broken: nothing at all can be read there as it is.
    """

    what: str
    holds: dict[str, set[str]] = {}
    cure: str = ""
    broken: bool = False


def misfit(path: Path, wanted: str) -> str | None:
    """What a path is where something else is wanted, and what to do, as a sentence; None where it looks right."""
    layout = recognise(path)
    if not layout.broken and _right(path, layout, wanted):
        return None
    return f"{path} is {layout.what}, but {words(wanted)} is wanted: {cure(path, layout, wanted)}."


def unstored(folder: Path, wanted: str) -> str | None:
    """What keeps a folder from holding all weights of the network that its config.json describes, as a sentence."""
    if (found := _stored(folder)) is None:
        return f"{folder} has the config.json of {words(wanted)} and no weights ({_some(folder)}): copy its safetensors file there."
    if lost := [name for name in found[1] if not (folder / name).is_file()]:
        return f"{folder} lacks {len(lost)} of the files of its weights, the first {lost[0]}: copy the folder again."
    return None


def variant(folder: Path) -> str | None:
    """fp16 or bf16, where the weights are there in that type alone."""
    found = _stored(folder)
    return found and found[0]


def recognise(path: Path) -> Layout:
    """What lies at a path."""
    try:
        if path.is_dir():
            return _folder(path)
        return _file(path) if path.exists() else Layout("not there", cure="check the path", broken=True)
    except OSError as error:
        return Layout(f"not readable ({error.strerror})", cure="mend that", broken=True)


def is_pointer(file: Path) -> bool:
    """Is this what Git has in place of a large file until LFS fetches it?"""
    return file.is_file() and file.stat().st_size <= 1024 and file.read_bytes().startswith(b"version https://git-lfs")


def words(wanted: str) -> str:
    """What is wanted, with its article."""
    return WORDS.get(wanted) or f"{'an' if wanted[0] in 'AEIO' else 'a'} {wanted}"


def cure(path: Path, layout: Layout, wanted: str) -> str:
    """What to do about something else at a path."""
    if wanted == "UNet2DConditionModel" and (layout.cure == AUDIOLDM or FILM_UNET in layout.holds.get("", ())):
        return FILM
    if layout.cure and (layout.broken or wanted not in ELSE_OF):
        return layout.cure
    if wanted == PIPELINE and "unet" in recognise(path.parent).holds:
        return f"give {path.parent}"
    if fitting := [f":{sub}" for sub, names in layout.holds.items() if sub and _fits(names, wanted)]:
        return f"add {' or '.join(fitting)} to what you gave"
    return ELSE_OF.get(wanted, ELSE)


def _right(path: Path, layout: Layout, wanted: str) -> bool:
    if wanted == PIPELINE:  # whose parts are looked at one by one, later
        return "" not in layout.holds and not layout.cure
    if wanted == PART:
        return (path / PART_FILE).is_file()
    unchecked = wanted not in FITS and wanted not in WORDS
    return unchecked or _fits(layout.holds.get("", set()), wanted)


def _fits(names: set[str], wanted: str) -> bool:
    if wanted == "AutoConfig":
        return bool(names) and not names & NO_TEXT_ENCODER
    if wanted == VISION:
        return bool(names) and not names & NO_VISION
    return bool(names & FITS.get(wanted, set()))


def _folder(path: Path) -> Layout:
    entries = sorted(path.iterdir())
    if not entries:
        return Layout("an empty folder", cure="copy its files again", broken=True)
    weights = _stored(path)  # weights in a format that is not read may stay pointers
    if pointers := [p.name for p in entries if (not weights or p.suffix in SMALL or p.name in weights[1]) and is_pointer(p)]:
        return Layout(
            f"a clone that lacks its large files ({pointers[0]} is a Git LFS pointer)", cure="run `git lfs pull` in it", broken=True
        )
    holds = {p.name: _names(p / "config.json") for p in entries if (p / "config.json").is_file()}
    if (path / "model_index.json").is_file():
        return Layout(f"a whole pipeline ({_tree(path / 'model_index.json').get('_class_name')})", holds)
    if (path / "config.json").is_file():
        return Layout(_network(path / "config.json"), {"": _names(path / "config.json")})
    if marked := next((row for row in FOLDERS if (path / row[0]).exists()), None):
        return Layout(marked[1], cure=marked[2])
    for p in entries:
        if p.suffix in (".safetensors", ".ckpt", ".pth", ".pt", ".bin") and (single := _file(p)).what != "a file":
            return Layout(f"a folder with {single.what}", cure=single.cure)
    return Layout(f"a folder of parts ({', '.join(holds)})" if holds else f"a folder without config.json ({_some(path)})", holds)


def _network(config: Path) -> str:
    """The network of a config.json in words."""
    tree, names = _tree(config), _names(config)
    called = tree.get("_class_name") or min(names, key=lambda name: (name.islower(), name), default=None)
    unusual = next((f" that wants more than text ({key}={tree[key]})" for key in UNUSUAL if tree.get(key)), "")
    library = "diffusers" if "diffusers" in names else "transformers"
    return f"{words(str(called))} of {library}{unusual}" if called else "a folder whose config.json names no network"


def _names(config: Path) -> set[str]:
    """What a config.json calls its network: class and kind; `diffusers` where it is of that library."""
    tree = _tree(config)
    if "_class_name" in tree:
        named, unusual = str(tree["_class_name"]), {key: tree[key] for key in UNUSUAL if tree.get(key)}
        film = {FILM_UNET} if named == "UNet2DConditionModel" and unusual == {"class_embed_type": "simple_projection"} else set()
        return {"diffusers"} | (film if unusual else {named})
    classes = tree.get("architectures")
    return {str(name) for name in [*(classes if isinstance(classes, list) else []), tree.get("model_type")] if name}


def _stored(folder: Path) -> tuple[str | None, list[str]] | None:
    """(fp16, bf16 or None for the plain type, the names of their files) of the weights that a library takes first."""
    found = []
    for match in filter(None, (STORED.fullmatch(p.name) for p in folder.iterdir())):
        shards = _tree(folder / match[0]).get("weight_map") if match[3] else None
        names = sorted({str(name) for name in shards.values()} if isinstance(shards, dict) else {match[0]})
        found.append((match[1] or match[4] or "", match[2] == "bin", bool(match[3]), names))
    return (min(found)[0] or None, min(found)[3]) if found else None


def _file(path: Path) -> Layout:
    if is_pointer(path):
        return Layout("a Git LFS pointer and not the file itself", cure="run `git lfs pull` in its clone", broken=True)
    seen = path.name.lower().encode() + b"\n" + _first_bytes(path)
    for marks, what, cure in FILES:
        if any(mark in seen for mark in marks):
            return Layout(what, cure=cure, broken=True)
    return Layout("a file", cure=f"give the folder {path.parent}", broken=True)


def _first_bytes(path: Path) -> bytes:
    """Where the names of tensors stand: the header of safetensors, the tree in torch's zip, the beginning of its older format."""
    try:
        with path.open("rb") as file:
            if path.suffix == ".safetensors":
                return file.read(min(int.from_bytes(file.read(8), "little"), HEADER_BYTES))
            if not zipfile.is_zipfile(file):
                file.seek(0)
                return file.read(1 << 20)
            with zipfile.ZipFile(file) as archive:
                tree = next(name for name in archive.namelist() if name.endswith("data.pkl"))
                return archive.open(tree).read(HEADER_BYTES)
    except Exception:  # zipfile raises many kinds at a damaged file, which then is one that is not known
        return b""


def _tree(file: Path) -> dict[str, Any]:
    try:
        tree = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return tree if isinstance(tree, dict) else {}


def _some(folder: Path) -> str:
    names = sorted(p.name for p in folder.iterdir())
    return f"it holds {', '.join(names[:3])}" + (f" and {len(names) - 3} more" if len(names) > 3 else "")
