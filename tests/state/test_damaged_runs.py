"""Files of a run that are torn, foreign or hostile: what is derived is passed over with a reason, what is not is named."""

import errno
import hashlib
import io
import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from data_fixtures import one_sentence

from melfusion import __main__ as cli
from melfusion.assembly.configuration import load_config
from melfusion.assembly.load import load_system
from melfusion.assembly.run import run_directory
from melfusion.errors import CheckpointError, ConfigError, DamagedFile
from melfusion.evaluation import study as listening
from melfusion.evaluation.clips import differing, note
from melfusion.evaluation.scoring import Predictions
from melfusion.lab.guidance import chosen_guidance
from melfusion.state.checkpoint_store import newest, read_index
from melfusion.training import media_log
from melfusion.training.loggers import JSONLines
from melfusion.verbs.train import scored


class Job:
    """A tiny run and the command that makes it or goes on with it."""

    def __init__(self, folder, data):
        self.path, self.options = folder / "runs" / "job", [f"data.path={data}", f"runs_dir={folder / 'runs'}", "name=job"]

    def __call__(self, steps=2, media=0):
        return cli.main(["train", "tiny", *self.options, f"trainer.max_steps={steps}", f"trainer.media_items={media}"])


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_corpus):
    job = Job(tmp_path_factory.mktemp("trained"), tiny_corpus)
    assert job() == 0
    return job


@pytest.fixture
def job(trained, tmp_path, tiny_corpus):
    """A copy of a run of two steps, to be damaged."""
    shutil.copytree(trained.path, tmp_path / "runs" / "job")
    return Job(tmp_path, tiny_corpus)


# --- config.yaml: it says whether the run is this one, so it is named ---------------------------------------------------


@pytest.mark.parametrize(
    "data", [b"", b"seed: [1,", b"\0" * 400, b"seed: !!python/object/apply:os.getcwd []\n", b"- 1\n", b"\xff\xfe", b"[" * 3000]
)
def test_a_damaged_config_is_named_with_what_to_do(data, job, capsys):
    (job.path / "config.yaml").write_bytes(data)
    assert job() == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"{job.path}/config.yaml" in said and "remove it, and the same command writes it anew" in said
    (job.path / "config.yaml").unlink()
    assert job() == 0 and "is finished" in capsys.readouterr().out


# --- results.json, scores.json, metrics.jsonl: they are made again, or only told ----------------------------------------


@pytest.mark.parametrize("data", [b"", b'{"step": 2, "val/l', b"[]", b"{}", b'{"step": "2"}', b"\0" * 64])
def test_damaged_results_are_made_again(data, job, caplog):
    (job.path / "results.json").write_bytes(data)
    assert run_directory(load_config("tiny", job.options)).results() is None
    assert "results.json" in caplog.text and "passed over" in caplog.text
    if not data:
        assert job() == 0
        assert json.loads((job.path / "results.json").read_text())["step"] == 2


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b'{"rows": 3, "chance": 1}'])
def test_damaged_scores_are_passed_over_where_a_finished_run_is_told(data, job, caplog, capsys):
    (job.path / "scores.json").write_bytes(data)
    assert job() == 0
    assert "scores.json" in caplog.text and "is finished" in capsys.readouterr().out and scored(job.path / "none.json") == ""


def test_lines_of_curves_that_are_none_are_left_out(tmp_path, caplog):
    file = tmp_path / "metrics.jsonl"
    lines = [b'{"step": 1}', b"\xff\xfe\x00", b'{"step": "2"}', b"[" * 100_000, b'{"step": 2, "a": 1}', b'{"step": 9}', b'{"st']
    file.write_bytes(b"\n".join(lines))
    JSONLines(file, 2)
    assert file.read_bytes() == b'{"step": 1}\n{"step": 2, "a": 1}\n' and "4 lines cannot be read" in caplog.text


# --- checkpoints: the one before serves ---------------------------------------------------------------------------------


def foreign(kind):
    """Bytes of a file that is called a checkpoint and is none."""
    data = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(data, "w") as archive:
            archive.writestr("archive/readme.txt", "no tensors here")
    elif kind == "pickle":
        pickle.dump({"global_step": 9, "state_dict": {}}, data)
    else:
        torch.save({"weights": torch.zeros(3)} if kind == "tensors" else [1, 2], data)
    return data.getvalue()


