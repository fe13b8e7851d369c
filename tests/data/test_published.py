"""Readers for sets that others published, each on a toy tree; films; what of our shards Hugging Face's `datasets` refuses."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from data_fixtures import data_set, encoded, make_sample, noise_picture, one_sentence, sound, tone, write_film
from PIL import Image

from melfusion.data.manifest.build import build_from_manifest
from melfusion.data.shards import ShardSet, picture_ext
from melfusion.data.sharing import refusals
from melfusion.errors import ConfigError, DataError

COLOURS = ((200, 0, 0), (0, 200, 0), (0, 0, 200))


def put(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def wav(path: Path, number: int = 0, seconds: float = 1.0) -> Path:
    return put(path, sound(tone(seconds, 1000, 50 + number), 1000))


def build(root: Path, manifest: str, **options) -> str:
    return build_from_manifest(f"{root}/{manifest}", f"{root}/out", f"{root}/audio", f"{root}/images", **options)


def stored(out: Path) -> dict[str, dict]:
    """First word of the key → the sample's json, its split, and its members' bytes."""
    shards, found = ShardSet(out), {}
    for split in shards.counts():
        for entry in shards.entries(split):
            members = {ext: bytes(shards.read(entry, ext)) for ext in entry.members}
            found[entry.key.rpartition("-")[0]] = json.loads(members.pop("json")) | {"members": members}
    return found


# --- EMID -----------------------------------------------------------------------------------------------------------
EMID = "Audio_Filename,genre,feeling,emotion,Image1_filename,Image1_tag,Image2_filename,Image3_filename,is_original_clip"


def test_emid_has_three_pictures_a_clip_and_one_recording_in_one_split(tmp_path):
    rows = [
        f'{name},K,"33% Sad, 22% Proud","5,5.3","{a}.jpg",awe,{b}.jpg,{a + 1}.jpg,{name.endswith("0.mp3")}'
        for name, a, b in (("1.m4a___0.mp3", 0, 1), ("1.m4a___9.mp3", 2, 3), ("2.m4a___0.mp3", 4, 5), ("3.m4a___0.mp3", 6, 9))
    ]
    put(tmp_path / "EMID_data.csv", "\n".join([EMID, *rows]))
    for i, name in enumerate(("1.m4a___0", "1.m4a___9", "2.m4a___0", "3.m4a___0")):
        wav(tmp_path / f"audio/{name}.wav", i)
    for i in range(8):
        put(tmp_path / f"images/sub/{i}.jpg", encoded(noise_picture(i), "JPEG"))
    words = build(tmp_path, "EMID_data.csv")
    found = stored(tmp_path / "out")
    assert set(found) == {"K-1-m4a___0", "K-1-m4a___9", "K-2-m4a___0"} and "Image1_filename: file not found: 1" in words
    first = found["K-1-m4a___0"]
    assert set(first["members"]) == {"wav", "jpg", "1.jpg", "2.jpg"} and first["caption"] == "33% Sad, 22% Proud"
    assert first["members"]["2.jpg"] == (tmp_path / "images/sub/1.jpg").read_bytes() and first["source"] == "EMID"
    assert first["labels"] | {"genre": "K", "Image1_tag": "awe", "is_original_clip": "True"} == first["labels"]
    assert first["labels"]["track"] == found["K-1-m4a___9"]["labels"]["track"] != found["K-2-m4a___0"]["labels"]["track"]
    assert first["split"] == found["K-1-m4a___9"]["split"]


def test_parquet_holds_its_files_within_itself(tmp_path):
    import pyarrow
    from pyarrow import parquet

    def file(data, path):
        return {"bytes": data, "path": path}

    sounds, picture = [sound(tone(1.0, 1000, 50 + i)) for i in range(3)], encoded(noise_picture(0), "JPEG")
    rows = [
        {
            "Audio_Filename": file(data, f"{i}.m4a___1.wav"),
            "genre": "A",
            "feeling": f"felt {i}",
            "Image1_filename": file(encoded(noise_picture(i + 1)), None),
            "Image2_filename": file(picture, "x.jpg"),
            "Image3_filename": None,
        }
        for i, data in enumerate(sounds)
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "train-00000-of-00001.parquet")
    build_from_manifest(f"{tmp_path}/*.parquet", f"{tmp_path}/out")
    found = stored(tmp_path / "out")
    assert set(found) == {f"A-{i}-m4a___1" for i in range(3)}
    one = found["A-1-m4a___1"]
    assert one["members"] == {"wav": sounds[1], "png": encoded(noise_picture(2)), "1.jpg": picture} and one["caption"] == "felt 1"
    assert not list((tmp_path / "out").glob(".unpacked*"))
    own = [{"audio": sounds[0], "image": [file(picture, "a/b.jpg")], "caption": "mine", "bpm": 90, "seen": None}]
    parquet.write_table(pyarrow.Table.from_pylist(own), tmp_path / "mine.parquet")
    build_from_manifest(f"{tmp_path}/mine.parquet", f"{tmp_path}/own")
    [one] = stored(tmp_path / "own").values()
    assert one["caption"] == "mine" and one["labels"]["bpm"] == 90 and set(one["members"]) == {"flac", "jpg"}
    put(tmp_path / "broken.parquet", b"PAR1 is not all")
    with pytest.raises(DataError, match="broken.parquet: this parquet cannot be read") as error:
        build_from_manifest(f"{tmp_path}/broken.parquet", f"{tmp_path}/none")
    one_sentence(error.value)


def test_parquet_without_its_package_is_a_sentence(tmp_path, monkeypatch):
    put(tmp_path / "a.parquet", b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"melfusion\[parquet\]"):
        build_from_manifest(f"{tmp_path}/a.parquet", f"{tmp_path}/out")


# --- films ----------------------------------------------------------------------------------------------------------
def film(path: Path, seconds: int = 3, number: int = 0) -> Path:
    """A second of each colour, over and over; a corner says the number of the film."""
    frames = np.stack([np.full((32, 48, 3), COLOURS[i // 10 % 3], np.uint8) for i in range(10 * seconds)])
    frames[:, :8, :8] = 25 * number
    return write_film(path, frames)


def colours(sample: dict) -> list[int]:
    """The colour of each of a sample's pictures, in order."""
    exts = ["jpg", *(picture_ext(k, "jpg") for k in (1, 2, 3)), "none"]
    shown = [Image.open(io.BytesIO(sample["members"][ext])) for ext in exts if ext in sample["members"]]
    return [int(np.argmax(np.asarray(image)[20, 30])) for image in shown]


