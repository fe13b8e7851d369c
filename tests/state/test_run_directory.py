"""Run directories, the files that `generate` writes, pictures of sound, and what the command line says."""

import copy
import dataclasses
import json
import re
import threading
from pathlib import Path

import building as build
import matplotlib.image
import numpy as np
import pytest
import soundfile
import torch
import yaml
from data_fixtures import encoded, noise_picture, one_sentence

from melfusion import __main__ as cli
from melfusion import files
from melfusion.assembly.configuration import load_config
from melfusion.assembly.run import run_directory
from melfusion.assembly.schema import to_dict
from melfusion.errors import ConfigError
from melfusion.evaluation.tables import mean_cell
from melfusion.files import locked
from melfusion.media.figures import as_array, save, spectrogram_figure
from melfusion.training import run
from melfusion.verbs import generate
from melfusion.verbs.options import parse

# --- run directories ------------------------------------------------------------------------------------------------


@pytest.fixture
def config(tiny, tmp_path):
    return tiny(f"runs_dir={tmp_path}", "name=mine", "sampling.negative_prompt=calm: rain #1")


def test_the_resolved_config_is_written_and_comes_back(config, tmp_path):
    run = run_directory(config)
    run.prepare()
    assert yaml.safe_load((tmp_path / "mine" / "config.yaml").read_text()) == to_dict(config)
    assert load_config(str(tmp_path / "mine" / "config.yaml")) == config
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["config.yaml"]
    assert run.checkpoints == tmp_path / "mine" / "checkpoints" and run.export == tmp_path / "mine" / "export"


def test_the_same_config_resumes(config, tmp_path):
    run_directory(config).prepare()
    (tmp_path / "mine" / "metrics.jsonl").write_text("kept")
    run_directory(config).prepare()
    assert (tmp_path / "mine" / "metrics.jsonl").read_text() == "kept"


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("optim.lr", lambda c: setattr(c.optim, "lr", 2e-3)),
        ("seed", lambda c: setattr(c, "seed", 7)),
        ("synapse.kind", lambda c: setattr(c.synapse, "kind", "concat")),
        ("denoiser.block_out_channels", lambda c: c.denoiser.block_out_channels.append(16)),
        ("music_vae.weights", lambda c: setattr(c.music_vae, "weights", "run:x")),
        ("data.splits.test", lambda c: c.data.splits.update(test=5)),
        ("data.splits.more", lambda c: c.data.splits.update(more=5)),
        ("data.global_batch_size", lambda c: setattr(c.data, "global_batch_size", 8)),
        ("trainer.precision", lambda c: setattr(c.trainer, "precision", "bf16-mixed")),
    ],
)
def test_another_config_is_refused_with_the_key_and_both_values(key, change, config, tmp_path):
    run_directory(config).prepare()
    before = (tmp_path / "mine" / "config.yaml").read_text()
    other = copy.deepcopy(config)
    change(other)
    with pytest.raises(ConfigError) as caught:
        run_directory(other).prepare()
    message = one_sentence(caught.value)
    assert f"{key}: " in message and "there" in message and "now" in message and str(tmp_path / "mine") in message
    assert message.count(" there, ") == 1  # that key and no other
    assert (tmp_path / "mine" / "config.yaml").read_text() == before


def test_safe_keys_may_change_and_are_noted(config, tmp_path):
    run_directory(config).prepare()
    config.trainer.max_steps, config.trainer.devices, config.trainer.threads = 500, "4", 3
    config.sampling.num_inference_steps, config.data.num_workers, config.data.val_items = 99, 2, 3
    config.vocoder.griffin_lim_iterations, config.trainer.val_every_n_steps, config.stages = 5, 7, ["music_vae"]
    run_directory(config).prepare()
    assert yaml.safe_load((tmp_path / "mine" / "config.yaml").read_text())["trainer"]["max_steps"] == 500


