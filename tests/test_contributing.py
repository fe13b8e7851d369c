"""CONTRIBUTING.md is followed from outside the package: what it names is there, and the registries take what is registered.

What else a data source may do is in data/test_sources.py.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import building as build
import pytest
import torch
from data_fixtures import make_sample

from melfusion.__main__ import main
from melfusion.assembly.configuration import load_config
from melfusion.data.source import Source
from melfusion.data.sources import SOURCES, build_corpus
from melfusion.errors import ConfigError
from melfusion.models.synapse.base import VisualSynapse
from melfusion.models.synapse.kinds import SYNAPSES
from melfusion.models.synapse.options import OPTIONS, SynapseConfig
from melfusion.verbs.completion import completions
from melfusion.verbs.table import VERBS

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()


class Gain(VisualSynapse):
    """The picture scales the music's values by one learned number."""

    def __init__(self, specs, match="pool", start=0.1):
        super().__init__(specs, match)
        self.gain = torch.nn.Parameter(torch.tensor(start))

    def mix(self, layer, key, value, mask, features, has_image):
        return key, value * (1 + self.gain * has_image[:, None, None]), mask


@dataclass
class GainConfig(SynapseConfig):
    start: float = 0.1  # of the learned number


@pytest.fixture
def gain(monkeypatch):
    monkeypatch.setitem(SYNAPSES, "gain", Gain)
    monkeypatch.setitem(OPTIONS, "gain", GainConfig)


def test_every_file_that_is_named_is_there():
    named = set(re.findall(r"`([a-z_/]+\.py)`", TEXT))
    missing = {name for name in named if not (ROOT / "src/melfusion" / name).is_file() and not (ROOT / name).is_file()}
    assert len(named) > 10 and missing == {
        "options.py",
        "test_unet.py",
        "test_backbones.py",
    }  # of any room; beside the test before it
    assert all((ROOT / "tests/models" / name).is_file() for name in missing - {"options.py"})


def test_every_registry_that_is_named_is_there():
    for name, file in re.findall(r"`([A-Z_]{5,})` \(`([a-z_/]+\.py)`\)", TEXT):
        assert re.search(rf"^{name}\b", (ROOT / "src/melfusion" / file).read_text(), re.M), f"{file} has no {name}"


def test_a_synapse_from_outside_the_package_trains_by_its_own_options(gain, make_batch):
    config = load_config("tiny", ["synapse.kind=gain", "synapse.start=0.5"])
    system = build.system(config)
    loss = system.training_step(make_batch(config, system), 0)["loss"]
    loss.backward()
    assert float(system.denoiser.synapse.gain.detach()) == 0.5 and system.denoiser.synapse.gain.grad.abs() > 0
    with pytest.raises(ConfigError, match="start"):
        load_config("tiny", ["synapse.kind=kv_mix", "synapse.start=0.5"])


def test_a_data_source_from_outside_the_package_is_built_from_a_configuration(monkeypatch, tmp_path):
    class Tones(Source):
        """A tone a sample."""

        name, command, drawn = "tones", "make shards", True

        def samples(self, config, inputs):
            return (make_sample(f"{split}{i}", split) for split in ("train", "val") for i in range(2))

    monkeypatch.setitem(SOURCES, "tones", Tones())
    config = load_config("tiny", ["data.source=tones", f"data.path={tmp_path / 'tones'}"])
    build_corpus("tones", config)
    assert sorted(file.name for file in (tmp_path / "tones").glob("*.tar")) == ["train-000000.tar", "val-000000.tar"]


OUTSIDE = '''
"""Count to a number."""
from dataclasses import dataclass
from melfusion.verbs.options import option

@dataclass
class Options:
    most: int = option(3, "last number", least=1, name="to")
    word: str | None = option(None, "what stands before each number", variable="WORD", words=1)

MORE, SECTIONS = None, ()
EXAMPLES = ("melfusion count to=4", "melfusion count Nr to=2")

def run(options, more):
    print(*(f"{options.word or ''}{i}" for i in range(1, options.most + 1)))
'''


def test_a_verb_from_outside_the_package(tmp_path, monkeypatch, capsys):
    (tmp_path / "outside_count.py").write_text(OUTSIDE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(VERBS, "count", "outside_count")
    assert main(["count", "x", "to=2"]) == 0 and capsys.readouterr().out == "x1 x2\n"
    monkeypatch.setenv("WORD", "n ")
    assert main(["count"]) == 0 and capsys.readouterr().out == "n 1 n 2 n 3\n"
    assert main(["count", "to=0"]) == 2 and "melfusion count: to=0 must be at least 1" in capsys.readouterr().err
    assert main(["count", "most=1"]) == 2 and "no option 'most'" in capsys.readouterr().err
    assert main(["count", "--help"]) == 0
    said = capsys.readouterr().out
    assert "usage: melfusion count [WORD]" in said and "last number (default 3)" in said and "Nr to=2" in said
    assert main(["--help"]) == 0 and "count           Count to a number." in capsys.readouterr().out
    assert completions()["count"] == ["--help", "to=", "word="]
