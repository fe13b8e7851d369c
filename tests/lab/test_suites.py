"""The lab: rows share one model where they should, a failed row stops no other, equal budgets, one table of what ran."""

import functools
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import slurm_stubs
import torch
from data_fixtures import data_set, encoded, make_sample, noise_picture

from melfusion.__main__ import main
from melfusion.assembly.configuration import load_config, override
from melfusion.assembly.run import run_directory
from melfusion.assembly.schema import Config
from melfusion.errors import ConfigError, Preempted
from melfusion.evaluation.scoring import Listeners
from melfusion.files import write_json
from melfusion.lab import models, side_by_side
from melfusion.lab import run as lab
from melfusion.lab.results import conclude
from melfusion.lab.run import RowFailed
from melfusion.lab.stored_scores import StoredScores
from melfusion.lab.suite import load_suite
from melfusion.lab.tables import suite_table
from melfusion.listeners.embedders import Embedder, JudgeEmbedding
from melfusion.models.options import VocoderConfig
from melfusion.verbs.ablate import Options, command_line, run


def ablate(options, more):
    return run(Options(**options), more)


BASE = """base: tiny
data: {path: data/small, splits: {train: 16, val: 12, test: 12}}
judge: {attributes: {place: [sea, forest, desert, city, mountains, meadow], time: [dawn, noon, dusk, night]}}
synapse: {kind: concat}
image: {reading: fixed}
trainer: {media_items: 0, checkpoint_every_n_steps: 100}
evaluation: {embedders: {judge: same}}
ablation: {seeds: [0, 1], items: 12, search_items: 12, baseline: text, guidance: [1, 3]}
"""