def test_a_finished_run_knows_its_results_until_more_steps_are_asked_for(config, tmp_path):
    run = run_directory(config)
    run.prepare()
    assert run.results() is None
    run.finish({"step": 2, "val/loss": 0.5, "replaced": {"silence": 1}})
    assert run.results() == {"step": 2, "val/loss": 0.5, "replaced": {"silence": 1}}
    assert json.loads((tmp_path / "mine" / "results.json").read_text())["step"] == 2
    assert not [*(tmp_path / "mine").glob("*.part*")]
    config.trainer.max_steps = 3
    assert run_directory(config).results() is None
    config.trainer.max_steps = 1
    assert run_directory(config).results()["val/loss"] == 0.5


def test_a_part_that_is_trained_is_taken_without_a_lock(tiny, tmp_path, monkeypatch):
    """Its run may be another user's."""
    config = tiny(f"runs_dir={tmp_path}", "stages=[music_vae]", "music_vae.weights=run:vae")
    part = run_directory(run.stage_config(config, "music_vae"))
    part.prepare()
    part.finish({"step": 10**6})
    monkeypatch.setattr(run, "locked", None)
    run.ensure_stages(config)
    assert not [*tmp_path.glob(".*")]


def test_one_holds_the_lock_and_the_other_waits(tmp_path):
    events, entered = [], threading.Event()

    def other():
        entered.set()
        with locked(tmp_path / "runs" / ".lock"):
            events.append("second")

    with locked(tmp_path / "runs" / ".lock"):
        thread = threading.Thread(target=other)
        thread.start()
        entered.wait()
        thread.join(0.05)
        assert thread.is_alive()
        events.append("first")
    thread.join(5)
    assert events == ["first", "second"]


# --- generate -------------------------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("IMAGE", "PROMPT", "OUT", "CKPT", "CONFIG"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def model(here, monkeypatch):
    """`generate` finds a tiny system wherever the checkpoint is said to lie."""

    def load(path, overrides):
        config = load_config("tiny")
        return build.system(config).eval(), config

    (here / "x").mkdir()
    monkeypatch.setattr("melfusion.assembly.pipeline.load_system", load)


def test_names_come_from_the_words_and_no_file_is_overwritten(here):
    def name(*args):
        return [str(p) for p in generate.clip_files(*args)]

    assert name(None, "A calm: rain #1!", 3, 1) == ["outputs/a-calm-rain-1-seed3.wav"]
    assert name("clips", "x", 3, 2) == ["clips/x-seed3.wav", "clips/x-seed4.wav"]
    assert name(None, "♫", 0, 1) == ["outputs/music-seed0.wav"] and len(name(None, "a" * 300, 0, 1)[0]) < 70
    assert name("../a.d/x", "../../etc/passwd", 0, 1) == ["../a.d/x/etc-passwd-seed0.wav"]
    (here / "clips").mkdir()
    for taken in ("x-seed3.wav", "x-seed3-1.wav"):
        (here / "clips" / taken).write_text("")
    assert name("clips", "x", 3, 2) == ["clips/x-seed3-2.wav", "clips/x-seed4.wav"]


def test_a_wav_named_is_that_file_and_several_are_numbered():
    def name(*args):
        return [str(p) for p in generate.clip_files(*args)]

    assert name("a/b.wav", "x", 3, 1) == ["a/b.wav"] and name("b.WAV", "x", 3, 1) == ["b.WAV"]
    assert name("a/b.wav", "x", 3, 3) == ["a/b-0.wav", "a/b-1.wav", "a/b-2.wav"]


def test_clips_and_their_pictures_are_written(model, here):
    """Defect 10 of the release: output_0.wav overwritten, several samples crashed."""
    (here / "cat.png").write_bytes(encoded(noise_picture()))
    options = generate.Options(image="cat.png", prompt="rain", ckpt="x", seed=5, n=2, out="clips")
    files = generate.run(options, [])
    assert [str(f) for f in files] == ["clips/rain-seed5.wav", "clips/rain-seed6.wav"]
    assert sorted(p.name for p in (here / "clips").iterdir()) == [
        "rain-seed5.png",
        "rain-seed5.wav",
        "rain-seed6.png",
        "rain-seed6.wav",
    ]
    waveform, rate = soundfile.read(files[0])
    assert rate == 8000 and waveform.shape == (8192,) and np.abs(waveform).max() > 0
    assert files[0].read_bytes() != files[1].read_bytes()
    again = generate.run(options, [])
    assert str(again[0]) == "clips/rain-seed5-1.wav" and [f.read_bytes() for f in again] == [f.read_bytes() for f in files]
    (alone,) = generate.run(dataclasses.replace(options, n=1, seed=6), [])
    np.testing.assert_allclose(soundfile.read(alone)[0], soundfile.read(files[1])[0], atol=0.01)