OSSL = {"train": ("m1_000", "m1_001", "m3_000"), "test": ("m2_000",)}


@pytest.fixture
def ossl(tmp_path):
    """Four clips of three films, with their sounds and without a film."""
    put(tmp_path / "metadata.csv", "id,film,year\nm1,The Mill,1921\nm2,The Sea,1925\n")
    for split, clips in OSSL.items():
        put(tmp_path / f"splits/{split}.txt", "\n".join(clips) + "\n")
        for i, clip in enumerate(clips):
            wav(tmp_path / f"{split}/audio/{clip.split('_')[0]}/{clip}.wav", i + 9 * (split == "test"))
    return tmp_path


def test_ossl_has_splits_of_its_own_and_a_row_for_each_film(ossl):
    build_from_manifest(f"{ossl}/splits/*.txt", f"{ossl}/out", str(ossl))
    found = stored(ossl / "out")
    assert {name: one["split"] for name, one in found.items()} == {clip: split for split in OSSL for clip in OSSL[split]}
    assert found["m1_000"]["source"] == "OSSL-v2" and all(set(one["members"]) == {"wav"} for one in found.values())
    assert found["m1_000"]["labels"]["film"] == {"id": "m1", "film": "The Mill", "year": "1921"}
    assert found["m1_000"]["labels"]["track"] == found["m1_001"]["labels"]["track"] != found["m2_000"]["labels"]["track"]


def test_ossl_has_a_film_beside_each_sound(ossl):
    for split, clips in OSSL.items():
        for i, clip in enumerate(clips):
            film(ossl / f"{split}/video/{clip.split('_')[0]}/{clip}.mp4", 3, i + 5 * (split == "test"))
    (ossl / "train/video/m3/m3_000.mp4").unlink()
    words = build_from_manifest(f"{ossl}/splits/*.txt", f"{ossl}/out", str(ossl), str(ossl), frames=3)
    found = stored(ossl / "out")
    assert set(found) == {"m1_000", "m1_001", "m2_000"} and "video: file not found: 1" in words
    assert all(colours(one) == [0, 1, 2] for one in found.values())


