"""Inside a job: tasks and devices agree, who is which rank, requeue; torchrun, srun and two hosts train what one process trains."""

import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest
import slurm_stubs
import torch
from data_fixtures import one_sentence
from forking import python
from lightning.pytorch.plugins.environments import SLURMEnvironment

from melfusion.cluster.slurm import check_tasks, environment_plugin, requeue
from melfusion.errors import ConfigError
from melfusion.state.checkpoint_store import newest

JOB = {"SLURM_JOB_ID": "4242", "SLURM_JOB_NAME": "melfusion", "SLURM_STEP_ID": "0", "SLURM_PROCID": "0"}


def step(tasks, nodes=1, **more):
    """What srun gives a task of `--nodes=N --ntasks-per-node=tasks/N`."""
    return JOB | {"SLURM_NTASKS": str(tasks), "SLURM_NNODES": str(nodes), "SLURM_NTASKS_PER_NODE": str(tasks // nodes)} | more


def without(key, environment):
    return {k: v for k, v in environment.items() if k != key}


def torchrun(processes, per_node=None):
    return {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(per_node or processes)}


@pytest.mark.parametrize(
    ("devices", "nodes", "environment", "expected"),
    [
        ("2", 1, {}, "2"),  # no SLURM
        ("auto", 1, {}, "auto"),
        ("2", 1, step(2), "2"),
        ("4", 2, step(8, 2), "4"),
        ("auto", 2, step(8, 2), "4"),
        ("-1", 1, step(1), "1"),
        ("0,3", 1, step(2), "0,3"),
        ("[0, 3]", 1, step(2), "[0, 3]"),
        ("2,", 1, step(1), "2,"),
        ("8", 1, step(1, SLURM_JOB_NAME="bash"), "8"),  # in a shell of the job Lightning starts the ranks
        ("8", 1, step(1, SLURM_JOB_NAME="interactive"), "8"),
        ("8", 2, step(2, 2, TORCHELASTIC_RUN_ID="x"), "8"),  # torchrun on each node
        ("auto", 1, torchrun(2), "2"),
        ("2", 1, torchrun(2), "2"),
        ("auto", 2, step(2, 2) | torchrun(8, 4), "4"),
        ("auto", 1, JOB, "auto"),  # sbatch without --ntasks and without srun
    ],
)
def test_tasks_that_are_the_devices_pass(devices, nodes, environment, expected):
    assert check_tasks(devices, nodes, environment) == expected


@pytest.mark.parametrize(
    ("devices", "nodes", "environment", "words"),
    [
        ("1", 1, step(2), ["2 tasks", "has 1 devices", "--nodes=1 --ntasks-per-node=1", "trainer.devices=2 trainer.num_nodes=1"]),
        ("4", 1, step(8, 2), ["8 tasks (4 on each of 2 nodes)", "has 4 devices", "trainer.devices=4 trainer.num_nodes=2"]),
        ("auto", 1, step(8, 2), ["8 tasks", "4 devices", "trainer.num_nodes=2"]),
        ("2", 4, step(8, 2), ["4 on each of 2 nodes", "--nodes=4 --ntasks-per-node=2"]),  # the product agrees, the shape does not
        ("8", 1, step(1), ["1 tasks", "8 devices", "--ntasks-per-node=8"]),
        ("0,1,2", 1, step(2), ["has 3 devices", "--ntasks-per-node=3"]),
        ("4", 1, torchrun(2), ["torchrun started 2 processes (2 on", "trainer.devices=4", "is 4", "leave trainer.devices out"]),
        ("auto", 1, torchrun(8, 4), ["8 processes (4 on this machine)", "is 4", "trainer.num_nodes=2"]),
        ("2", 1, without("SLURM_STEP_ID", step(2)), ["only this process was started", "`srun`"]),
        ("2", 1, without("SLURM_NTASKS_PER_NODE", step(2)), ["--ntasks-per-node=2", "instead of --ntasks"]),
    ],
)
def test_tasks_that_differ_are_one_sentence_with_both_numbers_and_both_cures(devices, nodes, environment, words):
    with pytest.raises(ConfigError) as caught:
        check_tasks(devices, nodes, environment)
    message = one_sentence(caught.value)
    assert all(word in message for word in words), message


def test_lightning_gets_its_ranks_from_srun_and_leaves_requeue_to_us(monkeypatch):
    for key, value in step(2).items():
        monkeypatch.setenv(key, value)
    plugin = environment_plugin(os.environ)
    assert isinstance(plugin, SLURMEnvironment) and plugin.auto_requeue is False and plugin.world_size() == 2
    assert environment_plugin({}) is None and environment_plugin(step(1, SLURM_JOB_NAME="bash")) is None
    assert environment_plugin(step(2, TORCHELASTIC_RUN_ID="x")) is None


@pytest.fixture
def stubs(tmp_path, monkeypatch):
    return slurm_stubs.install(tmp_path / "stubs", monkeypatch)


def asked_again(stubs, environment, *received):
    """What scontrol was told."""
    (stubs / "scontrol").unlink(missing_ok=True)
    requeue({"PATH": os.environ["PATH"], "SLURM_STUBS": str(stubs)} | environment, *received)
    return (stubs / "scontrol").read_text().split() if (stubs / "scontrol").exists() else None


def test_rank_0_alone_asks_slurm_to_requeue_at_the_time_limit(stubs):
    assert asked_again(stubs, step(2)) == ["requeue", "4242"] == asked_again(stubs, step(2), signal.SIGUSR1)
    array = {"SLURM_ARRAY_JOB_ID": "40", "SLURM_ARRAY_TASK_ID": "3"}
    assert asked_again(stubs, step(2) | array) == ["requeue", "40_3"]
    assert asked_again(stubs, step(2, SLURM_PROCID="1")) is None
    assert asked_again(stubs, step(2, TORCHELASTIC_RUN_ID="x", RANK="5")) is None
    assert asked_again(stubs, step(2, MELFUSION_REQUEUE="0")) is None
    assert asked_again(stubs, {}) is None
    assert asked_again(stubs, step(2), signal.SIGTERM) is None  # scancel must not come back; a preemption does by itself


def test_a_failing_scontrol_is_one_logged_sentence(stubs, caplog):
    (stubs / "bin" / "scontrol").write_text("#!/bin/bash\necho 'Invalid job id' >&2\nexit 1\n")
    requeue({"PATH": os.environ["PATH"]} | step(1))
    requeue({"PATH": "/nowhere"} | step(1))
    refused, missing = (r.getMessage() for r in caplog.records)
    assert "job 4242 was not requeued (scontrol: Invalid job id)" in refused and "4242" in missing and "scontrol" in missing
    assert "\n" not in refused + missing


# --- real ranks ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def command(tiny_corpus, tmp_path_factory):
    """command(name) → what trains tiny for three steps in a run directory of its own."""
    runs = tmp_path_factory.mktemp("runs")
    options = [
        f"data.path={tiny_corpus}",
        f"runs_dir={runs}",
        "trainer.media_items=0",
        "data.val_items=3",
        "trainer.max_steps=3",
        "trainer.checkpoint_every_n_steps=100",
        "image.reading=fixed",
        "optim.grad_clip_norm=0",
        "trainer.val_every_n_steps=3",
    ]

    def make(name, *more):
        return ["-m", "melfusion", "train", "tiny", *options, f"name={name}", *more]

    make.runs = runs
    return make


@pytest.fixture(scope="module")
def one(command):
    """Weights of one process on the joint batch."""
    subprocess.run([python(), *command("one")], env=environment(), check=True, capture_output=True, timeout=300)
    return weights(command, "one")


def weights(command, name):
    return torch.load(newest(command.runs / name / "checkpoints"), weights_only=True)["state_dict"]


def environment(**more):
    """This one without SLURM's or torch's ranks, on the loopback interface."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "MASTER_", "TORCHELASTIC_"))}
    source = str(Path(__file__).parents[2] / "src")
    return kept | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "PYTHONPATH": source} | more


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


def same(got, expected):
    assert got.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(got[key], value, rtol=1e-4, atol=2e-5)


def finish(processes):
    """All leave with 0, or what the first that did not said."""
    try:
        ends = [p.communicate(timeout=240) for p in processes]
    finally:
        for p in processes:
            p.kill()
    for process, (_, err) in zip(processes, ends, strict=True):
        assert process.returncode == 0, err[-3000:]


TWO = ("trainer.devices=2", "trainer.strategy=ddp")


@pytest.mark.slow  # torchrun starts processes that import everything anew
def test_torchrun_trains_what_one_process_trains(command, one):
    run = [
        python(),
        "-m",
        "torch.distributed.run",
        "--nnodes=1",
        "--nproc-per-node=2",
        "--master-addr=127.0.0.1",
        f"--master-port={free_port()}",
    ]
    finish([subprocess.Popen([*run, *command("torchrun", *TWO)], env=environment(), stderr=subprocess.PIPE, text=True)])
    same(weights(command, "torchrun"), one)


def test_two_tasks_of_srun_train_what_one_process_trains(command, one):
    on_this = {"SLURM_NODEID": "0", "SLURM_NODELIST": "127.0.0.1", "MASTER_PORT": free_port()}
    tasks = [environment(**step(2, SLURM_PROCID=rank, SLURM_LOCALID=rank), **on_this) for rank in ("0", "1")]
    finish([subprocess.Popen([python(), *command("srun", *TWO)], env=task, stderr=subprocess.PIPE, text=True) for task in tasks])
    same(weights(command, "srun"), one)


# --- two hosts --------------------------------------------------------------------------------------------------------------


def ip(*words, check=True):
    return subprocess.run(["ip", *words], check=check, capture_output=True, text=True)


@pytest.fixture
def hosts():
    """Names of two network namespaces joined by a cable, 10.77.0.1 and 10.77.0.2; skipped where that is not permitted."""
    names = [f"melfusion-{os.getpid()}-{i}" for i in (0, 1)]
    cable = [f"mf{os.getpid() % 10**7}{end}" for end in "ab"]
    if shutil.which("ip") is None:
        pytest.skip("there is no `ip` (iproute2) here")
    try:
        for name in names:
            if ip("netns", "add", name, check=False).returncode:
                pytest.skip("network namespaces are not permitted here")
        # both ends are made inside, so that this machine's own network never sees them
        made = ip("-n", names[0], "link", "add", cable[0], "type", "veth", "peer", "name", cable[1], "netns", names[1], check=False)
        if made.returncode:
            pytest.skip(f"a cable between network namespaces is not permitted here: {made.stderr.strip()}")
        for i, name in enumerate(names):
            ip("-n", name, "addr", "add", f"10.77.0.{i + 1}/24", "dev", cable[i])
            ip("-n", name, "link", "set", cable[i], "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield list(zip(names, cable, strict=True))
    finally:
        for name in names:
            ip("netns", "del", name, check=False)


def test_two_hosts_train_what_one_process_trains(hosts, command, one):
    ranks = []
    for rank, (host, interface) in enumerate(hosts):
        task = step(
            2,
            nodes=2,
            SLURM_PROCID=str(rank),
            SLURM_LOCALID="0",
            SLURM_NODEID=str(rank),
            SLURM_NODELIST="10.77.0.[1-2]",
            GLOO_SOCKET_IFNAME=interface,
        )
        run = ["ip", "netns", "exec", host, python(), *command("hosts", "trainer.devices=1", "trainer.num_nodes=2", TWO[1])]
        ranks.append(subprocess.Popen(run, env=environment(**task), stderr=subprocess.PIPE, text=True))
    finish(ranks)
    same(weights(command, "hosts"), one)
    assert not (command.runs / "hosts" / "checkpoints" / "last-v1.ckpt").exists()
