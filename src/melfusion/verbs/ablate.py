"""`melfusion ablate`: every row of a suite, and its table."""

from __future__ import annotations

import shlex
from typing import Any

from melfusion.cluster.submit import alone
from melfusion.errors import ConfigError
from melfusion.lab.run import RowFailed, run_jobs, submit
from melfusion.lab.suite import Suite, load_suite
from melfusion.training.preemption import leaving_on_signal
from melfusion.verbs.submit import load_cluster


@leaving_on_signal(lambda: "between two trainings: models that are trained and clips that are made are kept")
def ablate(options: dict[str, Any], overrides: list[str]) -> dict[str, Any] | None:
    """The verb. With `jobs=N` rows run in N processes; with `cluster=slurm` (or a file) each is one job of its own; with
    `table=true` nothing runs, and what is there is tabled.
    """
    if not options.get("suite"):
        raise ConfigError("ablate needs SUITE=name, a folder of experiments/.")
    cluster = [f"cluster={options['cluster']}"] if options.get("cluster") else []
    settings, given, overrides = load_cluster([*cluster, *overrides])
    suite = load_suite(options["suite"], overrides)
    chosen = options["rows"].split(",") if options.get("rows") else list(suite.rows)
    if options.get("rows") and (options.get("publish") or options.get("table")):
        raise ConfigError("rows= makes clips and no table: publish=true and table=true need the whole suite, so leave rows= out.")
    if unknown := [row for row in chosen if row not in suite.rows]:
        raise ConfigError(f"rows names {unknown[0]!r}; the rows of {suite.name} are {', '.join(suite.rows)}.")
    if cluster and options.get("table"):
        raise ConfigError(
            f"cluster= sends rows and table=true runs none: `melfusion submit ablate suite={suite.name} table=true` "
            "makes the table in a job."
        )
    jobs = {row: [r for r in chosen if suite.model_of(r) == row] for row in dict.fromkeys(map(suite.model_of, chosen))}
    calls = {row: ["ablate", f"suite={suite.name}", f"rows={','.join(rows)}", *overrides] for row, rows in jobs.items()}
    if cluster:
        alone("ablate", settings, given)
        submit(suite, calls, settings)
        return None
    failed = [] if options.get("table") else run_jobs(suite, jobs, calls, options.get("jobs", 1))
    if options.get("rows"):
        if failed:
            raise RowFailed(f"{', '.join(failed)} failed: failed.txt in {suite.path}/{failed[0]} has the whole story.")
        return None
    from melfusion.lab.results import conclude  # it draws and tabulates: not needed where a row is only run

    return conclude(suite, publish=bool(options.get("publish")), command=command_line(suite, options, overrides))


def command_line(suite: Suite, options: dict[str, Any], overrides: list[str]) -> str:
    """The command that makes this table again."""
    given = {k: str(v).lower() if v is True else v for k, v in options.items() if k not in ("suite", "table") and v is not False}
    rest = [f"{k}={v}" for k, v in given.items()] + [shlex.quote(o) for o in overrides]
    return " ".join(["make ablate", f"SUITE={suite.name}", *([f'ARGS="{" ".join(rest)}"'] if rest else [])])
