"""The loader's figures are measured on samples of full size."""

from functools import partial

import pytest

from melfusion.bench import loader
from melfusion.bench.timing import UNITS, figure
from melfusion.data.shards import ShardSet

FIGURES = {
    "precomputed samples/s",
    "precomputed, with noise samples/s",
    "precomputed MB/s",
    "sequential samples/s",
    "webdataset samples/s",
    "torch samples/s",
    "raw samples/s",
    "precomputed, over sequential ×",
    "precomputed, over webdataset ×",
    "precomputed, over torch ×",
    "million start s",
    "million start MiB",
}


@pytest.mark.parametrize("samples, most_mib", [(60_000, 120)])
def test_figures_are_measured_and_a_large_set_starts_in_little_memory(samples, most_mib, tmp_path, monkeypatch):
    monkeypatch.setitem(loader.SIZES, "tiny", (32, 32, 1, samples))
    found = loader.measure("tiny", tmp_path)
    assert found.keys() == FIGURES and all(value > 0 for name, value in found.items() if name != "million start MiB")
    better = {name: UNITS[figure(name, value).unit] for name, value in found.items()}
    assert {name for name, more in better.items() if not more} == {"million start s", "million start MiB"}
    for other in ("webdataset", "torch"):
        assert found[f"precomputed, over {other} ×"] == found["precomputed samples/s"] / found[f"{other} samples/s"]
    assert found["million start MiB"] < most_mib  # as Python objects they took 1.3 KiB each
    size = (tmp_path / "precomputed" / "train-000000.tar").stat().st_size / 32
    assert 300_000 < size < 330_000 and found["precomputed MB/s"] == pytest.approx(found["precomputed samples/s"] * size / 1e6)
    shards = ShardSet(tmp_path / "million")
    assert len(shards.entries("train")) == samples and len(list(tmp_path.glob("unpacked/*"))) == 64


def test_runs_alternate_and_the_median_counts(monkeypatch):
    clock, runs = [0.0], []

    def run(name, seconds):
        runs.append(name)
        clock[0] += seconds.pop(0)

    monkeypatch.setattr(loader.time, "process_time", lambda: clock[0])
    kinds = {"a": partial(run, "a", [9, 1, 2, 4]), "b": partial(run, "b", [9, 5, 5, 5])}
    assert loader.alternating(kinds, 10, 3) == {"a": 5, "b": 2} and "".join(runs) == "ab" * 4
