"""A suite of experiments/: its rows, their configurations and budgets."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

from melfusion.assembly.check import check
from melfusion.assembly.configuration import load_config
from melfusion.assembly.schema import Config, to_dict
from melfusion.config.check import flatten
from melfusion.errors import ConfigError
from melfusion.files import one_name

BUDGET = (  # keys that all rows of a suite must share
    "trainer.max_steps",
    "trainer.precision",
    "data.global_batch_size",
    "data.path",
    "ablation.seeds",
    "ablation.items",
    "ablation.test_seed",
    "ablation.guidance",
    "ablation.search_items",
)

OWN = ("name", "seed")  # keys that a suite sets for each of its models


@dataclasses.dataclass(frozen=True)
class Suite:
    """The rows of one folder, in the order of their file names.

    `rows`: row → its file.  `configs`: row → the configuration in that file, under the overrides.
    """

    name: str
    rows: dict[str, Path]
    configs: dict[str, Config]
    overrides: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """The folder of the suite's runs."""
        return Path(next(iter(self.configs.values())).runs_dir) / self.name

    def clips(self, row: str, seed: int) -> Path:
        """The folder of a row's clips of the items of one seed."""
        return self.path / row / f"seed{seed}" / "test"

    def config(self, row: str, seed: int) -> Config:
        """A copy of the row's configuration for a seed, whose run lies in the row's folder."""
        config = copy.deepcopy(self.configs[row])
        config = dataclasses.replace(config, runs_dir=str(self.path / row), name=f"seed{seed}", seed=seed)
        check(config)
        return config

    def first(self, row: str) -> Config:
        """The row's configuration for its first seed, for all that the seeds share."""
        return self.config(row, self.configs[row].ablation.seeds[0])

    def model_of(self, row: str) -> str:
        """The row whose checkpoint this row uses: `ablation.checkpoint_of`, or itself."""
        return self.first(row).ablation.checkpoint_of or row


def load_suite(name: str, overrides: list[str]) -> Suite:
    """The suite experiments/<name>/. ConfigError where there is none, or where a row names no row or has another budget."""
    folder = Path("experiments") / one_name("suite", name)
    rows = {file.stem: file for file in sorted(folder.glob("*.yaml")) if not file.name.startswith("_")}
    if not rows:
        known = sorted(p.name for p in Path("experiments").glob("*") if any(p.glob("*.yaml")))
        raise ConfigError(f"suite={name!r}: there is no folder {folder} with rows; suites are {', '.join(known)}.")
    if own := [o for o in overrides if o.partition("=")[0] in OWN]:
        raise ConfigError(
            f"{own[0]} would be the same for all models of a suite: leave it out, and choose seeds by ablation.seeds=[…]."
        )
    for row in rows:
        one_name("the file name of a row", row)
    configs = {row: load_config(str(file), list(overrides)) for row, file in rows.items()}
    suite = Suite(name, rows, configs, tuple(overrides))
    for row in rows:
        if (model := suite.model_of(row)) not in rows:
            raise ConfigError(f"{rows[row]}: ablation.checkpoint_of={model!r} is no row of {folder}; rows are {', '.join(rows)}.")
    _check_budgets(suite, folder)
    return suite


def _check_budgets(suite: Suite, folder: Path) -> None:
    budgets = {row: flatten(to_dict(suite.first(row))) for row in suite.rows}
    for key in BUDGET:
        given = {str(budget[key]): row for row, budget in budgets.items()}
        if len(given) > 1:
            raise ConfigError(
                f"The rows of {folder} have unequal budgets: {key} is "
                f"{', '.join(f'{value} in {row}' for value, row in given.items())}; give all the same."
            )
