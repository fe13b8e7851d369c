"""Which processes a verb that learns nothing starts, or finds started."""

import pytest
from data_fixtures import one_sentence

from melfusion.assembly import launching
from melfusion.assembly.launching import launched
from melfusion.assembly.options import TrainerConfig
from melfusion.errors import ConfigError
from melfusion.training.fsdp import strategy_of


class Recorded:
    """In place of Lightning's Fabric."""

    def __init__(self, **options):
        self.options = options

    def launch(self):
        pass


@pytest.fixture(autouse=True)
def fabric(monkeypatch):
    monkeypatch.setattr(launching, "Fabric", Recorded)


def trainer(**options):
    return TrainerConfig(accelerator="cpu", **options)


def test_one_process_is_enough_unless_more_are_asked_for(monkeypatch):
    assert launched(trainer()) is None
    assert launched(trainer(devices="2")).options["devices"] == 2


def test_processes_that_torchrun_started_share_the_work_without_a_word_of_devices(monkeypatch):
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    found = launched(trainer(num_nodes=2)).options
    assert (found["devices"], found["num_nodes"]) == (4, 2)


@pytest.mark.parametrize("strategy", ["auto", "ddp", "fsdp2", "deepspeed_stage_3"])
def test_every_strategy_that_training_knows_is_the_same(strategy):
    assert launched(trainer(devices="2", strategy=strategy)).options["strategy"] == "ddp"


def test_a_strategy_that_nobody_knows_is_one_sentence_for_every_verb(tiny):
    for call in (lambda: launched(trainer(strategy="dpp")), lambda: strategy_of(tiny("trainer.strategy=dpp"))):
        with pytest.raises(ConfigError, match="trainer.strategy=dpp is no strategy; did you mean 'ddp'") as caught:
            call()
        assert one_sentence(caught.value)