MUSICCAPS = "ytid,start_s,end_s,caption,aspect_list\nAAAAAAAAAA1,30,40,slow,x\n"


def test_musiccaps_is_an_excerpt_of_a_video(tmp_path):
    put(tmp_path / "musiccaps.csv", MUSICCAPS)
    wav(tmp_path / "audio/AAAAAAAAAA1.wav", 1, 45)
    build_from_manifest(f"{tmp_path}/musiccaps.csv", f"{tmp_path}/out", f"{tmp_path}/audio")
    [whole] = stored(tmp_path / "out").values()
    clip, rate = soundfile.read(io.BytesIO(whole["members"]["flac"]))
    np.testing.assert_allclose(clip, tone(45, 1000, 51)[30000:40000], atol=1e-4)
    assert rate == 1000 and whole["caption"] == "slow" and whole["labels"]["end_s"] == "40"
    assert set(whole["members"]) == {"flac"}  # without image_dir: no pictures


def test_frames_of_a_film_are_those_of_the_excerpt(tmp_path):
    """MusicCaps: a whole video and its sound; of a film of the excerpt's own length it is the film itself."""
    put(tmp_path / "musiccaps.csv", f"{MUSICCAPS}AAAAAAAAAA2,7,17,fast,x\nAAAAAAAAAA3,7,17,cut,x\n")
    wav(tmp_path / "audio/AAAAAAAAAA1.wav", 1, 45)
    wav(tmp_path / "audio/AAAAAAAAAA2_7.wav", 2, 10)
    film(tmp_path / "images/AAAAAAAAAA1.mp4", 45)
    wav(tmp_path / "audio/AAAAAAAAAA3.wav", 3, 20)
    for number in (2, 3):
        film(tmp_path / f"images/AAAAAAAAAA{number}.mp4", 10, number)
    build(tmp_path, "musiccaps.csv", frames=2)
    found = stored(tmp_path / "out")
    whole, part = found["AAAAAAAAAA1"], found["AAAAAAAAAA2"]
    assert colours(whole) == [32 % 3, 37 % 3] and colours(part) == colours(found["AAAAAAAAAA3"]) == [
        2,
        7 % 3,
    ]  # 32.5 s and 37.5 s; 2.5 s and 7.5 s


def m2ugen(shown, played, **files):
    return files | {
        "conversation": [
            {"from": "human", "value": f"Generate music for {shown}", "caption": shown, "input_modality": "image"},
            {"from": "gpt", "value": "Here it is", "caption": played, "output_modality": "audio"},
        ]
    }


def test_muimage_knows_sounds_by_their_endings(tmp_path):
    rows = [
        m2ugen("a hill", "a flute", input_file="AAAAAAAAAA1.mp3", output_file="AAAAAAAAAA1.jpg"),
        m2ugen("a road", "a drum", input_file="AAAAAAAAAA2.jpg", output_file="AAAAAAAAAA2.mp3"),
    ]
    put(tmp_path / "MUImageInstructions.json", json.dumps(rows))
    for i in (1, 2):
        put(tmp_path / f"audio/AAAAAAAAAA{i}.mp3", sound(tone(1.0, 16000, 300 + i), 16000, "MP3"))
        put(tmp_path / f"images/AAAAAAAAAA{i}.jpg", encoded(noise_picture(i), "JPEG"))
    build(tmp_path, "MUImageInstructions.json")
    found = stored(tmp_path / "out")
    assert {name: one["caption"] for name, one in found.items()} == {"AAAAAAAAAA1": "a flute", "AAAAAAAAAA2": "a drum"}
    assert all(set(one["members"]) == {"mp3", "jpg"} for one in found.values())
    assert found["AAAAAAAAAA2"]["labels"]["picture_caption"] == "a road"
    both = m2ugen("", "", input_file="a.mp3", output_file="b.mp3")
    for wrong, words in ((both, "is a sound as output_file is"), (both | {"conversation": "hello"}, "is no list of objects")):
        put(tmp_path / "wrong.json", json.dumps([wrong]))
        with pytest.raises(DataError, match=words) as error:
            build(tmp_path, "wrong.json")
        one_sentence(error.value)


