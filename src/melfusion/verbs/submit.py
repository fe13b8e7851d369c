"""Send any verb as a SLURM job, with the settings of configs/cluster/slurm.yaml."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from melfusion import DEFAULT_CONFIG
from melfusion.config.check import nearest
from melfusion.errors import ConfigError
from melfusion.verbs.options import MANY, option, read
from melfusion.verbs.table import VERBS, module_of

if TYPE_CHECKING:
    from melfusion.cluster.options import ClusterConfig

HERE = ("submit", "tensorboard", "completion")  # verbs that are no jobs


@dataclass
class Options:
    verb: str = option("", "the verb, then what its plain words are, such as names of configurations", words=MANY)


MORE = "It also takes what the verb takes, cluster=FILE for other settings than configs/cluster/slurm.yaml, and these keys:"
SECTIONS = ("cluster",)
EXAMPLES = (
    "melfusion submit train melbench cluster.gpus_per_node=4 cluster.time=2-00:00:00",
    "make submit VERB=ablate SUITE=headline ARGS=cluster.partition=gpu",
)


def run(options: Options, more: list[str]) -> None:
    """One job of `melfusion VERB …`; what is wrong with the verb's own options is said before anything is sent."""
    verb, *words = options.verb.split(",")
    known = [v for v in VERBS if v not in HERE]
    if verb not in known:
        raise ConfigError(f"submit sends one of {', '.join(known)}, not {verb!r}{nearest(verb, known)}.")
    read(module_of(verb), [*words, *load_cluster(more)[2]], os.environ)
    submit(verb, words, more, os.environ.get("CONFIG") or DEFAULT_CONFIG)


def load_cluster(items: list[str]) -> tuple[ClusterConfig, set[str], list[str]]:
    """`key=value` → settings from `cluster=` and `cluster.key=`, the keys given so, and all others; or ConfigError."""
    from melfusion.cluster.options import ClusterConfig
    from melfusion.cluster.submit import check
    from melfusion.config.load import CONFIG_DIR, config_path, load_plain

    own = [o for o in items if o.startswith(("cluster=", "cluster."))]
    keys = [o.removeprefix("cluster.") for o in own if o.startswith("cluster.")]
    name = next((o.partition("=")[2] for o in reversed(own) if o.startswith("cluster=")), "slurm")
    shipped = CONFIG_DIR / "cluster" / f"{name}.yaml"
    settings = load_plain(ClusterConfig, shipped if shipped.is_file() else config_path(name), keys)
    check(settings)
    return settings, {key.partition("=")[0] for key in keys}, [o for o in items if o not in own]


def submit(verb: str, words: list[str], items: list[str], config: str) -> str:
    """One job of `melfusion VERB [CONFIG] [key=value …]`; returns its id. `config` is read where no word names one."""
    from melfusion.assembly.configuration import load_config
    from melfusion.cluster.submit import CARRIED, Job, agree, alone, send, shares_work

    settings, said, rest = load_cluster(items)
    if shares_work(verb, rest):
        rest = agree(settings, said, rest)
    else:
        alone(verb, settings, said, rest)
    name, folder = verb, Path("runs") / verb / "slurm"
    if verb == "train":
        run = load_config(",".join(words) or config, rest)
        name, folder = str(run.name), Path(run.runs_dir) / str(run.name) / "slurm"
    variables = {n: os.environ[n] for n in CARRIED if n in os.environ}
    return send(Job(f"melfusion-{name}", folder, [verb, *words, *rest], variables), settings)
