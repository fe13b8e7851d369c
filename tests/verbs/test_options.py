"""What is wrong with a call is said before anything slow is imported, names stay in their folders, and amounts have limits."""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from melfusion.assembly import check as limits
from melfusion.assembly.configuration import load_config
from melfusion.assembly.schema import CHOICES
from melfusion.errors import ConfigError, WeightsError
from melfusion.errors import ConfigError as Same
from melfusion.evaluation.pace import Pace, duration, size
from melfusion.lab.suite import load_suite
from melfusion.models.weights import resolve
from melfusion.verbs.generate import clip_files
from melfusion.verbs.submit import load_cluster

# where the words of a key have their meaning: a registry line for each word of schema.CHOICES, and no other
REGISTRIES = {
    "synapse.kind": ("melfusion.models.synapse.kinds", "SYNAPSES"),
    "image.kind": ("melfusion.assembly.image", "BUILD"),
    "codec.kind": ("melfusion.assembly.codec", "BUILD"),
    "conditioner.kind": ("melfusion.assembly.conditioner", "BUILD"),
    "denoiser.kind": ("melfusion.assembly.denoiser", "BUILD"),
    "codec.peak": ("melfusion.models.codecs.wave", "PEAKS"),
    "synapse.match": ("melfusion.models.synapse.matching", "MATCHES"),
    "diffusion.kind": ("melfusion.models.diffusion.objective", "OBJECTIVES"),
    "judge.kind": ("melfusion.listeners.judge_networks", "NETWORKS"),
    "ablation.condition": ("melfusion.evaluation.conditions", "CONDITIONS"),
    "ablation.corpus_test": ("melfusion.evaluation.sets", "SUITES"),
}

WRONG = [  # a call, and words of the sentence that answers it
    ("train trainer.max_stepz=3", "did you mean 'trainer.max_steps'"),
    ("train scennes", "did you mean 'scenes'"),
    ("train synapse.kind=kv_mixx", "did you mean 'kv_mix'"),
    ("train sampling.sampler=x", "is not one of ddim, dpm"),
    ("train name=..", "name='..' is no name of a folder"),
    ("trian", "did you mean 'train'"),
    ("precompute seeed=1", "did you mean 'seed'"),
    ("data-scenes data.splits.train=100000000", "data.max_scenes=100000"),
    ("generate sed=3", "did you mean 'seed'"),
    ("generate image=missing.png", "there is no such file"),
    ("generate image=.", "is a folder: give a file"),
    ("generate image=drawing.svg", "is an SVG drawing: convert it to PNG"),
    ("generate image=song.wav", "is a sound file: give a PNG"),
    ("generate prompt=x ckpt=nowhere", "There is no checkpoint in"),
    ("generate prompt=x out=drawing.svg/a.wav", "out=drawing.svg/a.wav cannot be written (Not a directory)"),
    ("generate prompt=x n=100000000", "limit=1000"),
    ("generate prompt=x duration_s=1e9", "duration_s=1e+09 must be at most 3600"),
    ("generate prompt=x guidance_scale=nan", "guidance_scale=nan must be a finite number"),
    ("evaluate n=100000000", "limit=10000"),
    ("evaluate share=3/2", "must read I/N"),
    ("evaluate wavs=nowhere", "no such folder"),
    ("evaluate out=drawing.svg/x", "cannot be written"),
    ("evaluate sinapse.kind=none", "did you mean 'synapse.kind'"),
    ("ablate suite=..", "suite='..' is no name of a folder"),
    ("ablate suite=kindd", "there is no folder"),
    ("shards manifst=x", "did you mean 'manifest'"),
    ("shards out=x seed=a", "seed='a' is not a valid int"),
    ("train --help datta", "did you mean 'data'"),
    ("completion fish", "is not one of bash, zsh"),
    ("submit generate sed=3", "did you mean 'seed'"),
    ("torture goodput=tiny x", "'x' is no key=value"),
    ("torture pints=3", "did you mean 'points'"),
    ("submit train tiny cluster.partition=gpu\nid", "cluster.partition="),
    ("listening", "needs the folder of a study"),
    ("measure restyle told=x", "`told` is now `condition`: rename it."),
]
CHILD = """
import io, json, sys
from contextlib import redirect_stderr
from melfusion.__main__ import main
answers = []
for call in json.load(sys.stdin):
    with redirect_stderr(io.StringIO()) as err:
        code = main(call)
    answers.append([code, err.getvalue(), [name for name in ("torch", "diffusers", "lightning") if name in sys.modules]])
print(json.dumps(answers))
"""