def test_duration_is_what_was_asked_for_to_the_sample(model, here):
    (file,) = generate.run(generate.Options(prompt="rain", ckpt="x", duration_s=0.5, out="a.wav"), [])
    assert str(file) == "a.wav" and len(soundfile.read(file)[0]) == 4000


def test_the_given_picture_is_never_overwritten(model, here):
    picture = encoded(noise_picture())
    (here / "cat.png").write_bytes(picture)
    generate.run(generate.Options(image="cat.png", ckpt="x", out="cat.wav"), [])
    assert (here / "cat.wav").is_file() and (here / "cat.png").read_bytes() == picture


def test_free_text_of_the_environment_is_verbatim():
    text = "calm: `rain` #1 = $HOME [x"
    assert parse(generate.Options, [], [], {"PROMPT": text, "OUT": ""}) == generate.Options(prompt=text)
    assert parse(generate.Options, [], ["prompt=a=b: #1", "seed=3", "guidance_scale=2"], {"PROMPT": text}) == generate.Options(
        prompt="a=b: #1", seed=3, guidance_scale=2.0
    )


# --- pictures of sound ----------------------------------------------------------------------------------------------


def test_a_spectrogram_is_drawn_to_scale(tiny, tmp_path):
    low, high = torch.full((64, 16), -10.0), torch.full((64, 16), -10.0)
    low[:, 0], high[:, 15] = 0.0, 0.0
    pixels = [as_array(spectrogram_figure({"mel": mel}, tiny().audio, "title")) for mel in (low, high)]
    assert pixels[0].dtype == np.uint8 and pixels[0].ndim == 3 and pixels[0].shape[2] == 3
    rows = np.nonzero((pixels[0] != pixels[1]).any((1, 2)))[0]
    half = (rows.min() + rows.max()) // 2
    brightness = [p.astype(int).sum(2)[half:].sum() - p.astype(int).sum(2)[:half].sum() for p in pixels]
    assert brightness[0] > brightness[1]  # low tones stand at the bottom
    save(spectrogram_figure({"a": low, "b": high}, tiny().audio), tmp_path / "a.png")
    assert matplotlib.image.imread(tmp_path / "a.png").shape[1] > 900  # two panels


def test_a_title_may_hold_any_text(tiny):
    caption = r"costs $5 \or_ #1 and 100% {x} $6 ^_"
    figure = spectrogram_figure({caption: torch.zeros(8, 16)}, tiny().audio, caption)
    assert as_array(figure).std() > 0


# --- the command line -----------------------------------------------------------------------------------------------


def stopped(capsys, *argv):
    """The one line on stderr of a call that returns 2."""
    assert cli.main(list(argv)) == 2
    captured = capsys.readouterr()
    assert not captured.out.replace("── corpus\n", "")  # the stage it stopped in, and no more
    assert captured.err.endswith("\n") and captured.err.count("\n") == 1
    return captured.err


def test_an_unknown_verb_names_the_verbs_and_the_nearest(capsys, here):
    message = stopped(capsys, "trian")
    assert "did you mean 'train'?" in message and all(verb in message for verb in cli.VERBS)
    assert "usage" in stopped(capsys)
    assert cli.main(["help"]) == 0


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["train", "tiny", "trainer.max_step=3"], ["melfusion train:", "'trainer.max_step'", "'trainer.max_steps'"]),
        (["train", "tinny"], ["'tinny'", "'tiny'"]),
        (["train", "melbench", "tiny", "data.source=manifest"], ["data/tiny", "make shards"]),
        (["train", "games", "tiny", "data.source=games"], ["make data-games"]),
        (["generate"], ["melfusion generate:", "PROMPT", "IMAGE"]),
        (["generate", "promt=rain"], ["'promt'", "did you mean 'prompt'?"]),
        (["generate", "prompt=rain", "seed=x"], ["seed='x'", "int"]),
        (["generate", "prompt=rain", "ckpt=runs/none"], ["runs/none", "checkpoint"]),
        (["shards", "manifst=a.csv"], ["'manifst'", "'manifest'"]),
        (["data-scenes", "tiny", "seeed=1"], ["'seeed'", "'seed'"]),
        (["precompute", "scenes", "synapse.kind=x"], ["synapse.kind='x'"]),
    ],
)
def test_what_a_user_can_mend_is_one_line_and_code_2(argv, words, capsys, here):
    message = stopped(capsys, *argv)
    assert all(word in message for word in words), message