def test_muvideo_has_films(tmp_path):
    video = [m2ugen("a sea", "a harp", input_file="x.mp4", output_file="x.mp3")]
    put(tmp_path / "MUVideoInstructions.json", json.dumps(video))
    put(tmp_path / "audio/x.mp3", sound(tone(3.0, 16000, 400), 16000, "MP3"))
    film(tmp_path / "images/x.mp4")
    build(tmp_path, "MUVideoInstructions.json", frames=3)
    [one] = stored(tmp_path / "out").values()
    assert one["caption"] == "a harp" and colours(one) == [0, 1, 2]


V2M = ("AAAAAAAAAA1", "shortid8", "AAAAAAAAAA3")


@pytest.fixture
def v2m(tmp_path):
    """Three ids, one of them of the benchmark, with their sounds and without a film; and one without a sound."""
    put(tmp_path / "V2M-20k.txt", "AAAAAAAAAA1\nshortid8\nmissing9\nAAAAAAAAAA3\n")
    put(tmp_path / "V2M-bench.txt", "AAAAAAAAAA3\n")
    for i, name in enumerate(V2M):
        wav(tmp_path / f"audio/{name}.wav", i, 4)
    return tmp_path


def test_v2m_is_lists_of_ids_and_a_folder_of_sounds(v2m):
    words = build_from_manifest(f"{v2m}/V2M*.txt", f"{v2m}/out", f"{v2m}/audio")
    found = stored(v2m / "out")
    assert set(found) == set(V2M) and "video_id: file not found: 1" in words
    assert found["AAAAAAAAAA3"]["split"] == "test" and found["shortid8"]["labels"]["youtube_video_id"] == "shortid8"


def test_v2m_has_a_film_of_each_id(v2m):
    for i, name in enumerate(V2M):
        film(v2m / f"images/{name}.{'mkv' if i else 'mp4'}", 4, i)
    build(v2m, "V2M*.txt")
    found = stored(v2m / "out")
    assert set(found) == set(V2M)
    assert all(colours(one) == [2] for one in found.values())  # 2 s
    build(v2m, "V2M-20k.txt", cut=True, duration_s=1)
    shards = ShardSet(v2m / "out")
    pieces = [entry for split in shards.counts() for entry in shards.entries(split)]
    cut = {json.loads(shards.read(e, "json"))["labels"]["start_s"]: bytes(shards.read(e, "jpg")) for e in pieces}
    assert len(pieces) == 12 and {s: colours({"members": {"jpg": one}}) for s, one in cut.items()} == {
        0.0: [0],
        1.0: [1],
        2.0: [2],
        3.0: [0],
    }


def test_a_film_that_is_none_is_listed_and_films_without_their_package_are_a_sentence(tmp_path, monkeypatch):
    put(tmp_path / "m.csv", "audio,image\na.wav,a.mp4\nb.wav,b.png\n")
    for i, name in enumerate("ab"):
        wav(tmp_path / f"audio/{name}.wav", i)
    put(tmp_path / "images/a.mp4", b"no film")
    put(tmp_path / "images/b.png", encoded(noise_picture()))
    assert "image: unreadable film: 1" in build(tmp_path, "m.csv")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ConfigError, match=r"melfusion\[video\]"):
        build(tmp_path, "m.csv")


# --- what others make of our shards ---------------------------------------------------------------------------------
def test_it_is_said_where_hugging_face_refuses(tmp_path):
    picture = encoded(noise_picture())
    alike = [make_sample(f"a{i}", image=picture) for i in range(5)]
    assert refusals(data_set(tmp_path / "alike", [*alike, make_sample("a9")], per_shard=9)) == []  # it looks at five
    assert refusals(data_set(tmp_path / "next", [*alike[:4], make_sample("a9")], per_shard=4)) == []  # of one shard
    tests = [make_sample("t0", "test", image=picture), make_sample("t1", "test", image=picture, image_ext="jpg")]
    [sentence] = refusals(data_set(tmp_path / "two", [*alike, *tests], per_shard=9))
    assert "test-000000.tar" in sentence and "t0 has json, png, wav and t1 has jpg, json, wav" in sentence
    put(tmp_path / "m.csv", "audio,image,split\na.wav,a.png,train\nb.wav,,train\n")
    for i, name in enumerate("ab"):
        wav(tmp_path / f"audio/{name}.wav", i)
    put(tmp_path / "images/a.png", picture)
    assert "train-000000.tar: Hugging Face's datasets may refuse" in build(tmp_path, "m.csv")