@pytest.mark.parametrize("kind", ["zip", "pickle", "tensors", "list"])
@pytest.mark.parametrize("indexed", [False, True])
def test_what_is_no_checkpoint_is_passed_over_with_its_reason(kind, indexed, job, caplog):
    folder, data = job.path / "checkpoints", foreign(kind)
    good = newest(folder)
    bad = folder / "step-000000009.ckpt"
    bad.write_bytes(data)
    os.utime(bad, (2e9, 2e9))
    if indexed:  # as if someone had put it in its place with all that belongs to it
        entry = {"step": 9, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        (folder / "index.json").write_text(json.dumps(read_index(folder) | {bad.name: entry}))
    else:
        (folder / "index.json").unlink()
    assert newest(folder) in (good, *folder.glob("step-00000000[12].ckpt"))
    if indexed:
        assert f"{bad} is passed over: it is no checkpoint of melfusion" in caplog.text
    with pytest.raises(CheckpointError):
        load_system(bad)
    if indexed and kind == "zip":
        (job.path / "results.json").unlink()
        assert job(steps=3) == 0


def test_folders_pipes_and_links_to_nowhere_are_passed_over(job, caplog):
    folder = job.path / "checkpoints"
    good = newest(folder)
    (folder / "a.ckpt").mkdir()
    os.mkfifo(folder / "b.ckpt")
    (folder / "c.ckpt").symlink_to("nowhere")
    for name in ("a.ckpt", "b.ckpt", "c.ckpt"):
        entry = {"step": 50, "bytes": 1, "sha256": ""}
        (folder / "index.json").write_text(json.dumps(json.loads((folder / "index.json").read_text()) | {name: entry}))
    assert newest(folder) == good and caplog.text.count("is no regular file") == 3


@pytest.mark.parametrize(
    "entry",
    [{"step": "9"}, {"step": None}, {"step": [1]}, {"bytes": "x"}, {"sha256": 3}, {"loss": "low"}, {"loss": None}, {"step": True}],
)
def test_an_index_entry_of_other_kinds_is_none(entry, job):
    folder = job.path / "checkpoints"
    index = read_index(folder)
    name = sorted(index)[-1]
    (folder / "index.json").write_text(json.dumps(index | {name: index[name] | entry, "x": 3, "../../config.yaml": index[name]}))
    assert name not in read_index(folder) and "../../config.yaml" not in read_index(folder)
    assert newest(folder) is not None
    if entry == {"step": "9"}:
        assert job(steps=4) == 0 and (job.path / "config.yaml").is_file()  # no name leads out of the folder


# --- what clips were made with, predictions, what was chosen ---------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\0\0"])
def test_clips_whose_note_is_damaged_count_as_anothers(data, tmp_path):
    (tmp_path / "made_with.json").write_bytes(data)
    assert "system or setting, since" in differing(tmp_path, {"seed": 0}) and "made_with.json" in differing(tmp_path, {"seed": 0})
    with pytest.raises(DamagedFile, match=f"remove {tmp_path}, and its clips are made again"):
        note(tmp_path)


def test_predictions_are_made_again_where_their_file_is_damaged(tmp_path, caplog):
    file, made = tmp_path / "x.pt", Predictions(["a", "b"], {"place": ["sea", "city"]}, {"judge": torch.zeros(2, 1, 3)}, {})
    made.save(file)
    assert Predictions.load(file, ["a", "b"]).classes == made.classes and Predictions.load(file, ["a"]) is None and not caplog.text
    whole = file.read_bytes()
    torch.save({"keys": ["a", "b"], "classes": {"place": ["sea"]}}, tmp_path / "short.pt")
    for data in (b"", whole[:200], b"\0" * 200, foreign("pickle"), foreign("zip"), (tmp_path / "short.pt").read_bytes()):
        file.write_bytes(data)
        caplog.clear()
        assert Predictions.load(file, ["a", "b"]) is None and "the predictions of its clips are made again" in caplog.text
    file.unlink()
    file.mkdir()
    assert Predictions.load(file, ["a", "b"]) is None
    made.save(file)  # a folder of that name: nothing is kept, and nothing fails


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"scale": 3}'])
def test_guidance_that_cannot_be_read_is_chosen_again(data, tmp_path, tiny):
    class OneRow:
        path, first = tmp_path, staticmethod(lambda row: tiny("ablation.guidance=[3]"))

    (tmp_path / "row").mkdir()
    (tmp_path / "row" / "guidance.json").write_bytes(data)
    assert chosen_guidance(OneRow, "row") == {}


