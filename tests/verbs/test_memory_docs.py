"""The tables that say what fits a GPU, in docs/memory.md and README.md, are what `melfusion memory` counts."""

import functools
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from melfusion.assembly.configuration import load_config
from melfusion.assembly.counting import count, on_meta
from melfusion.assembly.parts import PARTS
from melfusion.verbs import memory

ROOT = Path(__file__).parents[2]
PAGE, README = (ROOT / "docs" / "memory.md").read_text(), (ROOT / "README.md").read_text()
AGAIN, KEPT, ALL, OFFLOAD = "activations computed again", "activations kept", "generate", "generate offload=true"


@dataclass(frozen=True)
class MemoryRow:
    """A row of the table: what its label asks of the verb, and its cells by size of GPU in GB. `mode` trains; "" generates."""

    label: str
    config: str
    mode: str
    precision: str
    columns: tuple[str, ...]
    cells: dict[int, str]


def rows(page=PAGE):
    """The rows of "What fits". A label that says "the same" leaves out what the row above says."""
    lines = [line.strip(" |") for line in page.partition("**What fits**")[2].partition("\n## ")[0].splitlines() if line[:1] == "|"]
    gpus = [int(size) for size in re.findall(r"(\d+) GB", lines[0])]
    config, mode, precision, columns, found = "", "", "", (), []
    for line in lines[2:]:
        label, *cells = (cell.strip() for cell in line.split(" | "))
        named = [word for word in re.findall(r"`(\w+)`", label) if (ROOT / "configs" / f"{word}.yaml").is_file()]
        config, precision = (*named, config)[0], (*re.findall(r"bf16-\w+|32-true", label), precision)[0]
        if "generated" in label:
            mode, columns = "", (ALL, OFFLOAD) if "offload" in label else (ALL,)
        elif "computed again" in label:
            columns = (AGAIN, KEPT) if "/ kept" in label else (AGAIN,)
        if trains := re.findall("whole|synapse", label):
            mode = f"denoiser.trainable={'all' if trains[0] == 'whole' else 'synapse'}"
        found.append(MemoryRow(label, config, mode, precision, columns, dict(zip(gpus, cells, strict=True))))
    return found


@functools.cache
def counted(name):
    """What is the same for all rows of a configuration."""
    config = load_config(name)
    system = on_meta(config)
    return config, system, *count(config, system)


def needs(row):
    """Column → samples at once → bytes."""
    config, system, stages, ready = counted(row.config)
    if not row.mode:
        return memory.to_generate(system, stages)
    assert memory.precision(config) == row.precision
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(vars(PARTS[config.task]), "modes", (row.mode,))
        trained, _ = memory.to_train(config, 1, stages, ready, memory.numbers("batches", memory.Options().batches))
    return {name.removeprefix(f"{row.mode}, "): memory.between(by) for name, by in trained.items()}


def differing(row):
    """GPU → (what the page says, what is counted), where they are not the same."""
    by = needs(row)
    lines = memory.fitting({column: by[column] for column in row.columns}, list(row.cells)).splitlines()[2:]
    counts = zip(*(line.strip(" |").split(" | ")[1:] for line in lines), strict=True)
    pairs = {gb: (row.cells[gb], " / ".join(count)) for gb, count in zip(row.cells, counts, strict=True)}
    return {gb: pair for gb, pair in pairs.items() if pair[0] != pair[1]}


def test_a_label_says_what_is_counted():
    read = {row.label: row for row in rows()}
    assert len(read) >= 8 and {row.config for row in read.values()} >= {"melfusion", "tango", "audioldm2", "ace_step"}
    row = read["`audioldm2`, the same"]
    assert (row.config, row.mode, row.columns) == ("audioldm2", "", (ALL, OFFLOAD)) and set(row.cells) == {16, 24, 48, 80}
    row = read["`melfusion`, `denoiser.trainable=synapse`, the same"]
    assert (row.config, row.mode, row.precision, row.columns) == ("melfusion", "denoiser.trainable=synapse", "bf16-true", (AGAIN,))


def test_the_front_page_has_the_figures_of_the_table():
    of = {row.mode: row.cells[24] for row in rows() if row.config == "melfusion" and row.columns == (AGAIN,)}
    said = re.search(r"takes (\d+) samples\s+at once on 24 GB where the whole UNet trains and (\d+) where the synapse does", README)
    assert said and said.groups() == (of["denoiser.trainable=all"], of["denoiser.trainable=synapse"])


@pytest.mark.slow  # half a minute of processor time for each configuration
@pytest.mark.parametrize("row", rows(), ids=lambda row: re.sub(r"\W+", "-", row.label).strip("-"))
def test_each_row_is_what_is_counted(row):
    assert differing(row) == {}


@pytest.mark.slow  # as the rows of `melfusion`
def test_sentences_on_one_clip_and_on_activations_are_what_is_counted():
    (row,) = (row for row in rows() if row.config == "melfusion" and row.mode == "denoiser.trainable=all")
    by = needs(row)
    few = [memory.most(by[name], (1 - memory.FREE) * 24 * 2**30) for name in (KEPT, AGAIN)]
    assert f"For `melfusion` on 24 GB this makes {few[0]} samples {few[1]}." in PAGE
    whole, parts = (memory.gib(of(1)) for of in memory.to_generate(*counted("melfusion")[1:3]).values())
    assert re.search(rf"For `melfusion` {re.escape(parts)} GiB in place\s+of {re.escape(whole)} for one clip", PAGE)
