"""Shards: what is written is what is read; indexes that do not fit are errors; nothing hostile is run or unpacked."""

import contextlib
import gzip
import io
import json
import os
import pickle
import tarfile
import time
from pathlib import Path

import pytest
import webdataset
from data_fixtures import data_set, encoded, make_sample, noise_picture, one_sentence

from melfusion.data import index, shards
from melfusion.data.index import write_index
from melfusion.data.options import DataConfig
from melfusion.data.shards import Sample, ShardSet
from melfusion.data.writing import write_shards
from melfusion.errors import DataError


def error_of(call, *args):
    with pytest.raises(DataError) as caught:
        call(*args)
    return one_sentence(caught.value)


def tar_of(path, members):
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def edit_index(folder, change):
    tree = json.loads((folder / "index.json").read_text())
    change(tree)
    (folder / "index.json").write_text(json.dumps(tree))


def test_members_come_back_byte_for_byte(tmp_path):
    picture = encoded(noise_picture(), "JPEG")
    samples = [
        make_sample(f"s{i}", image=picture if i % 2 else None, image_ext="jpg", title=f"♫ {i}", labels={"i": i}) for i in range(5)
    ]
    samples[3].extra["latents.safetensors"] = b"\0\1\2" * 1000
    shards = ShardSet(data_set(tmp_path / "a", samples, per_shard=2))
    entries = shards.entries("train")
    assert [entry.key for entry in entries] == ["s0", "s1", "s2", "s3", "s4"]
    for sample, entry in zip(samples, entries, strict=True):
        assert {ext: shards.read(entry, ext) for ext in entry.members} == sample.members()
        assert json.loads(shards.read(entry, "json")) == sample.meta
    assert set(entries[3].members) == {"json", "wav", "jpg", "latents.safetensors"} and "jpg" not in entries[2].members


def test_an_index_is_parsed_once_as_long_as_its_file_is_the_same(tmp_path, monkeypatch):
    parsed = []
    monkeypatch.setattr(shards, "parse_index", lambda text, where, n: [parsed.append(where), index.parse_index(text, where, n)][1])
    folder = data_set(tmp_path / "a", [make_sample("s0")])
    assert ShardSet(folder).counts() == ShardSet(folder).counts() and len(parsed) == 2  # written just now: it may yet change
    settle(folder)
    first = ShardSet(folder)
    first.info["more"] = 1
    assert ShardSet(folder).table is first.table and "more" not in ShardSet(folder).info and len(parsed) == 3
    text = (folder / "index.json").read_text()
    (folder / "index.json").write_text(text.replace("s0", "s1"))  # of the same size
    settle(folder)
    with pytest.raises(DataError, match="larger than data.max_index_mib"):
        ShardSet(folder, DataConfig(max_index_mib=1e-6))
    assert [e.key for e in ShardSet(folder).entries("train")] == ["s1"] and len(parsed) == 4
    (folder / "index.json").unlink()
    assert "no data set" in error_of(ShardSet, folder)


def settle(folder):
    """The index lies there since a minute."""
    os.utime(folder / "index.json", (time.time() - 60,) * 2)


def test_webdataset_reads_the_shards_too(tmp_path):
    folder = data_set(tmp_path, [make_sample(key) for key in "abc"])
    with (folder / "train-000000.tar").open("rb") as stream:
        read = list(
            webdataset.tariterators.group_by_keys(webdataset.tariterators.tar_file_expander([{"url": "x", "stream": stream}]))
        )
    assert [r["__key__"] for r in read] == ["a", "b", "c"]
    assert read[1]["wav"] == make_sample("b").audio and json.loads(read[1]["json"])["caption"] == "tune b"


