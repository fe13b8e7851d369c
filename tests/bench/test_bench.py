"""The figures of `melfusion bench` are the measured ones: what is planted to be slow is seen, where it is."""

import itertools
import json
import sys
import types

import pytest
import torch

from melfusion.__main__ import main
from melfusion.bench import machine, report
from melfusion.bench.comparing import Slower, worse
from melfusion.bench.report import as_dict, bench
from melfusion.bench.sections import SECTIONS
from melfusion.bench.timing import UNITS, Figure, alternated, figure, peak_memory, speed
from melfusion.errors import ConfigError
from melfusion.verbs.bench import Options


@pytest.fixture
def section(monkeypatch, clock):
    """section(seconds) registers a section `planted` whose one call takes so long, by turns 2 % less or more."""

    def plant(seconds):
        module, shares = types.ModuleType("planted"), itertools.cycle((0.98, 1.0, 1.02, 0.99, 1.01))
        work = {"work": lambda: clock.sleep(seconds * next(shares))}
        module.measure = lambda size, folder: {"work": speed(alternated(work, 5)["work"], 1), "memory MiB": 3}
        assert "planted" not in Options.__dataclass_fields__["only"].metadata["about"]  # its help was made before
        monkeypatch.setitem(SECTIONS, "planted", "planted")
        monkeypatch.setitem(sys.modules, "planted", module)

    return plant


def written(path):
    return json.loads(path.read_text())


# --- the table, the file and what is compared ---------------------------------------------------------------------------


def test_a_planted_slow_down_is_seen_and_noise_is_not(section, tmp_path, capsys):
    before, now = tmp_path / "before.json", tmp_path / "now.json"
    section(0.02)
    bench("tiny", ["planted"], str(before))
    bench("tiny", ["planted"], str(now), compare=str(before))
    section(0.021)
    bench("tiny", ["planted"], "", compare=str(before))  # within what two processes differ by
    section(0.025)
    with pytest.raises(Slower, match=r"planted / work 50 → 40 samples/s"):
        bench("tiny", ["planted"], str(now), compare=str(before))
    assert written(now)["sections"]["planted"]["work"]["median"] == pytest.approx(40)  # it is written before it is judged
    section(0.02)
    bench("tiny", ["planted"], "", compare=str(now))  # faster is no error
    assert capsys.readouterr().out.count("planted     work") == 5


def test_the_verb_ends_with_code_2_where_something_became_slower(section, tmp_path, capsys):
    before = tmp_path / "before.json"
    section(0.01)
    assert main(["bench", "only=planted", f"out={before}"]) == 0
    section(0.03)
    assert main(["bench", "only=planted", f"out={tmp_path / 'now.json'}", f"compare={before}"]) == 2
    assert "planted / work" in capsys.readouterr().err


def test_each_figure_of_the_file_follows_from_its_raw_values(section, tmp_path):
    section(0.005)
    bench("tiny", ["planted"], str(tmp_path / "a.json"))
    tree = written(tmp_path / "a.json")
    work = tree["sections"]["planted"]["work"]
    assert len(work["values"]) == 5 and work["median"] == sorted(work["values"])[2] == pytest.approx(200)
    assert work["quartiles"] == [sorted(work["values"])[1], sorted(work["values"])[3]]
    assert tree["sections"]["planted"]["memory MiB"] | {"setting": 0} == {
        "unit": "MiB",
        "values": [3.0],
        "ratio": None,
        "of_peak": None,
        "of_floor": None,
        "setting": 0,
        "median": 3.0,
        "quartiles": [3.0, 3.0],
    }
    assert tree["torch"] == torch.__version__ and tree["size"] == "tiny" and tree["seconds"].keys() == {"planted"}


@pytest.mark.parametrize("key", ["size", "device"])
def test_a_file_of_another_size_or_device_is_refused(section, tmp_path, key):
    section(0.01)
    bench("tiny", ["planted"], str(tmp_path / "a.json"))
    (tmp_path / "a.json").write_text(json.dumps(written(tmp_path / "a.json") | {key: "another"}))
    with pytest.raises(ConfigError, match=f"measured with {key} another"):
        bench("tiny", ["planted"], "", compare=str(tmp_path / "a.json"))


@pytest.mark.parametrize(
    "given, words",
    [
        (["size=smal"], "size=smal is not one of tiny, small, full; did you mean 'small'"),
        (["only=machine,loading"], "only=loading is not one of"),
        (["compare=none.json"], "compare=none.json is no file"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(given, words, capsys, tmp_path):
    assert main(["bench", *given, f"out={tmp_path / 'a.json'}"]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_full_size_is_refused_without_a_gpu():
    with pytest.raises(ConfigError, match="size=full needs a GPU of 75 GiB, and there is none: give size=small"):
        bench("full", ["machine"])


def test_sections_run_alone(monkeypatch):
    monkeypatch.setattr(machine, "LONG_ENOUGH_S", 0.0)
    machine.peaks.cache_clear()
    tree = bench("tiny", ["machine"])
    assert tree["sections"].keys() == {"machine"} and tree["sections"]["machine"].keys() == {"matmul fp32", "matmul bf16"}
    machine.peaks.cache_clear()


def test_words_units_and_directions():
    rate = Figure("samples/s", [1.0, 2.0, 3.0], ratio=3.21, of_peak=0.5, of_floor=0.25)
    assert rate.words() == "2 samples/s (1.5 to 2.5), ratio 3.2×, 50.00% of the matmul peak, 25.00% of the counted floor"
    units = {"raw samples/s": "samples/s", "million start MiB": "MiB", "million start s": "s", "over torch ×": "×"}
    assert {name: figure(name, 1).unit for name in units} == units
    assert report.lines("loader", {"start s": figure("start s", 2)}) == ["loader      start s  2 s"]


@pytest.mark.parametrize("unit", UNITS)
def test_every_unit_has_its_direction(unit):
    """A figure is told to be worse in one direction, that of its unit, and one whose unit nobody knows is no figure."""
    low, high = ({"p": {"work": as_dict(Figure(unit, [value]))}} for value in (10.0, 30.0))
    worse_after = {True: worse({"sections": high}, {"sections": low}), False: worse({"sections": low}, {"sections": high})}
    assert len(worse_after[UNITS[unit]]) == 1 and not worse_after[not UNITS[unit]]
    assert UNITS[unit] == (unit.endswith("/s") or unit == "×")
    with pytest.raises(ValueError, match="'noise' is no unit"):
        figure("samples/s with noise", 1)


def test_ratio_and_shares_are_those_of_the_measured_peak(monkeypatch):
    figures = {"fp32": Figure("TFLOP/s", [1.0, 2.0]), "bf16": Figure("TFLOP/s", [4.0])}
    monkeypatch.setattr(machine, "peaks", lambda: figures)
    rate = machine.shares(Figure("samples/s", [10.0]), flops=1e11, floor=4e10, precision="32-true")
    assert (rate.of_peak, rate.of_floor) == (pytest.approx(0.5), pytest.approx(0.1))
    assert machine.shares(Figure("samples/s", [10.0]), 1e11, 4e10, "bf16-mixed").of_peak == pytest.approx(0.25)
    assert machine.ratio(rate, Figure("samples/s", [2.0]), Figure("samples/s", [5.0])).ratio == 2


def test_calls_take_turns():
    seen = []
    alternated({"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}, 3)
    assert seen == list("ababab")


def test_peak_memory_sees_what_was_held_and_given_back():
    with peak_memory() as peak:
        torch.ones(64, 2**20).sum()  # 256 MiB
    with peak_memory() as after:
        pass
    assert 200 < peak.mib - after.mib < 400
