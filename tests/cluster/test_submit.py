"""Jobs for SLURM: settings and their errors, the script, that it really trains, requeue, containers, the image's recipe."""

import configparser
import dataclasses
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest
import slurm_stubs
import yaml
from data_fixtures import one_sentence
from forking import python

from melfusion import __main__ as cli
from melfusion import __version__
from melfusion.assembly.devices import world_size
from melfusion.assembly.options import TrainerConfig
from melfusion.cluster.options import ClusterConfig
from melfusion.cluster.submit import CARRIED
from melfusion.config.load import CONFIG_DIR
from melfusion.data.shards import ShardSet
from melfusion.errors import ConfigError
from melfusion.verbs.options import read
from melfusion.verbs.submit import load_cluster, submit
from melfusion.verbs.table import module_of

ROOT = Path(__file__).parents[2]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    for name in CARRIED:
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def slurm(here, monkeypatch):
    """A login node whose sbatch accepts jobs and runs none; the folder of what the programs were told."""
    return slurm_stubs.install(here / "stubs", monkeypatch)


def script(name="tiny"):
    (file,) = Path("runs", name, "slurm").glob("4242_submission.sh")
    return file.read_text()


def asked(text):
    """The #SBATCH options of a script."""
    lines = [shlex.split(line.removeprefix("#SBATCH --"))[0] for line in text.splitlines() if line.startswith("#SBATCH --")]
    return {key: value for key, _, value in (line.partition("=") for line in lines)}


def srun_of(text):
    return shlex.split(next(line for line in text.splitlines() if line.startswith("srun ")))


def error_of(*options, verb="train"):
    with pytest.raises(ConfigError) as caught:
        submit(verb, ["tiny"] if verb == "train" else [], list(options), "scenes")
    return one_sentence(caught.value)


def test_the_shipped_settings_are_whole_and_are_the_defaults():
    tree = yaml.safe_load((CONFIG_DIR / "cluster" / "slurm.yaml").read_text())
    assert tree == dataclasses.asdict(ClusterConfig()) == dataclasses.asdict(load_cluster([])[0])
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    patterns = setup["options.package_data"]["melfusion"].split(", ")
    assert any((CONFIG_DIR / "cluster" / "slurm.yaml") in CONFIG_DIR.parent.glob(p) for p in patterns)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("cluster.tiem=1:00:00", ["'tiem'", "did you mean 'time'?"]),
        ("cluster.time=90", ["cluster.time='90'", '"24:00:00"']),
        ("cluster.nodes=two", ["'nodes'", "Integer"]),
        ("cluster.nodes=0", ["cluster.nodes=0", "at least 1"]),
        ("cluster.gpus_per_node=-1", ["cluster.gpus_per_node=-1"]),
        ("cluster.time=0:02:00", ["cluster.signal_s=120", "cluster.time=0:02:00"]),
        ("cluster.container_runtime=docker", ["'docker'", "apptainer, pyxis"]),
        ("cluster.extra={ntasks: 3}", ["'ntasks'", "cluster.gpus_per_node"]),
        ("cluster=nowhere.yaml", ["nowhere.yaml"]),
    ],
)
def test_a_wrong_setting_is_one_sentence(option, words, slurm):
    message = error_of(option)
    assert all(word in message for word in words), message
    assert not Path("runs").exists()


def test_a_time_that_yaml_turned_into_a_number_is_found(slurm):
    Path("site.yaml").write_text("time: 12:00:00\n")
    assert "in quotes" in error_of("cluster=site.yaml")