def test_splits_and_rollover(tmp_path):
    order = [("train", "a"), ("val", "b"), ("train", "c"), ("train", "d"), ("test", "e"), ("train", "f"), ("train", "g")]
    counts = write_shards((make_sample(key, split) for split, key in order), tmp_path, samples_per_shard=2)
    assert counts == {"train": 5, "val": 1, "test": 1}
    names = [f"{shard}.tar" for shard in ("test-000000", "train-000000", "train-000001", "train-000002", "val-000000")]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["index.json", *names]
    shards = ShardSet(tmp_path)
    assert ["".join(e.key for e in shards.entries(s)) for s in ("train", "val", "test")] == ["acdfg", "b", "e"]
    assert [e.shard for e in shards.entries("train")] == [f"train-00000{i}.tar" for i in (0, 0, 1, 1, 2)]


def test_a_rebuild_leaves_nothing_of_the_former_data_set(tmp_path):
    data_set(tmp_path, [make_sample(f"s{i}", "train" if i else "val") for i in range(5)], per_shard=1)
    data_set(tmp_path, [make_sample("new")])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["index.json", "train-000000.tar"]
    assert [e.key for e in ShardSet(tmp_path).entries("train")] == ["new"]


def test_a_crash_while_rebuilding_leaves_the_former_data_set(tmp_path):
    def samples():
        yield from (make_sample(key) for key in "abc")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(samples(), tmp_path, samples_per_shard=2)
    assert "no index.json" in error_of(ShardSet, tmp_path) and not [*tmp_path.glob("*.tar")]
    data_set(tmp_path, [make_sample("old")])
    with pytest.raises(KeyboardInterrupt):
        write_shards(samples(), tmp_path, samples_per_shard=2)
    assert [e.key for e in ShardSet(tmp_path).entries("train")] == ["old"]
    data_set(tmp_path, [make_sample("new")])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["index.json", "train-000000.tar"]


def test_no_sample_at_all_is_an_error(tmp_path):
    assert str(tmp_path) in error_of(write_shards, [], tmp_path)


def test_info_is_kept(tmp_path):
    provenance = {"digest": "1", "grid": [0, 1]}
    assert ShardSet(data_set(tmp_path, [make_sample()], info={"provenance": provenance})).info == {"provenance": provenance}


def test_the_same_samples_make_the_same_bytes_and_digest_and_others_do_not(tmp_path):
    def build(name, *samples):
        return ShardSet(data_set(tmp_path / name, samples))

    first, again = build("a", make_sample("x"), make_sample("y")), build("b", make_sample("x"), make_sample("y"))
    assert (tmp_path / "a/train-000000.tar").read_bytes() == (tmp_path / "b/train-000000.tar").read_bytes()
    assert first.digest() == again.digest() and len(first.digest()) == 64
    others = [
        build("c", make_sample("x"), make_sample("y", title="t")),
        build("d", make_sample("y"), make_sample("x")),
        build("e", make_sample("x")),
        build("f", make_sample("x"), make_sample("y", "val")),
    ]
    assert len({shards.digest() for shards in [first, *others]}) == 5


@pytest.mark.parametrize("key", ["a b", "ü-♫", "a=b&c", "q'\"", "[x]", "%2e", "-rf", "a" * 150])
def test_keys_with_odd_characters(key, tmp_path):
    entry = ShardSet(data_set(tmp_path, [make_sample("z"), make_sample(key)])).entries("train")[1]
    assert entry.key == key
    assert ShardSet(tmp_path).read(entry, "wav") == make_sample(key).audio


@pytest.mark.parametrize("keys", [("a.1", "a.2"), ("x/1", "y/1"), ("same", "same")])
def test_keys_that_would_collide_stay_apart_or_are_refused(keys, tmp_path):
    samples = [make_sample(key, title=str(i)) for i, key in enumerate(keys)]
    try:
        shards = ShardSet(data_set(tmp_path, samples))
    except DataError:
        return
    titles = [json.loads(shards.read(entry, "json"))["title"] for entry in shards.entries("train")]
    assert titles == ["0", "1"]


