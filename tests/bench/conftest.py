"""Shared by the tests of the benchmarks: a clock that only what is planted moves, and a small training."""

import pytest

from melfusion.bench.options import SIZES, Size


@pytest.fixture
def small_turns(monkeypatch):
    """A size of two blocks of three steps."""
    monkeypatch.setitem(SIZES, "tiny", Size("tiny", (), rounds=2, steps=3, clips=2, clip_rounds=1))


@pytest.fixture
def training(tiny, tiny_corpus, tmp_path, small_turns):
    """Configuration of a small training on the data set of the tests."""
    return tiny(
        f"data.path={tiny_corpus}",
        "data.source=manifest",
        f"runs_dir={tmp_path / 'runs'}",
        "trainer.media_items=0",
        "trainer.val_every_n_steps=1000",
        "data.crop=start",
    )


class Clock:
    """In place of the module `time`: only what is planted takes time, so that figures are exact on a busy machine."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds

    def slowed(self, real, seconds):
        """The function, taking so many seconds more."""
        return lambda *args, **kwargs: [self.sleep(seconds), real(*args, **kwargs)][1]


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    for module in ("bench.timing", "bench.fitting", "bench.generation", "training.lightning_private", "training.checkpoints"):
        monkeypatch.setattr(f"melfusion.{module}.time", clock)
    return clock