def test_the_script_asks_for_what_the_settings_say(slurm, capsys):
    Path("site.yaml").write_text(
        "account: lab\npartition: gpu\nqos: long\nconstraint: a100\ntime: '2-00:00:00'\nnodes: 2\n"
        "gpus_per_node: 4\ncpus_per_gpu: 6\nmemory: 100G\nsignal_s: 300\nsetup: [module load cuda]\n"
        "extra: {exclusive: true, mail-type: FAIL}\n"
    )
    assert submit("train", ["tiny"], ["seed=3", "cluster=site.yaml", "cluster.qos=null"], "scenes") == "4242"
    text, here = script(), Path.cwd()
    assert asked(text) == {
        "account": "lab",
        "partition": "gpu",
        "constraint": "a100",
        "time": "2-00:00:00",
        "nodes": "2",
        "gpus-per-node": "4",
        "ntasks-per-node": "4",
        "cpus-per-task": "6",
        "mem": "100G",
        "signal": "USR1@300",
        "requeue": "",
        "exclusive": "",
        "mail-type": "FAIL",
        "open-mode": "append",
        "export": "ALL",
        "job-name": "melfusion-tiny",
        "output": f"{here}/runs/tiny/slurm/%j_0_log.out",
    }
    srun = srun_of(text)
    assert srun[srun.index(sys.executable) :] == [
        sys.executable,
        "-u",
        "-m",
        "melfusion",
        "train",
        "tiny",
        "seed=3",
        "trainer.devices=4",
        "trainer.num_nodes=2",
    ]
    assert {"--cpus-per-task=6", "--open-mode=append", "--kill-on-bad-exit=0"} <= set(srun)
    assert text.index("module load cuda") < text.index("srun ") and "export MELFUSION_REQUEUE=0" in text
    assert [p.name for p in Path("runs/tiny/slurm").iterdir()] == ["4242_submission.sh"]
    assert capsys.readouterr().out == "job 4242: melfusion-tiny, log runs/tiny/slurm/4242_0_log.out\n"


def test_devices_and_nodes_set_the_tasks_and_contradictions_are_one_sentence(slurm):
    submit("train", ["tiny"], ["trainer.devices=8", "trainer.num_nodes=3"], "scenes")  # what DEVICES=8 NODES=3 becomes
    assert {k: asked(script())[k] for k in ("nodes", "gpus-per-node", "ntasks-per-node")} == {
        "nodes": "3",
        "gpus-per-node": "8",
        "ntasks-per-node": "8",
    }
    message = error_of("trainer.devices=2", "cluster.gpus_per_node=4")
    assert "trainer.devices=2 and cluster.gpus_per_node=4" in message
    assert "trainer.num_nodes=2 and cluster.nodes=1" in error_of("trainer.num_nodes=2", "cluster.nodes=1")
    assert "trainer.devices=2 and cluster.gpus_per_node=0" in error_of("trainer.devices=2", "cluster.gpus_per_node=0")
    assert "trainer.devices=0,1 is no number" in error_of("trainer.devices=0,1")
    submit("train", ["tiny"], ["trainer.devices=auto", "cluster.gpus_per_node=0"], "scenes")
    assert "gpus-per-node" not in asked(script()) and asked(script())["ntasks-per-node"] == "1"
    assert srun_of(script())[-2:] == ["trainer.devices=1", "trainer.num_nodes=1"]
    submit("train", ["tiny"], ["cluster.gpus_per_node=4", "cluster.extra={gres: gpu:a100:4}"], "scenes")
    assert asked(script())["gres"] == "gpu:a100:4" and "gpus-per-node" not in asked(script())
    assert asked(script())["ntasks-per-node"] == "4"


SHARING = (
    ("train", ["name=tiny"]),
    ("precompute", ["data.path=set"]),
    ("evaluate", ["ckpt=runs/tiny", "n=600"]),
    ("generate", ["list=items.jsonl", "out=clips"]),
)


@pytest.mark.parametrize("verb, options", SHARING)
def test_devices_and_nodes_mean_the_same_for_all_verbs_that_share_their_work(verb, options, slurm):
    """Every task finds as many tasks as its own command names; what is given in the settings does as well."""
    for given in (["trainer.devices=8", "trainer.num_nodes=3"], ["cluster.gpus_per_node=8", "cluster.nodes=3"]):
        submit(verb, [], [*options, "trainer.strategy=ddp", *given], "tiny")
        text = script("tiny" if verb == "train" else verb)
        tasks = {k: asked(text)[k] for k in ("nodes", "gpus-per-node", "ntasks-per-node")}
        assert tasks == {"nodes": "3", "gpus-per-node": "8", "ntasks-per-node": "8"}
        wanted = [verb, *options, "trainer.strategy=ddp", "trainer.devices=8", "trainer.num_nodes=3"]
        assert srun_of(text)[-len(wanted) - 1 :] == ["melfusion", *wanted]
        in_a_task = {"SLURM_NTASKS": "24", "SLURM_NNODES": "3", "SLURM_NTASKS_PER_NODE": "8", "SLURM_STEP_ID": "0"}
        assert world_size(TrainerConfig(devices="8", num_nodes=3), in_a_task | {"SLURM_JOB_NAME": "j"}) == 24
    read(module_of(verb), srun_of(text)[-len(wanted) + 1 :], {})  # and the verb takes them