# --- a listening study --------------------------------------------------------------------------------------------------


@pytest.fixture
def study(tmp_path):
    """study(answers) → the sentence that they are refused with."""
    key = json.dumps({"version": 1, "seed": 0, "rows": ["r"], "clips": {"c1": {"row": "r", "key": "k", "sha256": ""}}})
    (tmp_path / listening.KEY).write_text(key)

    def refused(answers):
        study = listening.read_key(tmp_path / listening.KEY)[2]
        sheet = {"version": 1, "study": study, "listener": "ann", "answers": answers}
        (tmp_path / "answers-ann.json").write_text(json.dumps(sheet))
        with pytest.raises(ConfigError) as caught:
            listening.summarise(tmp_path)
        return one_sentence(caught.value)

    return refused


@pytest.mark.parametrize(
    "answer",
    [
        "c1",
        ["c1"],
        {"id": {"c1": 1}},
        {"id": ["c1"]},
        {"id": "x" * 100_000},
        {"id": "c1"},
        None,
        {"id": "c1", "ovl": 10**400, "rel": 1},
        {"id": "c1", "ovl": {"a": {}}, "rel": 1},
    ],
)
def test_hostile_answers_are_one_short_sentence(answer, study):
    assert len(study([answer])) < 400


def test_a_pipe_or_folder_of_answers_is_named_and_not_waited_for(study, tmp_path):
    os.mkfifo(tmp_path / "answers-bob.json")
    assert "answers-bob.json is no regular file: save it again, or move it away" in study([{"id": "c1", "ovl": 1, "rel": 2}])
    (tmp_path / "answers-bob.json").unlink()
    (tmp_path / "answers-bob.json").mkdir()
    assert "answers-bob.json is no regular file" in study([{"id": "c1", "ovl": 1, "rel": 2}])


@pytest.mark.parametrize(
    "change", [{"clips": []}, {"clips": {"c1": 3}}, {"clips": {"c1": {"row": "other"}}}, {"rows": "r"}, {"rows": [[1]]}]
)
def test_a_key_of_another_form_is_named(change, study, tmp_path):
    file = tmp_path / listening.KEY
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ConfigError, match="is no key of a listening study: bring back"):
        listening.summarise(tmp_path)


# --- a disk that takes no more ------------------------------------------------------------------------------------------


@pytest.mark.slow  # a training for each thing that cannot be written
def test_training_goes_on_where_curves_and_media_cannot_be_written(tmp_path, tiny_corpus, monkeypatch, caplog):
    from tensorboard.summary.writer.record_writer import RecordWriter

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    job = Job(tmp_path, tiny_corpus)
    (job.path / "metrics.jsonl").mkdir(parents=True)
    monkeypatch.setattr(media_log, "save_array", full)
    monkeypatch.setattr(RecordWriter, "write", full)
    assert job(steps=3, media=1) == 0
    for what in ("tensorboard", "metrics.jsonl", "samples"):
        assert f"{job.path / what} cannot be written" in caplog.text
    assert caplog.text.count("cannot be written") == 3  # each is told once
    monkeypatch.undo()
    assert job(steps=4, media=1) == 0  # a new event file is begun
    assert any(file.stat().st_size > 1000 for file in (job.path / "tensorboard").iterdir())
    assert Path(job.path / "samples").is_dir()


def test_a_run_directory_that_cannot_be_is_one_sentence(tmp_path, tiny_corpus, capsys):
    (tmp_path / "runs").touch()
    job = Job(tmp_path, tiny_corpus)
    assert job() == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and str(job.path) in said and "Not a directory" in said
