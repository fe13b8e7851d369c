"""Manifests → shards: each published layout at toy size, splits, what is refused, and the sentences of errors."""

import csv
import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from melfusion.__main__ import main
from melfusion.data.index import write_index
from melfusion.data.manifest.build import build_from_manifest
from melfusion.data.options import DataConfig
from melfusion.data.reading import SampleReader
from melfusion.data.shards import SPLITS, Entry, ShardSet
from melfusion.errors import ConfigError, DataError
from melfusion.media.options import AudioConfig

RATE = 8000


def wav(path: Path, seconds: float = 1.0, seed: int = 0, rate: int = RATE, channels: int = 1, **kwargs) -> Path:
    """A file whose n-th sample is known: a ramp of time plus a little noise that makes its contents unique."""
    path.parent.mkdir(parents=True, exist_ok=True)
    length = round(seconds * rate)
    ramp = np.linspace(0, 0.5, length) + np.random.default_rng(seed).uniform(0, 1e-3, length)
    soundfile.write(path, np.repeat(ramp[:, None], channels, axis=1), rate, **kwargs)
    return path


def png(path: Path, seed: int = 0, mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def table(path: Path, header: str, *rows: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def jsonl(path: Path, *rows: dict) -> Path:
    return table(path, *(json.dumps(row) for row in rows))


def entries(out: Path) -> list[tuple[str, Entry]]:
    shards = ShardSet(out)
    splits = sorted({shard["name"].rsplit("-", 1)[0] for shard in shards.shards})
    return [(split, entry) for split in splits for entry in shards.entries(split)]


def metas(out: Path) -> list[dict]:
    """Every sample's json, checked against the split of the shard that it lies in."""
    shards, found = ShardSet(out), []
    for split, entry in entries(out):
        meta = json.loads(shards.read(entry, "json"))
        assert meta["split"] == split
        assert re.fullmatch(r"[A-Za-z0-9_-]+", entry.key)
        found.append(meta | {"key": entry.key})
    assert len({meta["key"] for meta in found}) == len(found)
    return found


def missing(out: Path) -> list[dict[str, str]]:
    with (out / "missing.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def audio_of(out: Path, choose: Callable[[dict], bool] = lambda meta: True) -> tuple[np.ndarray, int, str, bytes]:
    """Waveform, rate, extension and bytes of the one sample that is chosen."""
    shards = ShardSet(out)
    [entry] = [e for _, e in entries(out) if choose(json.loads(shards.read(e, "json")))]
    [ext] = [e for e in entry.members if e in ("flac", "wav", "mp3", "ogg")]
    data = shards.read(entry, ext)
    return *soundfile.read(io.BytesIO(data)), ext, data


HEADER = "image_path,youtube_video_id,Annotation"


@pytest.fixture
def melbench(tmp_path: Path) -> Path:
    """Two genres; audio under the several names that downloads have."""
    table(
        tmp_path / "csv/pop.csv",
        HEADER,
        "pop/synthpop/1.png,AAAAAAAAAA1,",
        '2.png,-AAA_AAAAA-,"Two\nlines, quoted"',
        "elsewhere/pop/3.png,AAAAAAAAAA3,three",
        "4.png,AAAAAAAAAA4,four",
    )
    table(
        tmp_path / "csv/rock.csv",
        "\ufeff" + HEADER,
        "2.png,AAAAAAAAAA5,five",
        "6.png,AAAAAAAAAA6,no audio",
        "7.png,AAAAAAAAAA7,no picture",
        "8.png,AAAAAAAAAA8,both empty",
    )
    for name, seconds, seed in (
        ("AAAAAAAAAA1.wav", 10, 1),
        ("sub/A title [-AAA_AAAAA-].wav", 10, 2),
        ("AAAAAAAAAA3_2.wav", 16, 3),
        ("AAAAAAAAAA4_30_46.flac", 16, 4),
        ("AAAAAAAAAA5_30.wav", 10.02, 5),
        ("AAAAAAAAAA7.wav", 1, 7),
    ):
        wav(tmp_path / "audio" / name, seconds, seed, rate=1000)
    (tmp_path / "audio/AAAAAAAAAA8.wav").touch()
    for i, place in enumerate(("pop/synthpop/1", "pop/2", "pop/3", "4", "rock/2", "6")):
        png(tmp_path / "images" / f"{place}.png", i)
    (tmp_path / "images/8.png").touch()
    return tmp_path


def build_melbench(root: Path, **options) -> str:
    return build_from_manifest(f"{root}/csv/*.csv", str(root / "out"), f"{root}/audio", f"{root}/images", **options)


def test_melbench_samples_labels_and_report(melbench):
    words = build_melbench(melbench)
    by_id = {meta["labels"]["youtube_video_id"]: meta for meta in metas(melbench / "out")}
    assert set(by_id) == {"AAAAAAAAAA1", "-AAA_AAAAA-", "AAAAAAAAAA3", "AAAAAAAAAA4", "AAAAAAAAAA5"}
    assert by_id["AAAAAAAAAA1"]["labels"] | {"genre": "pop", "sub_genre": "synthpop"} == by_id["AAAAAAAAAA1"]["labels"]
    assert "sub_genre" not in by_id["AAAAAAAAAA3"]["labels"] and "sub_genre" not in by_id["AAAAAAAAAA4"]["labels"]
    assert by_id["-AAA_AAAAA-"]["caption"] == "Two\nlines, quoted" and by_id["AAAAAAAAAA1"]["caption"] == ""
    assert by_id["AAAAAAAAAA5"]["labels"]["genre"] == "rock" and by_id["AAAAAAAAAA5"]["source"] == "MeLBench"
    rows = [tuple(miss.values()) for miss in missing(melbench / "out")]
    rock = str(melbench / "csv/rock.csv")
    assert sorted(rows) == [
        (rock, "3", "youtube_video_id", "AAAAAAAAAA6", "no audio file of this video"),
        (rock, "4", "image_path", "7.png", "file not found"),
        (rock, "5", "image_path", "8.png", "empty image"),
        (rock, "5", "youtube_video_id", "AAAAAAAAAA8", "empty audio"),
    ]
    assert "rows with missing or unreadable files: 3" in words and "samples without a caption: 1" in words
    assert "  image_path: file not found: 1" in words and all(split in words for split in SPLITS)


def test_melbench_excerpts(melbench):
    build_melbench(melbench)
    out = melbench / "out"

    def of(video):
        return audio_of(out, lambda meta: meta["labels"]["youtube_video_id"] == video)

    assert of("AAAAAAAAAA1")[3] == (melbench / "audio/AAAAAAAAAA1.wav").read_bytes()
    assert of("AAAAAAAAAA5")[3] == (melbench / "audio/AAAAAAAAAA5_30.wav").read_bytes()  # the excerpt, a little padded
    named, rate, ext, _ = of("AAAAAAAAAA3")  # its name says where the excerpt starts
    assert (len(named), rate, ext) == (10_000, 1000, "flac")
    np.testing.assert_array_equal(named, soundfile.read(melbench / "audio/AAAAAAAAAA3_2.wav")[0][2000:12000])
    span, *_ = of("AAAAAAAAAA4")  # 16 s that the name calls 30 to 46: the file starts where the excerpt does
    np.testing.assert_array_equal(span, soundfile.read(melbench / "audio/AAAAAAAAAA4_30_46.flac")[0][:10000])


def test_pictures_of_one_name_are_told_apart_by_their_folders(melbench):
    build_melbench(melbench)
    shards = ShardSet(melbench / "out")
    for _, entry in entries(melbench / "out"):
        meta = json.loads(shards.read(entry, "json"))
        video, genre = meta["labels"]["youtube_video_id"], meta["labels"]["genre"]
        if video in ("-AAA_AAAAA-", "AAAAAAAAAA5"):
            assert shards.read(entry, "png") == (melbench / f"images/{genre}/2.png").read_bytes()


def test_a_start_column_chooses_the_file_and_the_cut(tmp_path):
    table(
        tmp_path / "jazz.csv",
        f"{HEADER},start_s,Sub_Genre",
        ",AAAAAAAAAA1,whole,3,bebop",
        ",AAAAAAAAAA2,cut,30,",
        ",AAAAAAAAAA2,other,50,",
        ",AAAAAAAAAA1,late,99,",
    )
    wav(tmp_path / "a/AAAAAAAAAA1.wav", 16, 1, rate=1000)
    wav(tmp_path / "a/AAAAAAAAAA2_30_40.wav", 10, 2, rate=1000)
    build_from_manifest(f"{tmp_path}/jazz.csv", f"{tmp_path}/out", f"{tmp_path}/a")
    whole, *_ = audio_of(tmp_path / "out", lambda meta: meta["caption"] == "whole")
    np.testing.assert_array_equal(whole, soundfile.read(tmp_path / "a/AAAAAAAAAA1.wav")[0][3000:13000])
    found = {meta["caption"]: meta for meta in metas(tmp_path / "out")}
    assert set(found) == {"whole", "cut"} and found["whole"]["labels"]["start_s"] == 3
    reasons = {m["line"]: m["reason"] for m in missing(tmp_path / "out")}
    assert reasons["4"].endswith("with this start") and reasons["5"].startswith("start_s lies behind the end")


@pytest.mark.parametrize("lines", [True, False])
def test_musiccaps_two_pictures_make_two_samples_in_one_split(tmp_path, lines):
    rows = [
        {
            "captions": [f"caption {i}", "another"] if i else "one",
            "location": f"/home/them/audio/{i}.mp3",
            "img_path": [f"/home/them/img/{i}-{j}.png" for j in "ab"],
        }
        for i in range(12)
    ]
    path = tmp_path / ("musiccaps.jsonl" if lines else "musiccaps.json")
    path.write_text("\n".join(map(json.dumps, rows)) if lines else json.dumps(rows, indent=1))
    for i in range(12):
        wav(tmp_path / f"audio/{i}.wav", 0.1, i)  # another format than the manifest says
        for j in range(2):
            png(tmp_path / f"images/deep/{i}-{'ab'[j]}.png", 2 * i + j)
    (tmp_path / "images/deep/3-b.png").write_bytes(b"no picture")
    build_from_manifest(str(path), f"{tmp_path}/out", f"{tmp_path}/audio", f"{tmp_path}/images")
    found = metas(tmp_path / "out")
    assert len(found) == 23 and {meta["caption"] for meta in found} == {"one", *(f"caption {i}" for i in range(1, 12))}
    for i in range(12):
        assert len({meta["split"] for meta in found if meta["key"].startswith(f"{i}-")}) == 1
    assert next(m for m in found if m["caption"] == "caption 3")["labels"]["captions"] == ["caption 3", "another"]
    assert len({m["labels"]["track"] for m in found}) == len({m["labels"]["component"] for m in found}) == 12
    assert "home" not in json.dumps([m["labels"] for m in found])  # the manifest's folders are nobody's business
    [miss] = missing(tmp_path / "out")
    assert (miss["field"], miss["value"], miss["reason"]) == ("img_path", "/home/them/img/3-b.png", "unreadable image")
    assert lines or int(miss["line"]) > 12  # an array's entry is named by the line it starts on


def test_musiccaps_excerpts_only_where_a_start_is_known(tmp_path):
    names = ("[-0Gj8-vB1q4]-[3-13].wav", "some_long_name_3.wav", "short.wav")
    jsonl(tmp_path / "m.jsonl", *({"location": name, "captions": name} for name in names))
    for i, name in enumerate(names):
        wav(tmp_path / "a" / name, 1 if name == "short.wav" else 20, i, rate=1000)
    build_from_manifest(f"{tmp_path}/m.jsonl", f"{tmp_path}/out", f"{tmp_path}/a")
    cut, *_ = audio_of(tmp_path / "out", lambda meta: meta["caption"] == names[0])
    np.testing.assert_array_equal(cut, soundfile.read(tmp_path / "a" / names[0])[0][3000:13000])
    for name in names[1:]:
        data = audio_of(tmp_path / "out", lambda meta, name=name: meta["caption"] == name)[3]
        assert data == (tmp_path / "a" / name).read_bytes()


def test_one_name_for_several_pictures_is_never_guessed(tmp_path):
    wav(tmp_path / "audio/AAAAAAAAAA1.wav")
    for i, place in enumerate(("x", "y")):
        png(tmp_path / f"images/{place}/1.png", i)
    table(tmp_path / "pop.csv", HEADER, "1.png,AAAAAAAAAA1,which", "z/y/1.png,AAAAAAAAAA1,this")
    build_from_manifest(f"{tmp_path}/pop.csv", f"{tmp_path}/out", f"{tmp_path}/audio", f"{tmp_path}/images")
    assert [m["reason"] for m in missing(tmp_path / "out")] == ["several files have this name: give its folder too"]
    [meta] = metas(tmp_path / "out")
    assert meta["caption"] == "this" and meta["labels"]["sub_genre"] == "y"


def test_links_inside_a_folder_are_followed_and_pipes_never_opened(tmp_path):
    wav(tmp_path / "elsewhere/blob", format="WAV")
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio/AAAAAAAAAA1.wav").symlink_to(tmp_path / "elsewhere/blob")
    os.mkfifo(tmp_path / "audio/AAAAAAAAAA2.wav")
    table(tmp_path / "pop.csv", HEADER, ",AAAAAAAAAA1,x", ",AAAAAAAAAA2,x")
    build_from_manifest(f"{tmp_path}/pop.csv", f"{tmp_path}/out", f"{tmp_path}/audio")
    assert len(metas(tmp_path / "out")) == 1 and len(missing(tmp_path / "out")) == 1


def test_own_manifest_stores_what_it_is_given(tmp_path):
    wav(tmp_path / "m/a.wav", 0.5, 1)
    wav(tmp_path / "music/b.aiff", 0.5, 2, channels=2, subtype="PCM_24")
    wav(tmp_path / "far/c.wav", 2, 3)
    png(tmp_path / "m/p.webp")
    png(tmp_path / "pictures/q.bmp")
    jsonl(
        tmp_path / "m/mine.jsonl",
        {
            "audio": "a.wav",
            "image": "p.webp",
            "caption": " calm ",
            "title": "T",
            "source": "S",
            "license": "CC0",
            "split": "validation",
            "bpm": 90,
            "labels": {"mood": "calm"},
        },
        {"audio": "b.aiff", "image": "q.bmp", "split": "test"},
        {"audio": str(tmp_path / "far/c.wav"), "start_s": 0.5, "split": "train"},
    )
    folders = {"audio_dir": f"{tmp_path}/music", "image_dir": f"{tmp_path}/pictures"}
    words = build_from_manifest(f"{tmp_path}/m/mine.jsonl", f"{tmp_path}/out", **folders, duration_s="1")
    test, train, val = sorted(metas(tmp_path / "out"), key=lambda meta: meta["split"])
    assert {k: v for k, v in val.items() if k != "key"} == {
        "caption": "calm",
        "title": "T",
        "source": "S",
        "license": "CC0",
        "split": "val",
        "labels": {"bpm": 90, "mood": "calm"} | {k: val["labels"][k] for k in ("track", "component")},
    }
    assert test["caption"] == "" and train["labels"] == {"start_s": 0.5} | {k: train["labels"][k] for k in ("track", "component")}
    assert "samples without a caption: 2" in words and "samples without a picture: 1" in words
    shards = ShardSet(tmp_path / "out")
    members = {split: set(entry.members) for split, entry in entries(tmp_path / "out")}
    assert members == {"val": {"json", "wav", "webp"}, "test": {"json", "flac", "png"}, "train": {"json", "flac"}}
    reencoded, rate, _, _ = audio_of(tmp_path / "out", lambda meta: meta["split"] == "test")
    np.testing.assert_array_equal(reencoded, soundfile.read(tmp_path / "music/b.aiff")[0])
    assert reencoded.shape == (RATE // 2, 2) and rate == RATE
    cut, *_ = audio_of(tmp_path / "out", lambda meta: meta["split"] == "train")
    np.testing.assert_array_equal(cut, soundfile.read(tmp_path / "far/c.wav")[0][RATE // 2 : RATE * 3 // 2])
    picture = Image.open(io.BytesIO(shards.read(shards.entries("test")[0], "png")))
    np.testing.assert_array_equal(picture, Image.open(tmp_path / "pictures/q.bmp"))


def test_whole_tracks_are_cut_into_clips_of_one_split(tmp_path):
    """A second of a track is a sample of its own; what a row cuts already, and what is too short to cut, stays one."""
    wav(tmp_path / "long.wav", 3.6, seed=1)
    wav(tmp_path / "rest.wav", 2.4, seed=2)
    wav(tmp_path / "short.wav", 0.7, seed=3)
    songs = table(tmp_path / "songs.csv", "audio,start_s,caption", "long.wav,,a", "rest.wav,,b", "short.wav,,c", "long.wav,0.5,d")
    build_from_manifest(str(songs), str(tmp_path / "out"), duration_s=1, cut=True)
    found = [(m["caption"], m["labels"].get("start_s"), m["split"]) for m in metas(tmp_path / "out")]
    assert sorted(f[:2] for f in found if f[0] == "a") == [("a", 0.0), ("a", 1.0), ("a", 2.0), ("a", 3.0)]
    assert sorted(f[:2] for f in found if f[0] in "bcd") == [("b", 0.0), ("b", 1.0), ("c", None), ("d", 0.5)]
    assert len({split for caption, _, split in found if caption in "ad"}) == 1
    lengths = [
        soundfile.info(io.BytesIO(ShardSet(tmp_path / "out").read(e, ext))).duration
        for _, e in entries(tmp_path / "out")
        for ext in e.members
        if ext in ("wav", "flac") and e.key.startswith("long")
    ]
    assert sorted(lengths) == pytest.approx([0.6, 1, 1, 1, 1])


def test_training_reads_what_was_written(tmp_path):
    soundfile.write(tmp_path / "a.wav", 0.1 * np.random.default_rng(0).standard_normal((2 * RATE, 2)), RATE)
    png(tmp_path / "p.png", mode="L")
    table(tmp_path / "m.tsv", "audio\timage\tcaption\tsplit", "a.wav\tp.png\train, softly\ttrain")
    build_from_manifest(f"{tmp_path}/m.tsv", f"{tmp_path}/out")
    shards = ShardSet(tmp_path / "out")
    read = SampleReader(shards, AudioConfig(clip_duration_s=1.0), DataConfig(image_size_px=4))
    item = read(shards.entries("train")[0], 0.0)
    assert item["waveform"].shape == (16000,) and item["image"].shape == (3, 4, 4) and item["caption"] == "rain, softly"


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Sixty clips; 0 to 5 share a picture under other names, 10 and 11 are one recording twice."""
    for i in range(60):
        wav(tmp_path / f"{i}.wav", 0.01, 10 if i == 11 else i)
        png(tmp_path / f"{i}.png", 0 if i < 6 else i)
    return tmp_path


def splits(root: Path, order: list[int], out: str, **options) -> dict[str, str]:
    jsonl(root / "m.jsonl", *({"audio": f"{i}.wav", "image": f"{i}.png", "caption": f"{i}"} for i in order))
    build_from_manifest(f"{root}/m.jsonl", f"{root}/{out}", **options)
    return {meta["caption"]: meta["split"] for meta in metas(root / out)}


def test_splits_hang_on_names_never_on_order_and_do_not_leak(many):
    given = splits(many, list(range(60)), "a")
    keys = [entry for _, entry in entries(many / "a")]
    assert splits(many, list(range(59, -1, -1)), "b") == given
    assert [entry for _, entry in entries(many / "b")] == keys  # the same shards, byte for byte
    fewer = splits(many, list(range(40)), "c")
    assert fewer == {caption: given[caption] for caption in fewer}  # who else is there moves nobody
    assert len({given[str(i)] for i in range(6)}) == 1 and given["10"] == given["11"]
    assert set(given.values()) == set(SPLITS) and sum(split == "train" for split in given.values()) > 36
    assert splits(many, list(range(60)), "d", seed=1) != given


def test_ratios_and_few_samples(many):
    assert set(splits(many, list(range(60)), "a", split_ratios="0/1/1").values()) == {"val", "test"}
    assert set(splits(many, list(range(60)), "b", split_ratios="1,0,0").values()) == {"train"}
    assert sorted(splits(many, [7, 8, 9], "c").values()) == sorted(SPLITS)  # none is empty from three on


def test_split_field_wins_and_pulls_its_component_along(many):
    rows = [{"audio": f"{i}.wav", "image": f"{i}.png", "split": "test" if i == 3 else None} for i in range(6)]
    jsonl(many / "m.jsonl", *rows, {"audio": "10.wav", "split": "train"}, {"audio": "11.wav", "split": "val"})
    words = build_from_manifest(f"{many}/m.jsonl", f"{many}/out")
    assert sorted(meta["split"] for meta in metas(many / "out")) == ["test"] * 6 + ["train", "val"]
    assert "components with several splits, as the manifest says: 1" in words


def test_shared_picture_joins_two_videos(tmp_path):
    ids = [f"video{i:06d}" for i in range(30)]
    table(tmp_path / "pop.csv", HEADER, *(f"{i // 2}.png,{video},x" for i, video in enumerate(ids)))
    for i, video in enumerate(ids):
        wav(tmp_path / f"audio/{video}.wav", 0.01, i)
        png(tmp_path / f"{i}.png", i)
    build_from_manifest(f"{tmp_path}/pop.csv", f"{tmp_path}/out", f"{tmp_path}/audio")
    found = metas(tmp_path / "out")
    split = {meta["labels"]["youtube_video_id"]: meta["split"] for meta in found}
    assert all(meta["labels"].keys() == {"genre", "youtube_video_id", "track", "component"} for meta in found)
    shared = {split: {meta["labels"]["component"] for meta in found if meta["split"] == split} for split in SPLITS}
    assert sum(map(len, shared.values())) == 15 == len(set().union(*shared.values()))  # two videos each, in one split
    assert all(split[ids[i]] == split[ids[i + 1]] for i in range(0, 30, 2)) and set(split.values()) == set(SPLITS)


def test_same_row_twice_is_one_sample_and_another_caption_is_another(tmp_path):
    wav(tmp_path / "a b.wav")
    jsonl(tmp_path / "m.jsonl", *[{"audio": "a b.wav", "caption": caption} for caption in ("x", "x", "y")])
    words = build_from_manifest(f"{tmp_path}/m.jsonl", f"{tmp_path}/out")
    assert len(metas(tmp_path / "out")) == 2 and "samples given twice, kept once: 1" in words


def test_paths_that_lead_outside_are_refused(tmp_path):
    wav(tmp_path / "secret.wav")
    png(tmp_path / "secret.png")
    wav(tmp_path / "in/AAAAAAAAAA1.wav", 0.1)
    names = ("../secret.wav", "x/../../secret.wav", "/etc/passwd", "a\x00b", "a" * 5000, "/dev/zero", ".")
    jsonl(tmp_path / "in/own.jsonl", *({"audio": name} for name in names))
    table(
        tmp_path / "in/pop.csv",
        HEADER,
        "../secret.png,AAAAAAAAAA1,x",
        f"{tmp_path}/secret.png,AAAAAAAAAA1,x",
        "..\\secret.png,AAAAAAAAAA1,x",
    )
    jsonl(tmp_path / "in/caps.jsonl", {"location": "../secret.wav", "captions": "x"})
    (tmp_path / "in/images").mkdir()
    with pytest.raises(DataError, match=r"none of 11 samples can be used.*missing\.csv"):
        manifests = f"{tmp_path}/in/*.jsonl, {tmp_path}/in/pop.csv"
        build_from_manifest(manifests, f"{tmp_path}/out", f"{tmp_path}/in", f"{tmp_path}/in/images")
    reasons = [miss["reason"] for miss in missing(tmp_path / "out") if miss["manifest"].endswith("own.jsonl")]
    assert reasons[:2] == ["path leads out of the manifest's folder and the given ones"] * 2
    assert reasons[2].startswith("unreadable audio") and reasons[3] == "file not found" and len(reasons) == 7
    assert len(missing(tmp_path / "out")) == 11 and not list((tmp_path / "out").glob("*.tar"))


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("pop.csv", f'{HEADER}\n1.png,AAAAAAAAAA1,"a\nb"\n2.png,short,x\n', r"line 4, field youtube_video_id: 'short'"),
        ("pop.csv", f"{HEADER}\n1.png,AAAAAAAAAA1,a,b\n", r"pop\.csv, line 2, field Annotation: the row has 4 cells"),
        ("pop.csv", f"{HEADER}\n1.png\n", r"pop\.csv, line 2, field youtube_video_id: the row ends before it"),
        ("pop.csv", f'{HEADER}\n1.png,AAAAAAAAAA1,x\n2.png,AAAAAAAAAA2,"x\n', r"pop\.csv, line 3: not valid CSV"),
        ("pop.csv", "youtube_video_id,Annotation\nAAAAAAAAAA1,x\n", r"pop\.csv, line 2, field image_path: absent"),
        ("pop.csv", "a;b;c\n1;2;3\n", r"pop\.csv, line 2, field audio: absent.*a;b;c.*commas"),
        ("m.csv", "audio,split\na.wav,holdout\n", r"m\.csv, line 2, field split: 'holdout' is not train"),
        ("m.csv", "audio,split\na.wav,../../x\n", r"m\.csv, line 2, field split"),
        ("m.csv", "audio,start_s\na.wav,-1\n", r"m\.csv, line 2, field start_s: '-1' is no time"),
        ("m.csv", "audio,start_s\na.wav,nan\n", r"m\.csv, line 2, field start_s"),
        ("m.csv", "audio,title\n,x\n", r"m\.csv, line 2, field audio: empty"),
        ("m.csv", b"audio,title\na.wav,\xe4\n", r"m\.csv, line 2: this is not UTF-8"),
        ("m.jsonl", '{"audio": "a.wav"}\n\n{"audio": \n', r"m\.jsonl, line 3: not valid JSON"),
        ("m.jsonl", '{"audio": "\\ud800"}\n', r"m\.jsonl, line 1: not valid JSON"),
        ("m.jsonl", '{"audio": "a.wav"}\n["b.wav"]\n', r"m\.jsonl, line 2: .* is no object"),
        ("m.jsonl", '{"audio": {"path": "a.wav"}}\n', r"m\.jsonl, line 1, field audio: .* is not a text"),
        ("m.jsonl", '{"audio": "a.wav", "caption": ["x", {}]}\n', r"line 1, field caption: \{\} is not a text"),
        ("m.json", '[\n{"audio": "a.wav"},\n{"audio": "b.wav"}\n', r"m\.json, line 4: the array ends without \]"),
        ("m.json", "[" * 100_000, r"m\.json, line 1: not valid JSON"),
        ("m.txt", "a.wav\n", r"m\.txt: a manifest ends in"),
        ("m.csv", "", r"none of 0 samples"),
    ],
)
def test_malformed_manifests_are_named_by_file_line_and_field(tmp_path, name, text, sentence):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=f"(?s){sentence}") as error:
        build_from_manifest(f"{tmp_path}/{name}", f"{tmp_path}/out", str(tmp_path))
    assert str(error.value).startswith(str(tmp_path)) and str(error.value).endswith(".")


def test_options_are_asked_for_in_sentences(tmp_path, capsys, monkeypatch):
    for name in ("MANIFEST", "AUDIO_DIR", "IMAGE_DIR", "OUT", "SEED"):
        monkeypatch.delenv(name, raising=False)
    assert main(["shards"]) == 2 and "give out=… (with make OUT=…)" in capsys.readouterr().err
    assert main(["shards", f"out={tmp_path}/out"]) == 2 and "manifest=FILE" in capsys.readouterr().err
    table(tmp_path / "pop.csv", HEADER, "1.png,AAAAAAAAAA1,x")
    for options, sentence in (
        ({"manifest": f"{tmp_path}/none*.csv"}, "there is no such file"),
        ({"manifest": str(tmp_path)}, "name the files in it"),
        ({"manifest": f"{tmp_path}/pop.csv"}, "add audio_dir=FOLDER"),
        ({"manifest": f"{tmp_path}/pop.csv", "audio_dir": f"{tmp_path}/no"}, "audio_dir=.*is not a folder"),
        ({"manifest": f"{tmp_path}/pop.csv", "split_ratios": "8/2"}, "split_ratios='8/2'"),
        ({"manifest": f"{tmp_path}/pop.csv", "seed": "x"}, "seed='x'"),
        ({"manifest": f"{tmp_path}/pop.csv", "duration_s": "0"}, "duration_s='0'"),
    ):
        with pytest.raises((ConfigError, DataError), match=sentence):
            build_from_manifest(out=f"{tmp_path}/out", **options)


def test_options_travel_through_the_environment(tmp_path, capsys, monkeypatch):
    wav(tmp_path / "audio/a.wav")
    jsonl(tmp_path / "one, two.jsonl", {"audio": "a.wav"})  # a comma in a name that exists is no separator
    for name, value in (("MANIFEST", "one, two.jsonl"), ("AUDIO_DIR", "audio"), ("OUT", "out")):
        monkeypatch.setenv(name, f"{tmp_path}/{value}")
    monkeypatch.setenv("SEED", "3")
    assert main(["shards"]) == 0
    assert f"{tmp_path}/out: 1 " in capsys.readouterr().out and ShardSet(tmp_path / "out").info["seed"] == 3


def test_only_out_indexes_shards_again_and_keeps_their_info(tmp_path):
    wav(tmp_path / "a.wav")
    jsonl(tmp_path / "m.jsonl", {"audio": "a.wav", "split": "train"})
    build_from_manifest(f"{tmp_path}/m.jsonl", f"{tmp_path}/out")
    write_index(tmp_path / "out", {"provenance": {"code_version": 1}})
    (tmp_path / "out/train-000000.tar").rename(tmp_path / "out/val-000000.tar")
    assert "wrote the index" in build_from_manifest(out=f"{tmp_path}/out")
    assert ShardSet(tmp_path / "out").entries("val") and ShardSet(tmp_path / "out").info["provenance"]
    (tmp_path / "out/val-000000.tar").write_bytes(b"x" * 1000)
    with pytest.raises(DataError, match="is damaged"):
        build_from_manifest(out=f"{tmp_path}/out")


def test_other_tars_are_never_replaced_and_our_report_is_no_manifest(tmp_path):
    wav(tmp_path / "a.wav")
    table(tmp_path / "m.csv", "audio", "a.wav", "gone.wav")
    for _ in range(2):  # the second build finds missing.csv beside the manifest
        build_from_manifest(f"{tmp_path}/*.csv", str(tmp_path))
        assert len(missing(tmp_path)) == 1 and len(metas(tmp_path)) == 1
    (tmp_path / "backup.tar").touch()
    with pytest.raises(DataError, match=r"backup\.tar is not ours"):
        build_from_manifest(f"{tmp_path}/m.csv", str(tmp_path))
    assert (tmp_path / "backup.tar").exists() and len(metas(tmp_path)) == 1


def test_unreadable_files_are_listed_even_when_only_decoding_shows_it(tmp_path):
    wav(tmp_path / "good.wav", 2)
    (tmp_path / "noise.mp3").write_bytes(bytes(range(256)) * 4)
    (tmp_path / "phone.m4a").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(100))
    soundfile.write(tmp_path / "nan.wav", np.full(2 * RATE, np.nan, np.float32), RATE, subtype="FLOAT")
    names = ("good.wav", "noise.mp3", "phone.m4a", "nan.wav")
    jsonl(tmp_path / "m.jsonl", *({"audio": name, "start_s": 0.5} for name in names))
    words = build_from_manifest(f"{tmp_path}/m.jsonl", f"{tmp_path}/out", duration_s=1.0)
    assert {miss["value"]: miss["reason"] for miss in missing(tmp_path / "out")} == {
        "noise.mp3": "unreadable audio",
        "phone.m4a": "unreadable audio: convert it to flac, wav, mp3 or ogg",
        "nan.wav": "audio holds NaN or infinity, or ends before the excerpt",
    }
    assert len(metas(tmp_path / "out")) == 1 and "unreadable files: 3" in words