def test_a_bad_picture_is_one_line(capsys, model, here):
    (here / "cat.png").write_bytes(b"junk")
    assert "cat.png is an unreadable image" in stopped(capsys, "generate", "image=cat.png", "ckpt=x")
    assert "dog.png: there is no such file" in stopped(capsys, "generate", "image=dog.png", "ckpt=x")


def test_configs_are_named_with_spaces_or_commas_and_by_the_environment(monkeypatch, here):
    seen = []
    monkeypatch.setattr("melfusion.verbs.train.run", lambda options, more: seen.append((options.config, more)))
    assert cli.main(["train", "games", "tiny", "seed=1"]) == 0 and cli.main(["train", "games,tiny", "a=b c=d"]) == 0
    assert cli.main(["train"]) == 0
    monkeypatch.setenv("CONFIG", "melfusion")
    assert cli.main(["train"]) == 0
    assert seen == [("games,tiny", ["seed=1"]), ("games,tiny", ["a=b c=d"]), ("scenes", []), ("melfusion", [])]


@pytest.mark.parametrize("error", [ValueError("a bug"), RuntimeError("a bug"), KeyError("a bug")])
def test_a_bug_keeps_its_traceback(error, monkeypatch, here):
    def fail(options, more):
        raise error

    monkeypatch.setattr("melfusion.verbs.train.run", fail)
    with pytest.raises(type(error)):
        cli.main(["train"])


def test_training_on_a_login_node_is_refused_and_names_submit(tmp_path, monkeypatch, capsys, here):
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text("#!/bin/sh\n")
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", str(sbatch.parent))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert "make submit" in stopped(capsys, "train", "melbench,tiny", "data.path=none")
    reached = []
    monkeypatch.setattr("melfusion.training.run.train", lambda config, evaluate: [reached.append(config), {}][1])
    assert cli.main(["train"]) == 0  # the embedded default may run anywhere
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert cli.main(["train", "melbench,tiny"]) == 0 and len(reached) == 2


def test_no_file_of_a_run_holds_a_number_that_json_has_not(config):
    run = run_directory(config)
    run.prepare()
    run.finish({"step": 1, "val/loss": float("nan"), "rows": [{"interval": float("inf"), "mean": 0.5}, (1, "NaN")]})
    told = json.loads(run.results_file.read_text(), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert told == {"step": 1, "val/loss": None, "rows": [{"interval": None, "mean": 0.5}, [1, "NaN"]]}
    assert mean_cell(told["rows"][0]) == "0.5 ± ∞" and mean_cell({"mean": None, "interval": None}) == "-"


def test_json_files_are_written_in_one_way():
    """But for hashes, lines, and trees of integers and texts."""
    others = {"training/loggers.py", "state/checkpoint_store.py", "evaluation/cache.py", "bench/loader.py"}
    others |= {
        "assembly/provenance.py",
        "assembly/batches.py",
        "lab/trainings.py",
        "training/dashboard.py",
        "evaluation/picture_test/systems.py",
    }
    others |= {"assembly/codec.py", "assembly/image.py", "models/published.py"}  # what they export
    source = Path(files.__file__).parent
    writes = {f.relative_to(source) for f in source.rglob("*.py") if re.search(r"\bjson\.dumps?\(", f.read_text())}
    assert {str(f) for f in writes if f.parts[0] != "data"} - others == {"files.py"}
