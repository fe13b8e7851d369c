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

BUDGET = (
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

OWN = ("name", "seed")  # of each model of a suite


@dataclasses.dataclass(frozen=True)
class Suite:
    """The rows of one folder, in the order of their file names, and where their runs lie."""

    name: str
    rows: dict[str, Path]
    overrides: tuple[str, ...] = ()
    read: dict[str, Config] = dataclasses.field(default_factory=dict)  # what was loaded, each once

    @property
    def path(self) -> Path:
        return Path(self.config(next(iter(self.rows)), None).runs_dir) / self.name

    def clips(self, row: str, seed: int) -> Path:
        """The folder of a row's clips for one seed's share of the held-out items."""
        return self.path / row / f"seed{seed}" / "test"

    def config(self, row: str, seed: int | None) -> Config:
        """The row under a seed, in its place; a copy, to be changed at will. Without a seed, as the files have it."""
        if row not in self.read:
            self.read[row] = load_config(str(self.rows[row]), list(self.overrides))
        config = copy.deepcopy(self.read[row])
        if seed is not None:
            config.runs_dir, config.name, config.seed = str(self.path / row), f"seed{seed}", seed
            check(config)
        return config

    def first(self, row: str) -> Config:
        """The row under its first seed, for what all seeds share."""
        return self.config(row, self.config(row, None).ablation.seeds[0])

    def model_of(self, row: str) -> str:
        """The row whose checkpoint this row speaks through: itself, unless it says otherwise."""
        return self.first(row).ablation.checkpoint_of or row


def load_suite(name: str, overrides: list[str]) -> Suite:
    """experiments/<name>/; ConfigError where it is missing, a row refers to none, or budgets differ."""
    folder = Path("experiments") / one_name("suite", name)
    rows = {file.stem: file for file in sorted(folder.glob("*.yaml")) if not file.name.startswith("_")}
    if not rows:
        known = sorted(p.name for p in Path("experiments").glob("*") if any(p.glob("*.yaml")))
        raise ConfigError(f"suite={name!r}: there is no folder {folder} with rows; suites are {', '.join(known)}.")
    if given := [o for o in overrides if o.partition("=")[0] in OWN]:
        raise ConfigError(f"{given[0]} would be the same for all models of a suite: ablation.seeds=[…] says which seeds there are.")
    for row in rows:
        one_name("the file name of a row", row)
    suite = Suite(name, rows, tuple(overrides))
    for row in rows:
        if (model := suite.model_of(row)) not in rows:
            raise ConfigError(f"{rows[row]}: ablation.checkpoint_of={model!r} is no row of {folder}.")
    budgets = {row: flatten(to_dict(suite.first(row))) for row in rows}
    for key in BUDGET:
        given = {str(budget[key]): row for row, budget in budgets.items()}
        if len(given) > 1:
            raise ConfigError(
                f"The rows of {folder} have unequal budgets: {key} is "
                f"{', '.join(f'{value} in {row}' for value, row in given.items())}; give all the same."
            )
    return suite
