"""Train and compare all rows of a suite of experiments/, and write one table.

jobs=N runs N rows side by side; cluster=slurm (or a file) sends each model as a job of its own.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from melfusion.errors import ConfigError
from melfusion.verbs.imports import heavy_imports
from melfusion.verbs.options import given, option

if TYPE_CHECKING:
    from melfusion.cluster.options import ClusterConfig
    from melfusion.lab.suite import Suite


@dataclass
class Options:
    suite: str = option("", "the name of a folder of experiments/", variable="SUITE", required=True)
    rows: str | None = option(None, "rows to train and generate, comma-separated, without a table; null: all, with the table")
    jobs: int = option(1, "processes that train side by side", least=1)
    table: bool = option(False, "train nothing, and tabulate what is there")
    publish: bool = option(False, "write the table into experiments/results/, too")
    cluster: str | None = option(None, "slurm, or a YAML file of cluster settings: each model is a job of its own; null: here")


MORE = "It also takes every key of the configuration, laid over all rows, and cluster.KEY=…; such as:"
SECTIONS = ("ablation", "evaluation")
EXAMPLES = ("melfusion ablate suite=headline", "melfusion ablate suite=kind rows=kv_mix,concat jobs=2 trainer.max_steps=500")


def run(options: Options, more: list[str]) -> dict[str, Any] | None:
    """Run the rows, then write the table; returns its numbers, or None where there is none to write."""
    suite, settings, keys = check(options, more)

    with heavy_imports():
        from melfusion.cluster.slurm import refuse_login_node

    if options.cluster is None:
        refuse_login_node(os.environ)

    with heavy_imports():
        from melfusion.training.preemption import leaving_on_signal

    with leaving_on_signal(lambda: "between two trainings: models that are trained and clips that are made are kept"):
        return _run(options, suite, settings, keys)


def check(options: Options, more: list[str]) -> tuple[Suite, ClusterConfig, list[str]]:
    """The suite, the settings of its jobs, and the keys laid over its rows; ConfigError where the call cannot be meant."""
    from melfusion.cluster.submit import alone
    from melfusion.lab.suite import load_suite
    from melfusion.verbs.submit import load_cluster

    settings, said, keys = load_cluster([*([f"cluster={options.cluster}"] if options.cluster else []), *more])
    suite = load_suite(options.suite, keys)
    if options.rows and (options.publish or options.table):
        raise ConfigError("rows= makes clips and no table: publish=true and table=true need the whole suite, so leave rows= out.")
    if unknown := [row for row in chosen(options, suite) if row not in suite.rows]:
        raise ConfigError(f"rows names {unknown[0]!r}; the rows of {suite.name} are {', '.join(suite.rows)}.")
    if options.cluster and options.table:
        raise ConfigError(
            f"cluster= sends rows and table=true runs none: `melfusion submit ablate suite={suite.name} table=true` "
            "makes the table in a job."
        )
    if options.cluster:
        alone("ablate", settings, said, keys)
    return suite, settings, keys


def chosen(options: Options, suite: Suite) -> list[str]:
    """The rows of this call."""
    return options.rows.split(",") if options.rows else list(suite.rows)


def _run(options: Options, suite: Suite, settings: ClusterConfig, keys: list[str]) -> dict[str, Any] | None:
    from melfusion.lab.run import RowFailed, run_jobs, submit

    rows = chosen(options, suite)
    jobs = {model: [r for r in rows if suite.model_of(r) == model] for model in dict.fromkeys(map(suite.model_of, rows))}
    calls = {model: ["ablate", f"suite={suite.name}", f"rows={','.join(some)}", *keys] for model, some in jobs.items()}
    if options.cluster:
        submit(suite, calls, settings)
        return None
    failed = [] if options.table else run_jobs(suite, jobs, calls, options.jobs)
    if options.rows:
        if failed:
            raise RowFailed(f"{', '.join(failed)} failed: failed.txt in {suite.path}/{failed[0]} has the whole story.")
        return None

    from melfusion.lab.results import conclude  # it draws and tabulates: not needed where a row is only run

    return conclude(suite, publish=options.publish, command=command_line(suite, options, keys))


def command_line(suite: Suite, options: Options, keys: list[str]) -> str:
    """The command that makes this table again."""
    said = {name: str(value).lower() if value is True else value for name, value in given(options).items()}
    rest = [f"{name}={value}" for name, value in said.items() if name not in ("suite", "table")] + [shlex.quote(k) for k in keys]
    return " ".join(["make ablate", f"SUITE={suite.name}", *([f'ARGS="{" ".join(rest)}"'] if rest else [])])
