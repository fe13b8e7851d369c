"""`melfusion submit VERB …`: any verb as a SLURM job."""

from __future__ import annotations

import os
from pathlib import Path

from melfusion.assembly.configuration import load_config
from melfusion.cluster.options import ClusterConfig
from melfusion.cluster.submit import CARRIED, PARALLEL, Job, agree, alone, check, send
from melfusion.config.load import CONFIG_DIR, config_path, load_plain


def load_cluster(options: list[str]) -> tuple[ClusterConfig, set[str], list[str]]:
    """Options → settings from `cluster=` and `cluster.key=`, the keys given so, the other options; or ConfigError."""
    own = [o for o in options if o.startswith(("cluster=", "cluster."))]
    keys = [o.removeprefix("cluster.") for o in own if o.startswith("cluster.")]
    name = next((o.partition("=")[2] for o in reversed(own) if o.startswith("cluster=")), "slurm")
    shipped = CONFIG_DIR / "cluster" / f"{name}.yaml"
    settings = load_plain(ClusterConfig, shipped if shipped.is_file() else config_path(name), keys)
    check(settings)
    return settings, {key.partition("=")[0] for key in keys}, [o for o in options if o not in own]


def submit(verb: str, names: list[str], options: list[str], config: str) -> str:
    """The verb: one job of `melfusion VERB [CONFIG] [key=value …]`; returns its id. `config`: what is read without CONFIG."""
    settings, given, rest = load_cluster(options)
    if verb in PARALLEL:
        rest = agree(settings, given, rest)
        run = load_config(",".join(names) or config, rest)
        name, folder = str(run.name), Path(run.runs_dir) / str(run.name) / "slurm"
    else:
        alone(verb, settings, given)
        name, folder = verb, Path("runs") / verb / "slurm"
    variables = {n: os.environ[n] for n in CARRIED if n in os.environ}
    return send(Job(f"melfusion-{name}", folder, [verb, *names, *rest], variables), settings)