@pytest.mark.parametrize("split", ["../evil", "", "a/b", None])
def test_a_split_that_is_no_file_name_is_refused(split, tmp_path):
    with pytest.raises((DataError, ValueError), match="split"):
        write_shards([make_sample("a", split)], tmp_path)
    assert not [*tmp_path.rglob("*.tar")]


def test_a_rebuild_spares_tars_that_are_not_shards(tmp_path):
    (tmp_path / "backup.tar").write_bytes(b"precious")
    with contextlib.suppress(DataError):  # to refuse is as good
        write_shards([make_sample()], tmp_path)
    assert (tmp_path / "backup.tar").is_file()


# --- indexes --------------------------------------------------------------------------------------------------------


def test_shards_of_others_can_be_indexed(tmp_path):
    members = [("d/1.JSON", b"{}"), ("d/1.flac", b"abc"), ("2.json", b"{}"), ("2.Latents.safetensors", b"x")]
    tar_of(tmp_path / "train-000.tar", members)
    write_index(tmp_path, {"source": "theirs"})
    shards = ShardSet(tmp_path)
    one, two = shards.entries("train")
    assert (one.key, shards.read(one, "flac"), shards.read(one, "json")) == ("1", b"abc", b"{}")
    assert set(two.members) == {"json", "latents.safetensors"} and shards.info == {"source": "theirs"}


def test_a_folder_without_shards_says_how_to_build_some(tmp_path):
    assert "make shards" in error_of(write_index, tmp_path)
    message = error_of(ShardSet, tmp_path)
    assert str(tmp_path) in message and "build it first" in message and "data/README.md" in message
    (tmp_path / "train-000.tar").write_bytes(b"")
    assert "melfusion shards" in error_of(ShardSet, tmp_path)
    assert "no index.json" in error_of(ShardSet, tmp_path / "nowhere")


def test_a_missing_or_changed_shard_is_an_error(tmp_path):
    data_set(tmp_path, [make_sample(key) for key in "abc"], per_shard=1)
    changed = tmp_path / "train-000001.tar"
    changed.write_bytes(changed.read_bytes() + b"\0" * 512)
    assert str(changed) in (message := error_of(ShardSet, tmp_path)) and "rebuild the index" in message
    changed.unlink()
    assert str(changed) in error_of(ShardSet, tmp_path)
    write_index(tmp_path)
    assert [e.key for e in ShardSet(tmp_path).entries("train")] == ["a", "c"]


@pytest.mark.parametrize("version", [0, 2, None, "1"])
def test_an_index_of_another_version_is_refused(version, tmp_path):
    data_set(tmp_path, [make_sample()])
    edit_index(tmp_path, lambda tree: tree.update(version=version))
    assert f"version {version}, this code reads 1" in error_of(ShardSet, tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"version": 1}', '{"version": 1, "info": {}, "shards": [{}]}'])
def test_a_damaged_index_is_an_error_that_names_it(text, tmp_path):
    data_set(tmp_path, [make_sample()])
    (tmp_path / "index.json").write_text(text)
    assert "index.json" in error_of(ShardSet, tmp_path)


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_truncated_shard_is_an_error_that_names_it(share, tmp_path):
    data_set(tmp_path, [make_sample(key) for key in "abc"])
    shard = tmp_path / "train-000000.tar"
    data = shard.read_bytes()
    shard.write_bytes(data[: int(share * len(data)) + 100])
    assert str(shard) in error_of(write_index, tmp_path)


@pytest.mark.parametrize("pack", [gzip.compress, lambda data: b"no tar", lambda data: b""], ids=["gzip", "text", "empty"])
def test_what_is_no_plain_tar_is_one_sentence(pack, tmp_path):
    """Offsets into a compressed tar would point nowhere."""
    data_set(tmp_path, [make_sample()])
    shard = tmp_path / "train-000000.tar"
    shard.write_bytes(pack(shard.read_bytes()))
    assert str(shard) in error_of(write_index, tmp_path)


