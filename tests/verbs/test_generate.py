"""`melfusion generate`: files, seeds, options, and sentences for what a user gets wrong."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from melfusion.__main__ import main
from melfusion.assembly import provenance
from melfusion.assembly.configuration import load_config
from melfusion.assembly.pipeline import Pipeline
from melfusion.errors import ConfigError
from melfusion.media import file_kinds
from melfusion.state.checkpoint_store import newest
from melfusion.training.run import train
from melfusion.verbs import generate as module
from melfusion.verbs.generate import Options


def generate(**options):
    return module.run(Options(**options), [])


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_corpus):
    """A tiny trained run directory."""
    folder = tmp_path_factory.mktemp("runs")
    train(load_config("tiny", [f"data.path={tiny_corpus}", f"runs_dir={folder}", "trainer.media_items=0"]))
    return str(folder / "tiny")


@pytest.fixture
def picture(tmp_path):
    def draw(seed):
        path = tmp_path / f"p{seed}.png"
        Image.fromarray(np.random.default_rng(seed).integers(0, 255, (30, 40, 3), dtype=np.uint8)).save(path)
        return str(path)

    return draw


def test_writes_a_wav_and_the_png_of_its_spectrogram(run, picture, tmp_path):
    files = generate(ckpt=run, image=picture(1), prompt="calm: rain #1", out=str(tmp_path / "a" / "m.wav"))
    sound, rate = soundfile.read(files[0])
    assert rate == 8000 and len(sound) == 8192 and np.abs(sound).max() > 0
    assert Image.open(tmp_path / "a" / "m.png").width > 300


def test_where_the_picture_acts_is_a_picture(run, picture, tmp_path, capsys):
    few = {"ckpt": run, "image": picture(1), "prompt": "x", "out": str(tmp_path / "m.wav"), "num_inference_steps": 1}
    generate(**few, influence=str(tmp_path / "where.png"))
    assert Image.open(tmp_path / "where.png").height > 200 and "red is what acts most" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="method=eyes is neither occlusion nor attention"):
        generate(**few, influence=str(tmp_path / "other.png"), influence_by="eyes")
    assert not (tmp_path / "m-2.wav").exists()  # nothing was made
    (tmp_path / "file").write_text("")
    for name, words in ((few["image"], "reads or writes already"), ("file/a.png", "cannot be written")):
        with pytest.raises(ConfigError, match=words):
            generate(**few, influence=str(tmp_path / name))


def test_same_seed_and_picture_give_the_same_bytes_and_others_do_not(run, picture, tmp_path):
    def make(name, seed, image):
        out = tmp_path / f"{name}.wav"
        generate(ckpt=run, image=image, prompt="x", seed=seed, out=str(out))
        return out.read_bytes()

    first = make("a", 3, picture(1))
    assert make("b", 3, picture(1)) == first
    assert make("c", 3, picture(2)) != first and make("d", 4, picture(1)) != first and make("e", 3, None) != first


def test_several_clips_get_files_of_their_own_and_nothing_is_overwritten(run, tmp_path):
    options = {"ckpt": run, "prompt": "A tune!", "n": 2, "out": str(tmp_path / "o")}
    files = generate(**options) + generate(**options)
    assert len({f.name for f in files}) == 4 and all(f.is_file() for f in files)
    assert files[0].name == "a-tune-seed0.wav" and files[0].read_bytes() != files[1].read_bytes()
    assert files[0].read_bytes() == files[2].read_bytes()


def test_a_batch_gives_what_single_calls_give(run, tmp_path):
    both = generate(ckpt=run, prompt="t", n=2, out=str(tmp_path / "b"))
    alone = generate(ckpt=run, prompt="t", seed=1, out=str(tmp_path / "s"))
    a, b = (soundfile.read(f)[0] for f in (both[1], alone[0]))
    assert np.corrcoef(a, b)[0, 1] > 0.99


def test_a_field_that_the_model_does_not_take_is_refused_and_the_sampling_is_told(run, tmp_path, capsys):
    with pytest.raises(ConfigError, match=r"bpm=90.0 means nothing to this model: it takes the prompt alone"):
        generate(ckpt=run, prompt="x", bpm=90.0, out=str(tmp_path / "a.wav"))
    generate(ckpt=run, prompt="x", num_inference_steps=1, out=str(tmp_path / "a.wav"))
    assert "sampling: sampler=dpm, num_inference_steps=1, guidance_scale=3.0\n" in capsys.readouterr().out


def test_many_clips_are_made_in_batches_and_their_time_and_room_are_told(run, picture, tmp_path, monkeypatch, capsys):
    seen, call = [], Pipeline.__call__
    monkeypatch.setattr(module, "CLIPS_AT_ONCE", 2)
    monkeypatch.setattr(Pipeline, "__call__", lambda *args, **more: [call(*args, **more), seen.append(args[3:5])][0])
    decoded, decode = [], file_kinds.open_image
    monkeypatch.setattr(file_kinds, "open_image", lambda *args: [decode(*args), decoded.append(1)][0])
    options = {"ckpt": run, "image": picture(1), "seed": 4, "num_inference_steps": 1, "duration_s": 0.5}
    files = generate(**options | {"n": 5, "out": str(tmp_path / "many")})
    assert len(decoded) == 1 and provenance.read(files[4])["image"] == provenance.of_file(options["image"])
    assert seen == [(4, 2), (6, 2), (8, 1)] and [len(soundfile.read(f)[0]) for f in files] == [4000] * 5
    assert "2 of 5 clips are made; the others take about" in capsys.readouterr().out
    alone = generate(**options | {"seed": 8, "out": str(tmp_path / "alone.wav")})
    assert alone[0].read_bytes() == files[4].read_bytes()  # a batch of one, as a call of its own
    with pytest.raises(ConfigError, match="num_inference_steps=1001 must be at most 1000"):
        generate(**options | {"num_inference_steps": 1001})


def test_a_sound_is_edited_and_a_story_told_on_the_command_line(run, picture, tmp_path):
    few = {"ckpt": run, "num_inference_steps": 1}
    first = generate(prompt="x", duration_s=2.048, out=str(tmp_path / "a.wav"), **few)[0]
    edited = generate(audio=str(first), image=picture(1), repaint="0.5-1", out=str(tmp_path / "b.wav"), **few)[0]
    before, after = (soundfile.read(file, dtype="int16")[0] for file in (first, edited))
    assert np.array_equal(before[8000:], after[8000:]) and not np.array_equal(before, after)
    assert edited.with_suffix(".png").is_file()
    (tmp_path / "s.yaml").write_text(f"- {{image: {picture(1)}, start_s: 0}}\n- {{prompt: sun, start_s: 1, end_s: 2.048}}\n")
    told = generate(story=str(tmp_path / "s.yaml"), out=str(tmp_path), **few)[0]
    assert told.name == "s-seed0.wav" and len(soundfile.read(told)[0]) == 2 * 8192


def test_picture_alone_and_another_duration(run, picture, tmp_path):
    files = generate(ckpt=run, image=picture(1), duration_s=2.048, out=str(tmp_path / "m.wav"))
    assert len(soundfile.read(files[0])[0]) == 2 * 8192


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ckpt=nowhere", "prompt=x"], "There is no checkpoint"),
        ([], "PROMPT="),
        (["prompt=x", "sed=3"], "did you mean 'seed'"),
        (["prompt=x", "seed=a"], "seed='a' is not a valid int"),
        (["prompt=x", "n=0"], "n=0 must be at least 1"),
        (["prompt=x", "seed=-1"], "seed=-1 must be at least 0"),
        (["prompt=x", "num_inference_steps=0"], "num_inference_steps=0 must be at least 1"),
        (["prompt=x", "duration_s=-4"], "duration_s=-4 must be at least 0.1"),
        (["prompt=x", "duration_s=nan"], "duration_s=nan must be at least 0.1"),
        (["prompt=x", "audio=nowhere.wav", "strength=0.5"], "audio=nowhere.wav: there is no such file"),
        (["prompt=x", "strength=1.5"], "strength=1.5 must be between 0"),
        (["prompt=x", "repaint=1-2"], "give audio=FILE"),
        (["story=nowhere.yaml"], "story=nowhere.yaml: there is no such file"),
        (["prompt=x", "influence=a.png"], "influence=a.png is of a clip that is made from one picture"),
        (["list=nowhere.jsonl", "influence=a.png"], "give image=, no audio=, story= or list="),
    ],
)
def test_mistakes_give_one_sentence_and_exit_code_2(arguments, words, capsys, monkeypatch):
    for name in ("IMAGE", "PROMPT", "OUT", "CKPT"):
        monkeypatch.delenv(name, raising=False)
    assert main(["generate", *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert words in error and "\n" not in error


def test_a_file_that_is_no_picture_gives_one_sentence(run, tmp_path, capsys):
    (tmp_path / "x.png").write_bytes(b"no picture")
    assert main(["generate", f"ckpt={run}", f"image={tmp_path / 'x.png'}"]) == 2
    assert "an unreadable image: give a PNG" in capsys.readouterr().err


def test_a_truncated_checkpoint_gives_one_sentence(run, tmp_path, capsys):
    broken = tmp_path / "broken.ckpt"
    broken.write_bytes(newest(Path(run, "checkpoints")).read_bytes()[:5000])
    assert main(["generate", f"ckpt={broken}", "prompt=x"]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_free_text_from_the_environment_is_taken_verbatim(run, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(module, "run", lambda options, more: seen.append(options))
    monkeypatch.setenv("PROMPT", "calm: rain `x` #1 = $5")
    monkeypatch.setenv("CKPT", run)
    assert main(["generate", "seed=2"]) == 0
    assert seen == [Options(prompt="calm: rain `x` #1 = $5", ckpt=run, seed=2)]
