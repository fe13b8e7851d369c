"""Importing changes nothing; functions that say so set what a training needs in its process."""

import sys

import pytest
from training_jobs import fresh

CODE = """
import importlib, json, logging, pkgutil, sys, warnings
# these may change what they like
import accelerate, diffusers, gradio, lightning, matplotlib.pyplot, peft, torch, torchmetrics, transformers, webdataset

def look():
    query = torch.ones(1, 2, 4)
    with torch.autocast("cpu", torch.bfloat16):
        attention = torch.nn.functional.scaled_dot_product_attention(query, query, query).dtype
    return {
        "attention": str(attention),
        "level": logging.getLogger("lightning.pytorch").level,
        "filters": [str(entry) for entry in warnings.filters],
        "hooks": [sys.excepthook is sys.__excepthook__, len(logging.getLogger().handlers)],
        "threads": torch.get_num_threads(),
    }

seen = {"libraries": look()}
import melfusion
for module in pkgutil.walk_packages(melfusion.__path__, "melfusion."):
    if ".configs" not in module.name:
        importlib.import_module(module.name)
seen["imported"] = look()
from melfusion.training.fit import quiet_lightning
from melfusion.training.precision import attention_in_float32_on_cpu
for call in (attention_in_float32_on_cpu, quiet_lightning):
    call(), call()
    seen[call.__name__] = look()
print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def seen():
    """When → what a fresh process finds of torch, Lightning, warnings and logging."""
    return fresh(CODE, start=sys.executable)


def test_importing_every_module_changes_nothing(seen):
    assert seen["imported"] == seen["libraries"]
    assert seen["libraries"]["attention"] == "torch.bfloat16"


def test_what_training_changes_is_only_what_its_functions_say(seen):
    changed = seen["libraries"] | {"attention": "torch.float32"}
    assert seen["attention_in_float32_on_cpu"] == changed
    assert seen["quiet_lightning"] == changed | {"level": 30} and changed["level"] != 30