@pytest.mark.parametrize(
    "verb, options",
    [
        ("probe", []),
        ("evaluate", ["wavs=clips"]),
        ("evaluate", ["share=0/4"]),
        ("precompute", ["prune=list"]),
        ("generate", ["prompt=rain"]),
        ("generate", ["list=items.jsonl", "share=0/4"]),
    ],
)
def test_a_call_of_one_process_is_one_task(verb, options, slurm):
    Path("site.yaml").write_text("nodes: 4\ngpus_per_node: 8\n")
    submit(verb, [], [*options, "cluster=site.yaml"], "scenes")
    text = script(verb)
    assert srun_of(text)[-len(options) - 1 :] == [verb, *options]
    assert {asked(text)[k] for k in ("nodes", "gpus-per-node", "ntasks-per-node")} == {"1"}
    for more in ("cluster.nodes=2", "trainer.devices=2", "trainer.num_nodes=3"):
        assert f"{more}: {verb} is one process" in error_of(*options, more, verb=verb)


@pytest.mark.slow  # two processes that import everything
def test_the_tasks_of_a_job_precompute_together(slurm, tiny_corpus, monkeypatch):
    monkeypatch.setattr("sys.executable", python())
    (slurm / "run").touch()
    given = [f"data.path={tiny_corpus}", "data.samples_per_shard=4", "data.precompute.batch_size=3", "data.precompute.path=out"]
    submit("precompute", ["tiny"], [*given, "image.reading=fixed", "trainer.accelerator=cpu", "trainer.devices=2"], "scenes")
    logs = [Path(f"runs/precompute/slurm/4242_{task}_log.out").read_text() for task in (0, 1)]
    assert (slurm / "status").read_text() == "0\n", logs
    shards = {entry.shard for entry in ShardSet("out").entries("train")}
    assert {int(Path(name).stem.rpartition("-")[2]) % 2 for name in shards} == {0, 1}  # both took part
    assert ShardSet("out").counts() == ShardSet(tiny_corpus).counts() and sum("16 train" in log for log in logs) == 1


def test_what_is_wrong_with_the_call_is_said_before_anything_is_sent(slurm, capsys, monkeypatch):
    for argv, words in (
        (["submit"], "submit sends one of ablate"),
        (["submit", "seed=1"], "not ''"),
        (["submit", "trian"], "did you mean 'train'?"),
        (["submit", "submit"], "not 'submit'"),
        (["submit", "train", "tinny"], "did you mean 'tiny'?"),
        (["submit", "train", "tiny", "seeed=1"], "did you mean 'seed'?"),
        (["submit", "generate", "rain"], "'rain' is no key=value"),
    ):
        assert cli.main(argv) == 2
        err = capsys.readouterr().err
        assert words in err and err.count("\n") == 1
    assert not (slurm / "sbatch").exists()
    (slurm / "refuse").touch()
    assert "sbatch refused the job (sbatch: error: invalid partition specified: nowhere)" in error_of()
    monkeypatch.setenv("PATH", "/nowhere")
    assert "no sbatch on the PATH" in error_of()


TEXT = 'calm: `rain` #1 = $HOME [x "y" it\'s\n100 % \\n'


def test_variables_of_the_makefile_reach_every_task_verbatim(slurm, monkeypatch):
    (slurm / "run").touch()
    show = slurm / "bin" / "show"
    show.write_text('#!/bin/bash\nprintf "%s" "$PROMPT" > shown\nprintf "%s" "${@: -1}" "|$PYTHONPATH" > more\n')
    show.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(show))
    monkeypatch.setenv("PROMPT", TEXT)
    monkeypatch.setenv("PYTHONPATH", "src")
    submit("generate", [], [f"negative_prompt={TEXT}"], "scenes")
    assert Path("shown").read_text() == TEXT
    assert Path("more").read_text() == f"negative_prompt={TEXT}|{Path('src').absolute()}"
    monkeypatch.delenv("PROMPT")
    file = Path("runs/generate/slurm/4242_submission.sh")
    clean = {k: os.environ[k] for k in ("PATH", "SLURM_STUBS")} | dict.fromkeys(("SLURM_NTASKS", "SLURM_NTASKS_PER_NODE"), "1")
    Path("shown").unlink()
    subprocess.run(["bash", str(file)], env=clean | {"SLURM_JOB_ID": "1"}, check=True)  # a site that exports nothing
    assert Path("shown").read_text() == TEXT


