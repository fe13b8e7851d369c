"""`melfusion memory`: tables before a GPU is there."""

import pytest

from melfusion.assembly.parts import PARTS
from melfusion.errors import ConfigError
from melfusion.training.footprint import Footprint
from melfusion.verbs import memory


def test_it_prints_what_a_configuration_takes(monkeypatch, capsys):
    monkeypatch.setitem(vars(PARTS["melfusion"]), "modes", ("denoiser.trainable=all", "denoiser.trainable=synapse"))
    memory.run(memory.Options("tiny", "1,3", 2, "16,24"), [])
    told = capsys.readouterr().out
    assert "| all | 0.2 |" in told and "| denoiser | 0.1 |" in told
    assert "GiB on each of 2 devices to train (32-true)" in told
    rows = {
        line.split(" | ")[0].removeprefix("| "): line.strip("| ").split(" | ")[1:] for line in told.splitlines() if line[:1] == "|"
    }
    for name in ("denoiser.trainable=all, activations kept", "denoiser.trainable=synapse, activations computed again", "generate"):
        few, many = map(int, rows[name][:2])
        assert few < many


def test_a_part_on_its_own_and_odd_numbers_are_refused():
    for options, more, words in (
        (memory.Options("scenes,music_vae"), [], "task=music_vae is one part"),
        (memory.Options("tiny", "8,1"), [], "batches=8,1 must be two numbers"),
        (memory.Options("tiny", "1,x"), [], "batches=1,x must be whole numbers"),
        (memory.Options("tiny", gpus="0"), [], "gpus=0 must be whole numbers"),
    ):
        with pytest.raises(ConfigError, match=words):
            memory.run(options, more)


def test_the_most_samples_that_fit_are_never_too_many():
    bytes_at = memory.between({n: Footprint(10, 0, 0, 0, work) for n, work in ((1, 5), (8, 40))})
    assert [memory.most(bytes_at, room) for room in (14, 15, 30, 55, 800)] == [0, 1, 4, 9, 158]
    bent = memory.between({n: Footprint(10, 0, 0, 0, work) for n, work in ((1, 12), (8, 40))})  # 40 = 8 × 5: the slope beyond
    assert bent(9) == 10 + 45 and bent(4) == 10 + 24