def test_what_is_wrong_with_a_call_is_said_before_anything_slow_is_imported(tmp_path):
    (tmp_path / "drawing.svg").write_text('<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>')
    (tmp_path / "song.wav").write_bytes(b"RIFF\0\0\0\0WAVEfmt ")
    calls = [call.split(" ") for call, _ in WRONG]
    done = subprocess.run([sys.executable, "-c", CHILD], input=json.dumps(calls), capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for (call, words), (code, said, loaded) in zip(WRONG, json.loads(done.stdout), strict=True):
        assert code == 2 and words in said and said.count("\n") == 1 and not loaded, (call, code, said, loaded)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["drawing.svg", "outputs", "song.wav"]


@pytest.mark.parametrize("key", REGISTRIES)
def test_words_that_are_allowed_are_those_of_the_registries(key):
    module, name = REGISTRIES[key]
    assert tuple(CHOICES[key]) == tuple(getattr(import_module(module), name))


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["", " ", ".", "..", ".hidden", "a/b", "/abs", "..\\x", "a\nb", "a\x1b[2J", "a\x00", "x" * 201, "é" * 101]
)
def test_a_name_is_one_folder_of_runs_dir(name):
    with pytest.raises(ConfigError, match="^name="):
        load_config("tiny", [f"name={name}"])


def test_other_names_that_become_folders_stay_where_they_belong(tmp_path, monkeypatch):
    assert load_config("tiny", ["name=my run, 2. Versuch é"]).name == "my run, 2. Versuch é"
    for override in ("runs_dir=", "runs_dir=a\nb", "stages=[../x]"):
        with pytest.raises(ConfigError):
            load_config("tiny", [override])
    for weights in ("run:../x", "run:/etc", "run:", "shipped:../x", "shipped:a/../../b", "run:a//b"):
        with pytest.raises(WeightsError, match="leads out of the folder"):
            resolve(weights, "denoiser")
    with pytest.raises(WeightsError, match="train it first"):
        resolve("run:suite/row/seed0", "denoiser")  # of a suite: inside
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments" / "s").mkdir(parents=True)
    (tmp_path / "experiments" / "s" / "a\nid.yaml").write_text("base: tiny\n")
    for name in ("../s", "/s", "", "s/../s"):
        with pytest.raises(ConfigError, match="suite="):
            load_suite(name, [])
    with pytest.raises(ConfigError, match="control character"):
        load_suite("s", [])
    assert ConfigError is Same


@pytest.mark.parametrize(
    "option",
    [
        "account=a\nid",
        "partition=a\rb",
        "qos=a\x00",
        "constraint=\x1b",
        "memory=1\n",
        "container=x\ny",
        "container_runtime=apptainer\n",
        'container_args=[--bind, "a\\nb"]',
        'setup=["module load a\\nid"]',
        'extra={"a\\nid": 1}',
        'extra={mail-user: "a\\nid"}',
        'extra={"a b": 1}',
        'extra={"--x": 1}',
        "extra={x: [1, 2]}",
        "time=1:00:00\n",
        "partition=a\u2028b",
    ],
)
def test_no_cluster_setting_brings_a_line_of_its_own(option):
    with pytest.raises(ConfigError, match="cluster."):
        load_cluster([f"cluster.{option}"])


# --- amounts --------------------------------------------------------------------------------------------------------


def test_amounts_that_are_not_meant_are_refused_with_the_key_that_allows_them():
    with pytest.raises(ConfigError, match=r"sampling.num_inference_steps=1001 must be at most diffusion.num_train_timesteps=1000"):
        load_config("tiny", ["sampling.num_inference_steps=1001"])
    with pytest.raises(ConfigError, match="ablation.items asks for 2000000 scenes, more than data.max_scenes"):
        load_config("tiny", ["ablation.items=1000000"])
    with pytest.raises(ConfigError, match="data.splits holds -1"):
        load_config("tiny", ["data.splits.train=-1"])
    assert load_config("tiny", ["data.splits.train=200000", "data.max_scenes=300000"]).data.splits["train"] == 200000
    with pytest.raises(ConfigError, match=r"100001024 scenes.*data.max_scenes=100001024"):
        from melfusion.data.sources import held_out

        held_out(load_config("tiny"), 5, 50_000_000)


def test_room_that_is_not_there_is_refused_before_the_first_clip(tmp_path, capsys):
    with pytest.raises(ConfigError, match=r"1000000 clips need about 1e\+03 TB in .* left"):
        Pace(10**6, 10**9, tmp_path)
    pace = Pace(100, 10, tmp_path)
    pace.started -= 6.0
    pace.tell(2)
    pace.tell(4)
    told = capsys.readouterr().out
    assert told.startswith("2 of 100 clips are made; the others take about 5 minutes, all of them 1 kB in")
    assert told.count("\n") == 1
    assert [duration(s) for s in (3, 130, 8000, 10**6)] == ["3 s", "2 minutes", "2 hours", "12 days"]
    assert [size(b) for b in (5, 2e6)] == ["5 bytes", "2 MB"]


def test_thousands_of_names_are_found_at_once(tmp_path):
    (tmp_path / "x-seed0.wav").touch()
    files = clip_files(str(tmp_path), "x", 0, 20_000)
    assert files[0].name == "x-seed0-1.wav" and len(set(files)) == 20_000
    assert limits.one_name("name", files[0].name) == "x-seed0-1.wav" and not Path(files[0]).exists()