def test_make_submit_passes_the_verb_its_variables_and_the_settings(slurm):
    given = ["VERB=train", "CONFIG=tiny", "DEVICES=2", "NODES=2", "cluster.partition=gpu", "seed=4", f"PYTHON={sys.executable}"]
    (Path.cwd() / "src").symlink_to(ROOT / "src")
    call = ["make", "--no-print-directory", "-f", ROOT / "Makefile", "-o", "install", "submit", *given]
    done = subprocess.run(call, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "job 4242: melfusion-tiny, log runs/tiny/slurm/4242_0_log.out\n", done.stderr
    text = script()
    assert asked(text)["partition"] == "gpu" and asked(text)["nodes"] == "2" and "export CONFIG=tiny" in text
    assert srun_of(text)[-4:] == ["train", "seed=4", "trainer.devices=2", "trainer.num_nodes=2"]


@pytest.mark.parametrize(
    ("code", "option", "requeued"),
    [(75, "true", True), (75, "false", False), (1, "true", False), (143, "true", False), (0, "true", False)],
)
def test_only_a_job_that_saved_its_state_is_requeued(code, option, requeued, slurm):
    (slurm / "run").touch()
    (slurm / "code").write_text(str(code))
    submit("train", ["tiny"], [f"cluster.requeue={option}"], "scenes")
    assert (slurm / "scontrol").exists() == requeued
    if requeued:
        assert (slurm / "scontrol").read_text() == "requeue\n4242\n"
    assert (slurm / "status").read_text() == f"{code}\n"  # SLURM sees the training's own code
    assert ("requeue" in asked(script())) == (option == "true") != ("no-requeue" in asked(script()))


@pytest.mark.slow  # a training that is stopped and goes on; signals and submission have fast tests
def test_a_job_whose_time_is_up_saves_is_requeued_and_goes_on_in_its_run_directory(slurm, tiny_corpus, monkeypatch):
    monkeypatch.setattr("sys.executable", python())
    (slurm / "run").touch()
    options = [
        f"data.path={tiny_corpus}",
        "name=long",
        "trainer.max_steps=60",
        "image.reading=fixed",
        "trainer.media_items=0",
        "cluster.gpus_per_node=0",
        "trainer.checkpoint_every_n_steps=1000",
        "trainer.val_every_n_steps=1000",
    ]

    def time_is_up():
        curve, lock = Path("runs/long/metrics.jsonl"), Path("runs/long/.lock")
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not (curve.is_file() and '"step": 3' in curve.read_text()):
            time.sleep(0.02)
        os.kill(int(lock.read_text().split()[1]), signal.SIGUSR1)  # "process 123 on host"

    watch = threading.Thread(target=time_is_up)
    watch.start()
    submit("train", ["tiny"], options, "scenes")
    watch.join()
    log = Path("runs/long/slurm/4242_0_log.out")
    assert (slurm / "status").read_text() == "75\n" and (slurm / "scontrol").read_text() == "requeue\n4242\n", log.read_text()
    (saved,) = Path("runs/long/checkpoints").glob("*.ckpt")
    step = int(saved.stem.removeprefix("step-"))
    assert 3 <= step < 60 and f"has saved step {step}" in log.read_text()
    assert cli.main(["submit", "train", "tiny", *options]) == 0  # what the requeued job runs
    assert (slurm / "status").read_text() == "0\n"
    assert json.loads(Path("runs/long/results.json").read_text())["step"] == 60
    lines = map(json.loads, Path("runs/long/metrics.jsonl").read_text().splitlines())
    steps = [line["step"] for line in lines if "train/loss" in line]
    assert steps == list(range(1, 61))  # none lost, none twice
    assert cli.main(["submit", "train", "tiny", *options]) == 0
    assert "runs/long is finished" in log.read_text()  # one log, appended to
    assert (slurm / "scontrol").read_text() == "requeue\n4242\n"  # no more than that once


def test_a_container_wraps_every_task(slurm):
    (slurm / "run").touch()
    here, image = str(Path.cwd()), ["cluster.container=docker://lab/melfusion:1"]
    submit("train", ["tiny"], [*image, "cluster.container_args=[--bind, /scratch]"], "scenes")
    assert (slurm / "apptainer").read_text().splitlines() == [
        "exec",
        "--nv",
        "--bind",
        here,
        "--pwd",
        here,
        "--bind",
        "/scratch",
        "docker://lab/melfusion:1",
        "python",
        "-u",
        "-m",
        "melfusion",
        "train",
        "tiny",
        "trainer.devices=1",
        "trainer.num_nodes=1",
    ]
    submit("train", ["tiny"], [*image, "cluster.gpus_per_node=0"], "scenes")
    assert "--nv" not in script()
    (slurm / "code").write_text("0")
    submit("train", ["tiny"], [*image, "cluster.container_runtime=pyxis"], "scenes")
    srun = srun_of(script())
    assert {
        "--container-image=docker://lab/melfusion:1",
        f"--container-mounts={here}:{here}",
        f"--container-workdir={here}",
    } <= set(srun)
    assert "apptainer" not in srun and srun[srun.index("python") :][:4] == ["python", "-u", "-m", "melfusion"]


# --- the image's recipe: it can be read here, not built -----------------------------------------------------------------


def instructions():
    text = (ROOT / "Containerfile").read_text().replace("\\\n", " ")
    return [line.split(maxsplit=1) for line in text.splitlines() if line.strip() and not line.startswith("#")]


def test_the_containerfile_copies_what_is_there_and_what_installing_needs():
    lines = instructions()
    copies = [line.split() for word, line in lines if word == "COPY"]
    sources = [source for line in copies for source in line[:-1]]
    for source in sources:
        assert (ROOT / source).exists(), source
    install = next(i for i, (word, line) in enumerate(lines) if word == "RUN" and "make install" in line)
    before = [s for word, line in lines[:install] if word == "COPY" for s in line.split()[:-1]]
    assert {"setup.cfg", "pyproject.toml", "requirements-no-deps.txt", "Makefile", "src/melfusion/install.py"} <= set(before)
    assert "src" not in before  # a changed source file must not install torch again
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    tops = {f.split("/")[0] for f in tracked.stdout.split()} or {"src", "configs", "data", "experiments"}
    assert {"src", "configs", "data", "experiments"} & tops <= {s.split("/")[0] for s in sources[len(before) :]}
    assert lines[0][0] == "FROM" and lines[0][1].split(":")[0].endswith("python") and "3.11" in lines[0][1]
    assert ["ENTRYPOINT", '["melfusion"]'] in lines
    environment = dict(item.split("=") for word, line in lines if word == "ENV" for item in line.split())
    assert Path(environment["PYTHON"]).name == "python3.11"  # `make install` installs there, and not into .venv


def test_what_the_image_leaves_out_is_nothing_it_copies():
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] not in "#!"]
    assert {".git", "runs", ".venv"} <= set(ignored)
    copied = {s for word, line in instructions() if word == "COPY" for s in line.split()[:-1]}
    assert not copied & set(ignored)


def test_the_files_of_the_first_layer_are_enough_to_install(tmp_path):
    """setuptools' own view: an editable build of the first layer's files points at src, where the rest is copied later."""
    lines = instructions()
    install = next(i for i, (word, line) in enumerate(lines) if word == "RUN" and "make install" in line)
    for source in [s for word, line in lines[:install] if word == "COPY" for s in line.split()[:-1]]:
        (tmp_path / source).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / source).write_bytes((ROOT / source).read_bytes())
    build = "import setuptools.build_meta as b; print(b.build_editable('wheel'))"
    done = subprocess.run([sys.executable, "-c", build], cwd=tmp_path, capture_output=True, text=True)
    if "No module named 'setuptools'" in done.stderr:
        pytest.skip("setuptools is not installed here")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith(f"melfusion-{__version__}-")  # the one place of the version
    with zipfile.ZipFile(tmp_path / "wheel" / done.stdout.splitlines()[-1]) as wheel:
        texts = {name.split("/")[-1]: wheel.read(name).decode() for name in wheel.namelist()}
    assert [text.strip() for name, text in texts.items() if name.endswith(".pth")] == [str(tmp_path / "src")]
    assert "melfusion = melfusion.__main__:main" in texts["entry_points.txt"]
