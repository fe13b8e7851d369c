"""`melfusion generate list=`: what is made, found again, shared, ranked and refused; and what its files say of themselves."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import building as build
import numpy as np
import pytest
import soundfile
from data_fixtures import one_sentence
from metric_fixtures import clap_twin, write_clip
from PIL import Image

from melfusion.__main__ import main
from melfusion.assembly import batches
from melfusion.assembly.configuration import load_config
from melfusion.assembly.export import export
from melfusion.assembly.provenance import fingerprint, read
from melfusion.errors import ConfigError
from melfusion.media.sound import write_wav
from melfusion.verbs import generate as module
from melfusion.verbs.generate import Options


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny exported folder that needs nothing else, with towers and a judge."""
    return exported(tmp_path_factory.mktemp("model"))


def exported(folder, *more):
    weights = list(more)
    for name in ("music_vae", "judge", "towers"):
        own = load_config("tiny", [f"task={name}", "judge.attributes={place: [sea, city]}"])
        build.export_part(build.part(own), own, folder / name)
        (folder / name / "README.md").write_text("---\nlicense: mit\n---\n")
        weights.append(f"{name}.weights={folder / name}")
    config = load_config("tiny", [*weights, "synapse.kind=concat"])
    return str(export(build.system(config).eval(), config, folder / "out"))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with two pictures."""
    for i in range(2):
        pixels = np.random.default_rng(i).integers(0, 255, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"p{i}.png")
    monkeypatch.chdir(tmp_path)
    for name in ("IMAGE", "PROMPT", "OUT", "CKPT"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


ITEMS = (
    {"prompt": "a", "image": "p0.png", "seed": 3},
    {"prompt": "b", "image": "p1.png", "n": 2, "out": "b.flac", "labels": {"place": "sea"}},
    {"prompt": "c", "duration_s": 0.5},
    {"prompt": "d", "guidance_scale": 1.0},
)


def listed(folder, *items):
    (folder / "items.jsonl").write_text("".join(f"{one if isinstance(one, str) else json.dumps(one)}\n" for one in items))


def make(model, **options):
    return module.run(Options(ckpt=model, items="items.jsonl", out="o", num_inference_steps=1, **options), [])


def lines(folder):
    return [json.loads(line) for line in (folder / "o" / "manifest.jsonl").read_text().splitlines()]


def command_of(shown):
    """The words after `melfusion` of the command that `show` has printed, as a shell divides them."""
    command = shown.partition("Again: ")[2].strip()
    return subprocess.run(["bash", "-c", f"printf '%s\\0' {command}"], capture_output=True, text=True).stdout.split("\0")[1:-1]


def samples(file):
    return soundfile.read(file)[0]


def test_every_item_is_made_and_only_what_changed_is_made_again(model, folder, monkeypatch):
    calls, call = [], batches.Pipeline.__call__
    monkeypatch.setattr(batches.Pipeline, "__call__", lambda *args, **more: [call(*args, **more), calls.append(args[1])][0])
    listed(folder, *ITEMS)
    files = make(model)
    assert [file.name for file in files] == ["00000.wav", "b-0.flac", "b-1.flac", "00002.wav", "00003.wav"]
    assert sorted(map(len, calls)) == [1, 1, 3]  # those of one length and one way of sampling at once
    assert len(samples(files[3])) == 4000 and [line["seed"] for line in lines(folder)] == [3, 0, 1, 0, 0]
    assert make(model) == files and len(calls) == 3
    before = {file: file.read_bytes() for file in files}
    listed(folder, *ITEMS[:2], {"prompt": "c", "duration_s": 0.5, "seed": 1}, ITEMS[3])
    files[4].unlink()
    make(model)
    assert [*calls[3:]] in ([["c"], ["d"]], [["d"], ["c"]])
    assert [file.name for file in files if file.read_bytes() != before[file]] == ["00002.wav"]
    assert [line["item"] for line in lines(folder)] == [0, 1, 1, 2, 3] and lines(folder)[3]["seed"] == 1


def test_a_bad_item_is_a_line_and_the_others_are_made(model, folder, capsys):
    bad = ({"prompt": "x", "image": "nope.png"}, {"prompt": "x", "bpmm": 3}, "no json", {"seed": 1}, {"prompt": "x", "seed": -1})
    (folder / "no.png").write_bytes(b"no picture")
    more = ({"prompt": "x", "image": "no.png"}, {"prompt": "x", "out": "../x.wav"}, {"prompt": "x", "duration_s": 1e9})
    listed(folder, ITEMS[0], *bad, *more, {"prompt": "e", "out": "00000.wav"}, ITEMS[3])
    assert main(["generate", "list=items.jsonl", "out=o", f"ckpt={model}", "num_inference_steps=1"]) == 2
    error = capsys.readouterr().err.strip()
    assert "9 of 11 clips could not be made" in error and "\n" not in error
    said = [line["error"] for line in lines(folder)]
    words = (
        "no such file",
        "no field 'bpmm'",
        "no JSON",
        "neither prompt nor image",
        "seed=-1 is no whole number",
        "unreadable image",
    )
    for word, line in zip(
        (*words, "no name", "at most 3600", "another item of this list writes 00000.wav"), said[1:], strict=False
    ):
        assert word in line
    assert said[0] is said[-1] is None and all((folder / "o" / name).is_file() for name in ("00000.wav", "00010.wav"))


def test_processes_share_a_list_and_write_one_manifest(model, folder, monkeypatch):
    listed(folder, *({"prompt": str(i)} for i in range(5)))
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "2")
    assert [file.name for file in make(model)] == ["00001.wav", "00003.wav"]
    assert [file.name for file in make(model, share="0/2")] == ["00000.wav", "00002.wav", "00004.wav"]
    assert [line["item"] for line in lines(folder)] == list(range(5))


def test_a_line_that_a_full_disk_has_cut_spoils_no_other(model, folder):
    listed(folder, *({"prompt": str(i)} for i in range(3)))
    make(model)
    manifest = folder / "o" / "manifest.jsonl"
    whole = manifest.read_text().splitlines(keepends=True)
    manifest.write_text("".join(whole[:1]) + whole[1][:20])  # the second line is cut, the third was never written
    make(model)
    assert [line["item"] for line in lines(folder)] == [0, 1, 2]


@pytest.mark.slow  # two processes that import everything; who makes which share is a fast test
def test_the_launcher_of_training_makes_a_list(model, folder):
    """DEVICES=2: the clips of one process, one manifest, and one of the processes says what went wrong."""
    listed(folder, *({"prompt": str(i), "seed": i} for i in range(3)), {"prompt": "x", "bpmm": 3})
    command = [sys.executable, "-m", "melfusion", "generate", "list=items.jsonl", f"ckpt={model}", "num_inference_steps=1"]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    runs = {
        n: subprocess.run([*command, f"out=o{n}", f"trainer.devices={n}"], env=environment, capture_output=True, text=True)
        for n in (1, 2)
    }
    for n, run in runs.items():
        assert run.returncode == 2 and run.stderr.count("1 of 4 clips could not be made") == 1, (n, run.stderr)
    assert "share 1 of 2" in runs[2].stdout + runs[2].stderr
    for i in range(3):
        one, two = (samples(folder / f"o{n}" / f"0000{i}.wav") for n in (1, 2))  # batches of 3, and of 2 and 1
        assert np.allclose(one, two, atol=2e-4) and np.abs(one).max() > 0.01
    assert len((folder / "o2" / "manifest.jsonl").read_text().splitlines()) == 4


def test_a_full_disk_keeps_what_is_made(model, folder, monkeypatch, capsys):
    write, written = batches.Music.write, []

    def full(music, row, file, metadata):
        if len(written) == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
        write(music, row, file, metadata)
        written.append(file)

    listed(folder, *({"prompt": str(i)} for i in range(3)))
    monkeypatch.setattr(batches.Music, "write", full)
    assert main(["generate", "list=items.jsonl", "out=o", f"ckpt={model}", "num_inference_steps=1"]) == 2
    assert "the disk of o/00001.wav is full" in capsys.readouterr().err
    monkeypatch.setattr(batches.Music, "write", write)
    kept = (folder / "o" / "00000.wav").stat().st_mtime_ns
    assert len(lines(folder)) == 1 and len(make(model)) == 3 and len(lines(folder)) == 3
    assert (folder / "o" / "00000.wav").stat().st_mtime_ns == kept


def test_the_best_of_several_seeds_by_a_score_is_kept_and_what_is_not_there_is_refused(model, folder):
    listed(folder, ITEMS[0], {"prompt": "b", "n": 2, "seed": 5})
    files = make(model, best_of=3, rank_by="towers")
    found = lines(folder)
    assert [list(map(int, line["scores"])) for line in found] == [[3, 4, 5], [5, 6, 7], [8, 9, 10]]
    assert all(line["scores"][str(line["seed"])] == max(line["scores"].values()) for line in found)
    assert len(set(found[1]["scores"].values())) == 3 and read(files[1])["seed"] == found[1]["seed"]
    listed(folder, {"prompt": "a", "image": "p0.png", "labels": {"place": "sea"}}, {"prompt": "b"})
    with pytest.raises(ConfigError, match="item 1: rank_by=judge needs labels"):
        make(model, best_of=2, rank_by="judge")
    assert [(line["item"], line["clip"]) for line in lines(folder)] == [(0, 0), (1, 0)]
    assert lines(folder)[0]["scores"]["0"] < 0 and lines(folder)[1]["error"] == "rank_by=judge needs labels in this item"
    for name, words in (("clap", "names no CLAP"), ("imsm", "names no CLIP"), ("ears", "is none of judge")):
        with pytest.raises(ConfigError, match=words) as caught:
            make(model, best_of=2, rank_by=name)
        one_sentence(caught.value)
    with pytest.raises(ConfigError, match="give rank_by="):
        make(model, best_of=2)


def test_imsm_ranks_by_picture_and_caption(model, folder):
    listed(folder, ITEMS[0], {"prompt": "b", "image": "p1.png"})
    make(model, best_of=2, rank_by="imsm_scenes")
    assert all(0 < score < 1 for line in lines(folder) for score in line["scores"].values())


def test_clap_and_clip_rank_where_the_configuration_names_them(folder, tmp_path_factory):
    place = tmp_path_factory.mktemp("networks")
    clap_twin(place / "clap")
    write_clip(place / "clip", 16)
    names = (f"evaluation.embedders={{clap: {place / 'clap'}}}", f"evaluation.clip={place / 'clip'}")
    model = exported(tmp_path_factory.mktemp("ranked"), *names)
    listed(folder, ITEMS[0], {"prompt": "b", "image": "p1.png"})
    for name, least in (("clap", -1), ("imsm", 0)):
        make(model, best_of=2, rank_by=name)
        scores = [score for line in lines(folder) for score in line["scores"].values()]
        assert len(set(scores)) == 4 and all(least < score < 1 for score in scores)
        assert all(line["scores"][str(line["seed"])] == max(line["scores"].values()) for line in lines(folder))


def test_sounds_and_stories_of_a_list_are_edited_remembered_and_made_again(model, folder, capsys):
    write_wav("song.wav", 0.3 * np.sin(np.arange(8192) / 9), 8000)
    scenes = [{"image": "p0.png", "start_s": 0}, {"image": "p1.png", "start_s": 1}]
    (folder / "story.json").write_text(json.dumps(scenes))
    restyled, told = (
        {"prompt": "a", "audio": "song.wav", "strength": 0.5},
        {"prompt": "b", "story": "story.json", "duration_s": 2.0},
    )
    listed(folder, restyled, told, restyled | {"strength": 0.9}, {"strength": 0.5})
    with pytest.raises(ConfigError, match="1 of 4 clips could not be made.* item 3: it has neither"):
        make(model)
    names = ["00000.wav", "00001.wav", "00002.wav"]
    assert [len(samples(folder / "o" / name)) for name in names] == [8192, 16000, 8192]
    assert not np.array_equal(samples("o/00000.wav"), samples("o/00002.wav"))
    assert list(read("o/00001.wav")["files"]) == ["story", "scene 1", "scene 2"]
    before = {name: Path("o", name).read_bytes() for name in names}
    Path("p1.png").write_bytes(Path("p0.png").read_bytes())
    listed(folder, restyled, told, restyled | {"strength": 0.9})
    make(model)
    assert [name for name in names if Path("o", name).read_bytes() != before[name]] == ["00001.wav"]
    capsys.readouterr()
    for name in names:
        assert main(["show", f"o/{name}"]) == 0
        shown = capsys.readouterr().out
        assert "But:" not in shown and main(command_of(shown)) == 0
        assert Path("again.wav").read_bytes() == Path("o", name).read_bytes()
        capsys.readouterr()
    listed(folder, {"prompt": "b", "duration_s": 2.0})
    make(model)
    whole = samples("o/00000.wav")
    assert not np.array_equal(samples(make(model, window_s=0.5)[0]), whole)  # options of the call are of all items


def test_a_list_may_be_csv(model, folder):
    (folder / "items.csv").write_text('prompt,image,seed,duration_s\na,p0.png,3,\n"b, loud",,,0.5\n')
    options = Options(ckpt=model, items="items.csv", out="o", num_inference_steps=1)
    files = module.run(options, [])
    assert [read(file)["prompt"] for file in files] == ["a", "b, loud"] and len(samples(files[1])) == 4000


@pytest.mark.parametrize("end", ["wav", "flac", "mp3"])
def test_the_command_of_a_file_makes_it_again_to_the_bit(model, folder, capsys, end):
    """Alone, and as one row of a batch."""
    listed(folder, ITEMS[0], {**ITEMS[1], "prompt": 'it\'s a "tune" $1 ♪', "out": f"b.{end}", "seed": 7})
    file = make(model, format=end)[2]
    assert main(["generate", f"ckpt={model}", "prompt=x", "image=p0.png", "num_inference_steps=1", f"out=one.{end}"]) == 0
    capsys.readouterr()
    for first in (file, Path(f"one.{end}")):
        assert main(["show", str(first)]) == 0
        shown = capsys.readouterr().out
        assert "But:" not in shown
        assert main(command_of(shown)) == 0
        assert Path(f"again.{end}").read_bytes() == first.read_bytes()
        capsys.readouterr()


def test_what_changed_since_is_said_and_metadata_may_be_left_out(model, folder, capsys):
    arguments = ["generate", f"ckpt={model}", "prompt=x", "image=p0.png", "num_inference_steps=1"]
    assert main([*arguments, "out=a.wav"]) == 0 and main([*arguments, "out=b.wav", "metadata=false"]) == 0
    record = read("a.wav")
    assert record["image"]["sha256"] == fingerprint(Path("p0.png")) and record["settings"]["guidance_scale"] == 3.0
    assert len(record["model"]["digest"]) == 64 and read("b.wav") is None and np.array_equal(samples("a.wav"), samples("b.wav"))
    Path("p1.png").rename("p0.png")
    Path(model, "system.json").touch()
    capsys.readouterr()
    assert main(["show", "a.wav"]) == 0 and "But: p0.png is another file now." in capsys.readouterr().out
    record["model"]["file"], record["melfusion"] = "0" * 64, "0.0.1"
    Path("a.wav").write_bytes(batches_encode(record))
    assert main(["show", "a.wav"]) == 0
    shown = capsys.readouterr().out
    assert f"But: {model} is another model now." in shown and "which may compute something else" in shown
    assert main(["show", "b.wav"]) == 2 and "says nothing of how it was made" in capsys.readouterr().err


def batches_encode(record):
    from melfusion.assembly.provenance import comment_of
    from melfusion.media.tagged import encode

    return encode(np.zeros(9, np.float32), 8000, "wav", comment_of(record))


def test_show_imports_no_torch(folder):
    (folder / "a.wav").write_bytes(batches_encode({"melfusion": "0.1.0", "prompt": "x", "seed": 1, "model": {"ckpt": None}}))
    code = "import sys; from melfusion.__main__ import main; main(['show', 'a.wav']); assert 'torch' not in sys.modules"
    assert "Again:" in subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