@pytest.fixture
def suite(tmp_path, monkeypatch):
    """A suite of three rows in a folder of its own: `text`, `ours`, and `permuted`, which uses the checkpoint of `ours`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(lab.__file__).parents[1]))
    monkeypatch.setattr("melfusion.data.sources.FITTED", 24)
    folder = tmp_path / "experiments" / "small"
    folder.mkdir(parents=True)
    (folder / "_base.yaml").write_text(BASE)
    (folder / "text.yaml").write_text("base: _base\nsynapse: {kind: none}\nablation: {condition: no picture}\n")
    (folder / "ours.yaml").write_text("base: _base\n")
    (folder / "permuted.yaml").write_text("base: _base\nablation: {checkpoint_of: ours, condition: shuffled picture}\n")
    return folder


@pytest.fixture
def random_judge(monkeypatch):
    """A judge that was never trained, so that no weights are needed."""
    import building as build

    from melfusion.models.frozen import freeze

    def load_listeners(config, embedders=True):
        with build.seeded(3):
            judge = freeze(build.judge(config))
        named = [Embedder("judge", JudgeEmbedding(judge, config.audio.sample_rate_hz))] if embedders else []
        return Listeners(config.audio, judge, named)

    for module in ("lab.guidance", "lab.panel", "evaluation.scores"):
        monkeypatch.setattr(f"melfusion.{module}.load_listeners", load_listeners)


@pytest.mark.slow  # four trainings and their clips by two scales; a suite with one training a row is fast (below)
def test_the_whole_suite_runs_resumes_and_publishes(suite, random_judge, capsys, monkeypatch):
    trained = []
    inner = lab.train
    monkeypatch.setattr(
        lab, "train", lambda config, *more: trained.append(f"{config.runs_dir}/{config.name}") or inner(config, *more)
    )
    result = ablate({"suite": "small"}, [])
    assert trained == [f"runs/small/{row}/seed{seed}" for row in ("ours", "text") for seed in (0, 1)]
    rows = {row["name"]: row for row in result["rows"]}
    assert list(rows) == ["real", "reconstruction", "ours", "permuted", "text"] and result["not_run"] == []
    assert rows["ours"]["n"] == rows["permuted"]["n"] == 12
    assert [len(rows["ours"]["by_seed"][a]["seeds"]) for a in ("place", "time")] == [2, 2]
    kept = json.loads(Path("runs/small/ours/guidance.json").read_text())
    chosen = kept["scale"]
    assert min(kept["tried"], key=lambda scale: kept["tried"][scale][kept["by"]]["mean"]) == f"{chosen:g}"
    for row in ("ours", "permuted"):
        notes = [json.loads(Path(f"runs/small/{row}/seed{seed}/test/made_with.json").read_text()) for seed in (0, 1)]
        assert rows[row]["guidance_scale"] == chosen in (1, 3) and {n["sampling"]["guidance_scale"] for n in notes} == {chosen}
        assert rows[row]["made_with"]["1"]["system"] == notes[1]["system"] != notes[0]["system"]
    assert set(json.loads(Path("runs/small/ours/guidance.json").read_text())["tried"]) == {"1", "3"}
    assert "why_not" in rows["ours"]["distances"]["judge"]["fad_conditional"]  # 2 clips of each place
    assert "mean" in rows["ours"]["distances"]["judge"]["kad"]
    table = Path("runs/small/results.md").read_text()
    assert {row["wanted"] for row in result["leakage"]} == {"at chance", "above chance"} and "place in the caption (words)" in table
    tried = json.loads(Path("runs/small/ours/guidance.json").read_text())["tried"]
    assert all(0 <= tried[scale]["accuracy"]["place"]["accuracy"] <= 1 for scale in ("1", "3"))
    assert "accuracy by guidance scale on validation clips: place 1: " in table
    assert f"guidance scales: ours {chosen:g}, permuted {chosen:g}, text " in table
    assert "ours, accuracy by seeds 0, 1: place " in table
    assert rows["ours"]["seeds"] == [0, 1] and len(rows["ours"]["device"]) == 1
    assert result["fitted_on"] == "24 further scenes of the same seed"
    events = next(Path("runs/small/tensorboard/ours").iterdir()).read_bytes()
    assert events.count(b"attributes/place/accuracy") == 2  # the curve, and what HParams scores the row by
    wrong = sum(n for others in rows["ours"]["confusions"]["place"].values() for n in others.values())
    assert wrong == round(12 * (1 - rows["ours"]["attributes"]["place"]["accuracy"])) and "place is predicted wrongly in" in table
    clips = [sorted(f.name for f in Path(f"runs/small/ours/seed{s}/test").glob("[!.]*.wav")) for s in (0, 1)]
    assert len(clips[0]) == len(clips[1]) == 6 and not set(clips[0]) & set(clips[1])  # each scene is used once
    assert not Path("experiments/results").exists()
    times = {f: f.stat().st_mtime_ns for f in Path("runs").rglob("*.wav")}
    again = ablate({"suite": "small", "publish": True}, [])
    assert {f: f.stat().st_mtime_ns for f in Path("runs").rglob("*.wav")} == times
    assert [r["attributes"] for r in again["rows"]] == [r["attributes"] for r in result["rows"]]
    published = json.loads(Path("experiments/results/small.json").read_text())
    assert published["command"] == 'make ablate SUITE=small ARGS="publish=true"' and published["device"]
    assert "| permuted |" in Path("experiments/results/small.md").read_text()
    assert Path("experiments/results/small.png").stat().st_size > 5000


@pytest.mark.slow  # two trainings of its own, for a rule of which the fast tests of the suite's notes see the other half
def test_a_model_trained_further_has_its_guidance_chosen_anew_and_its_clips_are_not_mixed(suite, random_judge):
    def chosen_for(*overrides):
        ablate({"suite": "small", "rows": "ours"}, ["ablation.seeds=[0]", "ablation.items=6", *overrides])
        return json.loads(Path("runs/small/ours/guidance.json").read_text())["made"]["model"]

    first = chosen_for()
    with pytest.raises(RowFailed, match="ours failed"):
        chosen_for("trainer.max_steps=5")
    further = json.loads(Path("runs/small/ours/guidance.json").read_text())["made"]["model"]
    assert first != further and "made with another system" in Path("runs/small/ours/failed.txt").read_text()
    short = ["ablation.seeds=[0]", "ablation.items=6", "trainer.max_steps=5"]
    refused = conclude(load_suite("small", short))  # clips of the shorter training are there in full, and are not scored
    assert "ours" in refused["not_run"] and "made with another system" in refused["missing"]["ours"]
    shutil.rmtree("runs/small/ours/seed0/test")
    assert chosen_for("trainer.max_steps=5") == further and not Path("runs/small/ours/failed.txt").exists()
    assert "ours" not in conclude(load_suite("small", short))["not_run"]
    longer = conclude(load_suite("small", short[:2]))  # the budget is shorter than what this model had
    assert "was trained for 5 steps, but its suite's budget is" in longer["missing"]["ours"]
    with pytest.raises(RowFailed):
        chosen_for()
    assert "was trained for 5 steps" in Path("runs/small/ours/failed.txt").read_text()


@pytest.mark.slow  # trainings of a suite
def test_rows_of_one_model_have_their_own_guidance_where_no_scales_are_tried(suite, random_judge):
    """As experiments/guidance has it."""
    (suite / "strong.yaml").write_text("base: _base\nsampling: {guidance_scale: 9}\nablation: {checkpoint_of: ours}\n")
    short = ["ablation.guidance=[]", "ablation.seeds=[0]", "ablation.items=6", "trainer.max_steps=1"]
    ablate({"suite": "small", "rows": "ours,strong"}, short)
    made = {row: json.loads(Path(f"runs/small/{row}/seed0/test/made_with.json").read_text()) for row in ("ours", "strong")}
    assert made["ours"]["sampling"]["guidance_scale"] == 3 and made["strong"]["sampling"]["guidance_scale"] == 9
    result = conclude(load_suite("small", short))
    assert {row["name"]: row["guidance_scale"] for row in result["rows"] if not row["floor"]} == {"ours": 3, "strong": 9}


@pytest.mark.slow  # trainings of a suite
def test_rows_and_seeds_that_are_missing_are_named_and_the_rest_is_scored(suite, random_judge, monkeypatch):
    (suite / "paper.yaml").write_text("base: _base\nsynapse: {kind: kv_mix, alpha_share: block}\n")
    short = ["ablation.guidance=[]", "ablation.test_seed=90007"]
    ablate({"suite": "small", "rows": "text,paper"}, short)
    next(Path("runs/small/text/seed1/test").glob("[!.]*.wav")).unlink()
    result = conclude(load_suite("small", short))
    rows = {row["name"]: row for row in result["rows"]}
    assert result["corpus_seed"] == 90007
    assert list(rows) == ["real", "reconstruction", "paper", "text"] and result["not_run"] == ["ours", "permuted"]
    assert result["missing"] == {"ours": "not run yet", "permuted": "not run yet", "text": "seed 1 has 5 of 6 clips"}
    assert rows["paper"]["n"] == 12 and rows["text"]["n"] == 6
    assert len(rows["text"]["by_seed"]["place"]["seeds"]) == 1 and len(rows["paper"]["by_seed"]["place"]["seeds"]) == 2
    assert "mean" in rows["paper"]["gain"]["judge"]  # over the six clips that both have
    learned = rows["paper"]["alphas"]
    assert learned.keys() == {"0", "1"} and learned["0"].keys() == {"decoder1", "decoder2"} and len(learned["0"]["decoder1"]) == 1
    words = Path("runs/small/results.md").read_text()
    assert "text: seed 1 has 5 of 6 clips" in words and "paper, learned α: seed 0: decoder1 0." in words
    for folder in ("text", "paper"):
        for seed in (0, 1):
            shutil.rmtree(f"runs/small/{folder}/seed{seed}/test")
    assert [row["name"] for row in conclude(load_suite("small", short))["rows"]] == ["real", "reconstruction"]


@pytest.mark.slow  # trainings of two suites
def test_what_is_trained_once_serves_every_suite_on_every_machine(suite, random_judge, monkeypatch, capsys):
    trained, inner = [], lab.train

    def train(config, *more):
        if run_directory(config).results() is None:
            trained.append(f"{config.runs_dir}/{config.name}")
        return inner(config, *more)

    monkeypatch.setattr(lab, "train", train)
    base = (suite / "_base.yaml").read_text().replace("[0, 1], items: 12, search_items: 12", "[0], items: 8, search_items: 4")
    (suite / "_base.yaml").write_text(base.replace("guidance: [1, 3]", "guidance: [3]"))
    first = ablate({"suite": "small", "publish": True}, [])
    assert trained == ["runs/small/ours/seed0", "runs/small/text/seed0"]
    stored = sorted(Path("experiments/results/scores").glob("*.json"))
    assert len(stored) == 3 and all(file.stat().st_size < 20_000 for file in stored)
    other = suite.parent / "other"
    shutil.copytree(suite, other)
    (other / "same.yaml").write_text((other / "ours.yaml").read_text())
    (other / "permuted.yaml").unlink()
    shutil.move("runs", "elsewhere")  # as on a machine that has only what is committed
    again = ablate({"suite": "other"}, [])
    assert len(trained) == 2 and again["missing"] == {} and not list(Path("runs").rglob("*.wav"))
    assert "the scores of text are in experiments/results/scores" in capsys.readouterr().out
    before, after = ({row["name"]: row for row in result["rows"]} for result in (first, again))
    same = ("attributes", "confusions", "by_seed", "seeds", "guidance_scale", "guidance_tried", "made_with", "device", "alphas")
    for name in ("ours", "text"):
        a, b = before[name], after[name]
        assert {said: a[said] for said in same} == {said: b[said] for said in same}
        kad = [row["distances"]["judge"]["kad"] for row in (a, b)]
        assert kad[0]["mean"] == pytest.approx(kad[1]["mean"], rel=5e-3, abs=1e-3) and kad[0].keys() == kad[1].keys()
        assert kad[0]["interval"] == pytest.approx(kad[1]["interval"], rel=2e-2, abs=1e-3)
    gains = [rows["ours"]["gain"]["judge"] for rows in (before, after)]
    assert gains[0]["mean"] == pytest.approx(gains[1]["mean"], rel=2e-2, abs=5e-3) and gains[0]["of"] == gains[1]["of"] == "kad"
    assert after["same"]["attributes"] == after["ours"]["attributes"]
    assert StoredScores(load_suite("other", ["runs_dir=away"])).has_all("ours")
    for changed in ("trainer.max_steps=1", "optim.lr=7e-3", "sampling.num_inference_steps=3"):
        assert not StoredScores(load_suite("other", [changed])).has_all("ours"), changed
    Path("runs/trainings").mkdir()
    shutil.move("elsewhere", "runs/before")  # on the first machine a training that is needed for other clips is taken over
    for note in Path("runs/before/trainings").glob("*.json"):
        there = json.loads(note.read_text())["run"].replace("runs", "runs/before", 1)
        write_json(Path("runs/trainings") / note.name, {"run": there})
    ablate({"suite": "other", "rows": "ours"}, ["sampling.num_inference_steps=3"])
    made = [json.loads(Path(f"{run}/ours/seed0/test/made_with.json").read_text()) for run in ("runs/before/small", "runs/other")]
    assert len(trained) == 2 and made[0]["system"] == made[1]["system"] and made[0]["sampling"] != made[1]["sampling"]


class Level(torch.nn.Module):
    """Embeds how loud and how bright a clip is."""

    sample_rate_hz = 8000

    def forward(self, waveform):
        return torch.stack([waveform.abs().mean(1), waveform.std(1), waveform.diff(dim=1).std(1)], 1)[:, None]


def level(config, embedders=True):
    """`load_listeners`, with Level as the only listener."""
    return Listeners(config.audio, None, [Embedder("level", Level())])


@pytest.mark.slow  # as every suite of the repository, of which two have no labels
def test_a_suite_without_labels_is_tested_on_its_own_split_over_tracks(suite, tmp_path, monkeypatch):
    splits = ["train"] * 8 + ["val"] * 6 + ["test"] * 6
    samples = [
        make_sample(f"{split}{i:02d}", split, image=encoded(noise_picture(i)), labels={"track": f"{split}{i // 2}"})
        for i, split in enumerate(splits)
    ]
    data_set(tmp_path / "data" / "real", samples)
    base = BASE.replace("{path: data/small, splits", "{source: manifest, path: data/real, splits").replace("judge: {", "#")
    base = base.replace("{seeds: [0, 1],", "{corpus_test: split, seeds: [0, 1],").replace(", guidance: [1, 3]", "")
    (suite / "_base.yaml").write_text(base)
    monkeypatch.setattr("melfusion.lab.panel.load_listeners", level)
    result = ablate({"suite": "small"}, [])
    rows = {row["name"]: row for row in result["rows"]}
    assert list(rows) == ["real", "reconstruction", "ours", "permuted", "text"] and result["linked"] == {"track": 6}
    kad = rows["ours"]["distances"]["level"]["kad"]
    assert kad["over"] == "3 tracks against 3" and rows["ours"]["gain"]["level"]["of"] == "kad"
    assert "tracks" in rows["ours"]["distances"]["level"]["fad"]["why_not"] and rows["ours"]["attributes"] == {}
    copies = rows["ours"]["memorisation"]["level"]
    assert 0 <= copies["nearer"]["low"] < copies["nearer"]["high"] <= 1 and copies["nearer"]["n"] == 3
    assert copies["closest"][0]["train"].startswith("train")
    words = Path("runs/small/results.md").read_text()
    assert "nearest training clips by level" in words and "KAD less by" in words
    assert "those of KAD over 3 tracks against 3 (bootstrap" in words
    assert "FAD by level is not computed: the 6 clips to measure against come from 3 tracks" in words
    assert "leakage" not in result and Path("runs/small/results.png").is_file()


def test_a_failed_row_does_not_stop_the_others(suite, random_judge, monkeypatch, capsys):
    (suite / "broken.yaml").write_text("base: _base\nsynapse: {layers: [nowhere]}\n")
    short = ["ablation.guidance=[]", "ablation.seeds=[0]", "ablation.items=6"]
    result = ablate({"suite": "small"}, short)
    assert [row["name"] for row in result["rows"] if not row["floor"]] == ["ours", "permuted", "text"]
    assert result["missing"].keys() == {"broken"} and "nowhere" in result["missing"]["broken"]
    assert "nowhere" in Path("runs/small/broken/failed.txt").read_text() and "small/broken failed" in capsys.readouterr().out


def test_jobs_are_models_and_slurm_gets_one_each(suite, tmp_path, monkeypatch, capsys):
    with pytest.raises(ConfigError, match="no sbatch"):
        monkeypatch.setenv("PATH", "/nowhere")
        ablate({"suite": "small", "cluster": "slurm"}, [])
    slurm_stubs.install(tmp_path / "stubs", monkeypatch)
    ablate({"suite": "small", "cluster": "slurm"}, ["trainer.max_steps=3", "cluster.time=3:00:00"])
    scripts = {row: Path(f"runs/small/{row}/slurm/4242_submission.sh").read_text() for row in ("ours", "text")}
    assert len((tmp_path / "stubs" / "sbatch").read_text().split()) == 2
    assert "melfusion ablate suite=small rows=ours,permuted trainer.max_steps=3\n" in scripts["ours"]
    for row, text in scripts.items():
        assert f"--job-name=small-{row}" in text and "--ntasks-per-node=1" in text and "--time=3:00:00" in text
    said = capsys.readouterr().out
    assert "small-ours, log runs/small/ours/slurm/4242_0_log.out" in said
    assert "`melfusion submit ablate suite=small table=true trainer.max_steps=3` makes the table" in said
    assert not Path("runs/small/ours/seed0").exists()
    assert main(["submit", "ablate", "suite=small", "table=true", "trainer.max_steps=3"]) == 0
    script = max(Path("runs").glob("**/*_submission.sh"), key=lambda file: file.stat().st_mtime_ns).read_text()
    assert "melfusion ablate suite=small table=true trainer.max_steps=3\n" in script
    with pytest.raises(ConfigError, match="submit ablate suite=small table=true"):
        ablate({"suite": "small", "cluster": "slurm", "table": True}, [])
    with pytest.raises(ConfigError, match="cluster.gpus_per_node=4: ablate is one process"):
        ablate({"suite": "small", "cluster": "slurm"}, ["cluster.gpus_per_node=4"])
    with pytest.raises(ConfigError, match="did you mean 'time'"):
        ablate({"suite": "small", "cluster": "slurm"}, ["cluster.tme=4"])


def test_jobs_side_by_side_share_the_cores(suite, monkeypatch):
    calls, code = [], [0]

    def popen(command, env, **_):
        calls.append((command, env))
        return SimpleNamespace(poll=lambda: code[0], returncode=code[0])

    monkeypatch.setattr(side_by_side.subprocess, "Popen", popen)
    monkeypatch.setattr(side_by_side.os, "sched_getaffinity", lambda _: range(9))
    monkeypatch.setattr(side_by_side, "POLL_S", 0)
    monkeypatch.setattr("melfusion.lab.results.conclude", lambda *_, **__: None)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    ablate({"suite": "small", "jobs": 2}, ["trainer.max_steps=3"])
    assert sorted(command[3:5] for command, _ in calls) == [["ablate", "suite=small"]] * 2
    assert {env["OMP_NUM_THREADS"] for _, env in calls} == {"4"}
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    ablate({"suite": "small", "jobs": 20}, [])
    assert {env["OMP_NUM_THREADS"] for _, env in calls[2:]} == {"7"}
    code[0] = -9  # killed: it could not say why
    ablate({"suite": "small", "jobs": 2}, [])
    assert "ended with code -9" in Path("runs/small/ours/failed.txt").read_text()
    code[0] = 75
    with pytest.raises(Preempted, match="the same command goes on"):
        ablate({"suite": "small", "jobs": 2}, [])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_ends_the_jobs_when_they_have_saved_and_starts_no_other(suite, monkeypatch, capsys, number):
    (suite / "third.yaml").write_text("base: _base\n")
    started, popen, own = [], subprocess.Popen, signal.getsignal(number)

    def begin(command, threads):
        script = "trap 'sleep .3; echo saved >> saved; exit 75' TERM; echo up >> up; while :; do sleep .05; done"
        started.append(popen(["sh", "-c", script], start_new_session=True))
        return started[-1]

    def strike():
        deadline = time.monotonic() + 20
        while not (Path("up").is_file() and Path("up").read_text().count("up") == 2) and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)  # as `timeout` does

    monkeypatch.setattr(side_by_side, "begin", begin)
    threading.Thread(target=strike).start()
    assert main(["ablate", "suite=small", "jobs=2"]) == 75
    words = "arrived, and the jobs have saved their state and ended: the same command goes on."
    assert f"{number.name} {words}" in capsys.readouterr().err
    assert Path("saved").read_text().count("saved") == 2 and [process.poll() for process in started] == [75, 75]
    assert signal.getsignal(number) is own


@pytest.mark.parametrize("where", ["make_clips", "conclude"])
def test_a_signal_between_two_trainings_leaves_at_once(suite, monkeypatch, capsys, where):
    def strike(*_, **__):
        os.kill(os.getpid(), signal.SIGTERM)

    if where == "conclude":
        monkeypatch.setattr("melfusion.lab.run.run_jobs", lambda *_: [])
        monkeypatch.setattr("melfusion.lab.results.conclude", strike)
    monkeypatch.setattr(lab, "make_clips", strike)
    assert main(["ablate", "suite=small", "ablation.guidance=[]", "ablation.seeds=[0]", "trainer.max_steps=1"]) == 75
    assert "SIGTERM arrived between two trainings: models that are trained and clips" in capsys.readouterr().err
    assert not list(Path("runs").rglob("failed.txt"))


def test_a_table_alone_runs_nothing_and_is_of_the_test_judge(suite, monkeypatch):
    class Loaded(Exception):
        pass

    def load_listeners(config):
        raise Loaded(config.judge.weights)

    monkeypatch.setattr("melfusion.lab.panel.load_listeners", load_listeners)
    monkeypatch.setattr(lab, "train", lambda *_: pytest.fail("it trains"))
    with pytest.raises(Loaded, match="shipped:judge_test"):
        ablate({"suite": "small", "table": True}, ["ablation.test_judge=shipped:judge_test"])
    assert command_line(load_suite("small", []), Options(suite="small", table=True, publish=True), []) == (
        'make ablate SUITE=small ARGS="publish=true"'
    )  # what makes it again from nothing


def test_a_suite_lies_where_it_was_sent(suite):
    assert load_suite("small", ["runs_dir=elsewhere"]).clips("ours", 1) == Path("elsewhere/small/ours/seed1/test")
    for given in ("name=mine", "seed=3"):
        with pytest.raises(ConfigError, match=f"{given} would be the same for all"):
            load_suite("small", [given])


def test_what_is_wrong_with_a_suite_is_one_sentence(suite):
    with pytest.raises(ConfigError, match="no folder experiments/smal with rows; suites are small"):
        load_suite("smal", [])
    for whole in ("publish", "table"):
        with pytest.raises(ConfigError, match="need the whole suite"):
            ablate({"suite": "small", "rows": "ours", whole: True}, [])
    with pytest.raises(ConfigError, match="rows names 'our'"):
        ablate({"suite": "small", "rows": "our"}, [])
    (suite / "longer.yaml").write_text("base: _base\ntrainer: {max_steps: 9}\n")
    with pytest.raises(ConfigError, match="unequal budgets: trainer.max_steps is .* in text, 9 in longer|9 in longer, .* in text"):
        load_suite("small", [])
    (suite / "longer.yaml").write_text("base: _base\nablation: {guidance: [1, 3, 5]}\n")
    with pytest.raises(ConfigError, match="unequal budgets: ablation.guidance is"):
        load_suite("small", [])
    (suite / "longer.yaml").write_text("base: _base\nablation: {checkpoint_of: nobody}\n")
    with pytest.raises(ConfigError, match="checkpoint_of='nobody' is no row"):
        load_suite("small", [])


RESULTS = sorted((Path(__file__).parents[2] / "experiments" / "results").glob("*.json"))


@pytest.mark.parametrize("file", [f for f in RESULTS if not f.stem.startswith("open_games")], ids=lambda f: f.stem)
def test_stored_results_become_a_table_again(file):
    """Results of version 0.1 name some things otherwise; those of `picture-gain` have a test beside theirs."""
    result = json.loads(file.read_text())
    table = suite_table(result)
    assert all(f"| {row['name']} " in table for row in result["rows"]) and "measures" in table and "heard" not in table
    assert file.with_suffix(".md").read_text() == table + "\n"


EXPERIMENTS = Path(__file__).parents[2] / "experiments"
ROW_FILES = sorted(f for f in EXPERIMENTS.glob("*/*.yaml") if not f.name.startswith("_"))
suite_of_the_repository = functools.cache(lambda name: load_suite(name, []))


@pytest.mark.parametrize("file", ROW_FILES, ids=lambda f: f"{f.parent.name}/{f.stem}")
def test_every_row_of_the_repository_runs_at_tiny_size(file, make_batch, monkeypatch):
    import building as build

    monkeypatch.chdir(EXPERIMENTS.parent)
    suite = suite_of_the_repository(file.parent.name)  # equal budgets, and checkpoint_of names a row
    assert suite.first(file.stem).ablation.baseline in suite.rows
    assert len(file.read_text().splitlines()) <= 15
    config = load_config(f"{file},tiny")
    if config.ablation.checkpoint_of:
        return
    system = build.system(config)
    loss = system.training_step(make_batch(config, system), 0)["loss"]
    loss.backward()
    grads = [p.grad for p in system.denoiser.parameters() if p.requires_grad]
    assert torch.isfinite(loss) and grads and any(g is not None and g.abs().max() > 0 for g in grads)


@pytest.mark.slow  # trainings and evaluations of each suite
@pytest.mark.parametrize("name", sorted({file.parent.name for file in ROW_FILES}))
def test_every_suite_of_the_repository_comes_to_its_table_at_tiny_size(name, tmp_path, monkeypatch, random_judge):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("melfusion.data.sources.FITTED", 24)
    Path("experiments").symlink_to(EXPERIMENTS)
    monkeypatch.setattr("melfusion.lab.suite.load_config", lambda file, given: load_config(f"{file},tiny", given))
    judge = "judge.attributes={place: [sea, forest, desert, city, mountains, meadow], time: [dawn, noon, dusk, night]}"
    overrides = [
        judge,
        *(["data.leave_out=[]"] if name == "open_games" else []),  # whose label scenes do not have
        "ablation.test_judge=null",
        "ablation.items=4",
        "ablation.seeds=[0]",
        "ablation.search_items=4",
    ]
    result = ablate({"suite": name}, overrides)
    assert result["missing"] == {} and result["not_run"] == []
    assert [row["name"] for row in result["rows"]] == ["real", "reconstruction", *load_suite(name, overrides).rows]
    assert all(row["n"] == 4 and "mean" in row["distances"]["judge"]["kad"] for row in result["rows"])


@pytest.mark.parametrize("vocoder", [VocoderConfig(weights="shipped", mel_corrections=4), VocoderConfig(griffin_lim_iterations=7)])
def test_a_row_has_its_own_vocoder_and_not_that_of_the_checkpoint(monkeypatch, vocoder):
    asked = []
    monkeypatch.setattr(models, "load_system", lambda path, overrides: asked.append(overrides) or [torch.nn.Identity()])
    models.trained(Config(name="row", vocoder=vocoder))
    assert override(Config(vocoder=VocoderConfig(weights="run:other", mel_corrections=1)), asked[0]).vocoder == vocoder