def test_a_shard_cut_between_two_members_is_an_error(tmp_path):
    data_set(tmp_path, [make_sample(key) for key in "abc"])
    offset = ShardSet(tmp_path).entries("train")[2].members["json"][0] - 512
    shard = tmp_path / "train-000000.tar"
    shard.write_bytes(shard.read_bytes()[:offset])
    assert str(shard) in error_of(write_index, tmp_path)


def test_an_empty_split_names_those_that_there_are(tmp_path):
    shards = ShardSet(data_set(tmp_path, [make_sample("a"), make_sample("b", "val")]))
    message = error_of(shards.entries, "test")
    assert str(tmp_path) in message and "'test'" in message and "train, val" in message and "data.path" in message
    assert "'tr'" in error_of(shards.entries, "tr")  # a prefix is not the split


def test_an_empty_tar_holds_no_sample(tmp_path):
    tar_of(tmp_path / "train-000000.tar", [])
    write_index(tmp_path)
    assert "no sample of split 'train'" in error_of(ShardSet(tmp_path).entries, "train")


# --- hostile shards -------------------------------------------------------------------------------------------------


def test_nothing_of_a_tar_is_ever_unpacked(tmp_path):
    folder = tmp_path / "deep" / "data"
    folder.mkdir(parents=True)
    with tarfile.open(folder / "train-000000.tar", "w") as tar:
        for name in ("../../evil.json", "/tmp/melfusion-evil.json", "../../evil.flac"):
            info = tarfile.TarInfo(name)
            info.size = 2
            tar.addfile(info, io.BytesIO(b"{}"))
        for kind, name in ((tarfile.SYMTYPE, "link.json"), (tarfile.LNKTYPE, "hard.json"), (tarfile.CHRTYPE, "dev.json")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        info = tarfile.TarInfo("folder.json")
        info.type = tarfile.DIRTYPE
        tar.addfile(info)
    write_index(folder)
    entries = ShardSet(folder).entries("train")
    assert {e.key for e in entries} <= {"evil", "melfusion-evil", "../../evil", "/tmp/melfusion-evil"}
    assert all(ShardSet(folder).read(e, ext) == b"{}" for e in entries for ext in e.members)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["data", "deep", "index.json", "train-000000.tar"]


def test_pickles_are_never_read(tmp_path, tiny):
    from melfusion.data.datamodule import MusicDataModule

    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    payload = pickle.dumps(Trap())
    sample = make_sample("a")
    sample.extra |= {"pyd": payload, "pkl": payload, "pickle": payload, "pth": payload}
    config = tiny(f"data.path={data_set(tmp_path / 'data', [sample])}", "data.global_batch_size=1")
    module = MusicDataModule(config.data, config.audio)
    batch = next(iter(module.train_dataloader()))
    assert batch.keys == ["a"] and not module.replaced and not (tmp_path / "sprung").exists()


def test_a_sample_without_sound_or_picture_has_only_its_json():
    sample = Sample("a", b"", "flac", None, "png", {"caption": "♫"})
    assert sample.members() == {"json": '{"caption": "♫"}'.encode()}


def test_a_build_that_was_killed_while_its_shards_moved_is_done_again(tmp_path, monkeypatch):
    data_set(tmp_path, [make_sample("a"), make_sample("b", "val")])
    inner, moved = Path.replace, []

    def killed(self, target):
        if Path(target).parent == tmp_path:
            if moved:
                raise KeyboardInterrupt
            moved.append(self.name)
        return inner(self, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        data_set(tmp_path, [make_sample("c"), make_sample("d", "val")])
    monkeypatch.undo()
    assert moved == ["train-000000.tar"] and not (tmp_path / "index.json").is_file()
    data_set(tmp_path, [make_sample("c"), make_sample("d", "val")])
    assert [e.key for e in ShardSet(tmp_path).entries("train")] == ["c"] and not (tmp_path / ".building").exists()
    (tmp_path / "index.json").unlink()
    assert "which no index of ours names" in error_of(data_set, tmp_path, [make_sample("e")])
