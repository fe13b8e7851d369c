"""The formats of manifests: own ones, and the layouts in which others published their sets, each read where it is cited.

A format is known by the field that names the audio. A new one is a line of FORMATS, and functions for what its fields do not say.
"""

from __future__ import annotations

import csv
import functools
import re
from pathlib import Path
from typing import Any

from melfusion.data.manifest.rows import Format, ManifestClip, ManifestRow
from melfusion.data.shards import AUDIO_EXTS

# libsndfile cannot read m4a and those after it; they are found so that missing.csv can say what to convert
AUDIO_SUFFIXES = (*AUDIO_EXTS, "oga", "opus", "aiff", "aif", "au", "caf", "w64", "m4a", "mp4", "webm", "aac", "wma")

NO_GENRE = ("image", "images", "img", "imgs", "picture", "pictures", "frame", "frames")  # folders that name none


def is_sound(name: str) -> bool:
    return Path(name).suffix[1:].lower() in AUDIO_EXTS


def _video_label(row: ManifestRow, name: str) -> dict[str, Any]:
    return {"youtube_video_id": name}


def _melbench_labels(row: ManifestRow, name: str) -> dict[str, Any]:
    return {"genre": row.manifest.stem, "youtube_video_id": name}


def _melbench_placed(clip: ManifestClip) -> None:
    """The sub-genre is the picture's folder, where that is not the genre or no name of a kind of music."""
    for image in clip.images:
        labels, folder = clip.meta["labels"], image.path.parent
        plain, genre = (re.sub(r"[\W_]", "", text).lower() for text in (folder.name, str(labels.get("genre", ""))))
        if not image.top and plain not in (*NO_GENRE, genre):
            labels.setdefault("sub_genre", folder.name)


def _emid_placed(clip: ManifestClip) -> None:
    """Clips of one recording share the name before `___`, as in 106.m4a___172.mp3."""
    clip.track = clip.name.partition("___")[0]


def _m2ugen_tidy(row: ManifestRow) -> None:
    """The caption is that of the music. The script that made MUImage swaps the two files, so the endings decide which is which."""
    said = row.fields.pop("conversation", None)
    if not isinstance(said, list) or not said or not all(isinstance(turn, dict) for turn in said):
        raise row.error("conversation", "is no list of objects: MUImage and MUVideo have one with `from`, `value` and `caption`")
    files = {name: str(row.fields.get(name) or "") for name in ("input_file", "output_file")}
    if is_sound(files["input_file"]) and not is_sound(files["output_file"]):
        row.fields["input_file"], row.fields["output_file"] = files["output_file"], files["input_file"]
    elif is_sound(files["input_file"]):
        raise row.error("input_file", "is a sound as output_file is, so this row has no picture: leave out sets such as MUEdit")
    row.fields["caption"] = said[-1].get("caption")
    labels = {"instruction": said[0].get("value"), "picture_caption": said[0].get("caption")}
    row.fields |= {name: value for name, value in labels.items() if isinstance(value, str)}


def _v2m_tidy(row: ManifestRow) -> None:
    """The benchmark's list is the test split."""
    if row.manifest.stem.lower() == "v2m-bench":
        row.fields["split"] = "test"


def _ossl_placed(clip: ManifestClip) -> None:
    """The folder of a clip's audio is its film, whose row of metadata.csv is the one that has its id in a cell."""
    clip.track = clip.audio.parent.name
    if found := _films(clip.row.manifest.parent.parent / "metadata.csv").get(clip.track):
        clip.meta["labels"].setdefault("film", found)


@functools.cache
def _films(file: Path) -> dict[str, dict[str, str]]:
    """Every cell of a table → its row."""
    if not file.is_file():
        return {}
    with file.open(newline="", encoding="utf-8-sig", errors="replace") as text:
        rows = [{k: v for k, v in row.items() if k and isinstance(v, str) and v} for row in csv.DictReader(text)]
    return {cell: row for row in reversed(rows) for cell in row.values()}


OWN = Format("own", "audio", ("image",), named="path", joined=False)

# The three columns of the release of MeLFusion: github.com/schowdhury671/melfusion, train_combined.py, commit 1208ae39
MUSICCAPS_EXTENDED = Format(
    "ExtMusicCaps", "location", ("img_path",), "captions", 10.0, (60, 20, 20), "name", "stated", joined=False
)

# Not in a repository: the README.md of github.com/schowdhury671/melfusion, commit c450b1da, links a folder "Datasets" with a CSV
# for each genre, whose columns are these
MELBENCH = Format(
    "MeLBench",
    "youtube_video_id",
    ("image_path",),
    "Annotation",
    10.0,
    named="video",
    cut="always",
    joined=False,
    needed=("image_path", "Annotation"),
    layout="MeLBench's columns are image_path, youtube_video_id and Annotation",
    labels=_melbench_labels,
    placed=_melbench_placed,
)

# google/MusicCaps on Hugging Face, README.md, commit db7ec885 (fields); clips of 10 s
MUSICCAPS = Format(
    "MusicCaps", "ytid", ("image_path",), "caption", 10.0, named="video", cut="always", films=True, labels=_video_label
)

# github.com/ecnu-aigc/EMID, README.md, commit 481cc900; the features of its parquet: ecnu-aigc/EMID on Hugging Face, README.md,
# commit 3fb71fa5. What listeners felt is all that it says of the music in words.
EMID = Format("EMID", "Audio_Filename", ("Image1_filename", "Image2_filename", "Image3_filename"), "feeling", placed=_emid_placed)

# github.com/shansongliu/M2UGen, Datasets/MUImage/04_generate_instructions.py, commit a716e3d1, and Datasets/MUVideo/04_…, commit
# ceeff66a; the folders of pictures and sounds: M2UGen/data/dataset.py, commit 218c92dd
M2UGEN = Format(
    "M2UGen",
    "output_file",
    ("input_file",),
    needed=("input_file", "conversation"),
    layout="MUImage and MUVideo have input_file, output_file and conversation",
    tidy=_m2ugen_tidy,
)

# Lists of ids: Zeyue7/V2M on Hugging Face, commit 4d948085; audio/ID.wav and video/ID.mp4: github.com/ZeyueT/VidMuse,
# egs/V2M/build_data_jsonl.py, commit d10fec16
V2M = Format("V2M", "video_id", films=True, tidy=_v2m_tidy, labels=_video_label)

# "Layout" in the card of McAuley-Lab/OSSL-v2 on Hugging Face, as its page showed it in late 2026; the page names no commit, and the
# repository github.com/havenpersona/ossl-v2 was not seen. splits/{train,test}.txt, metadata.csv with a row a film, and
# {train,test}/{audio,video}/FILM/CLIP.{wav,mp4}. The columns of metadata.csv are not in the card.
OSSL = Format("OSSL-v2", "clip_id", films=True, placed=_ossl_placed)

FORMATS = (OWN, MUSICCAPS_EXTENDED, MELBENCH, MUSICCAPS, EMID, M2UGEN, V2M, OSSL)

FIELDS = {name.lower(): name for kind in FORMATS for name in (kind.audio, *kind.images, kind.caption)}  # in any case of letters
