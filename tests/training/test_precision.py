"""What a run computes in."""

from pathlib import Path

import building as build
import pytest
import torch
import torch.nn.functional as F
import yaml

from melfusion.assembly.load import load_system
from melfusion.assembly.options import TrainerConfig
from melfusion.errors import ConfigError
from melfusion.models.synapse.base import attention
from melfusion.state.checkpoint_store import newest
from melfusion.training import precision
from melfusion.training.precision import attention_in_float32_on_cpu, keep_frozen, resolve_precision
from melfusion.training.run import train


def test_attention_is_fp32_under_autocast_on_a_cpu():
    rules = attention_in_float32_on_cpu()
    assert attention_in_float32_on_cpu() is rules  # a second call changes nothing
    q, k, v = torch.randn(3, 2, 4, 64, 8).mul(4).unbind()
    mask = torch.randn(2, 1, 1, 64)
    wanted = F.scaled_dot_product_attention(q, k, v, mask)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(F.scaled_dot_product_attention(q, k, v, attn_mask=mask), wanted)
        halves = [t.bfloat16() for t in (q, k, v)]
        seen = F.scaled_dot_product_attention(*halves, attn_mask=mask.bfloat16())
    assert seen.dtype == torch.bfloat16
    assert torch.equal(seen, F.scaled_dot_product_attention(*(t.float() for t in halves), mask.bfloat16().float()).bfloat16())
    assert not torch.equal(seen, F.scaled_dot_product_attention(*halves, attn_mask=mask.bfloat16()))  # as it is without autocast


def test_its_gradient_and_bool_masks_pass_through_autocast():
    attention_in_float32_on_cpu()
    q, k, v = (t.requires_grad_() for t in torch.randn(3, 2, 10, 16).unbind())
    with torch.autocast("cpu", torch.bfloat16):
        out = attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), heads=2)
        F.scaled_dot_product_attention(q, k, v, torch.ones(10, 10, dtype=torch.bool), is_causal=False)
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert all(t.grad.isfinite().all() for t in (k, v)) and v.grad.abs().sum() > 0


@pytest.mark.slow  # bfloat16 without instructions for it
def test_bf16_true_keeps_frozen_networks_in_bfloat16_and_what_trains_in_float32(tiny, tiny_corpus, tmp_path):
    def run(name, steps, *options):
        config = tiny(
            f"data.path={tiny_corpus}",
            f"runs_dir={tmp_path}",
            f"name={name}",
            f"trainer.max_steps={steps}",
            "trainer.checkpoint_every_n_steps=100",
            "trainer.val_every_n_steps=100",
            "trainer.precision=bf16-true",
            "synapse.kind=decoupled",
            *options,
        )
        return config, train(config)

    (config, whole), _, (_, parts) = run("whole", 3), run("parts", 2), run("parts", 3)
    one, two = (torch.load(newest(tmp_path / name / "checkpoints"), weights_only=True) for name in ("whole", "parts"))
    assert whole["val/loss"] == parts["val/loss"]
    assert all(torch.equal(t, two["state_dict"][name]) for name, t in one["state_dict"].items())
    kept = [
        *one["state_dict"].values(),
        *one["ema"].values(),
        *(m for s in one["optimizer_states"][0]["state"].values() for m in s.values()),
    ]
    assert {t.dtype for t in kept} == {torch.float32} and list(Path(tmp_path, "whole", "samples").glob("*.wav"))
    assert one["frozen"] == build.system(config).frozen_digests()  # of the weights as they were loaded
    made = load_system(tmp_path / "whole")[0].generate(["rain"], torch.zeros(1, 3, 16, 16), [0], num_inference_steps=1)
    assert made.isfinite().all()
    system = keep_frozen(build.system(config), "bf16-true")
    types = {name.split(".")[0]: p.dtype for name, p in system.named_parameters()}
    assert types["conditioner"] == types["image_encoder"] == torch.bfloat16 and types["denoiser"] == types["codec"] == torch.float32
    assert system.image_encoder.alpha_bar.dtype == torch.float32


def test_auto_follows_the_measurement_on_one_cpu(monkeypatch):
    for pays, devices, wanted in ((True, "1", "bf16-mixed"), (False, "1", "32-true"), (True, "2", "32-true")):
        monkeypatch.setattr(precision, "bf16_pays", lambda pays=pays: pays)
        assert resolve_precision(TrainerConfig(accelerator="cpu", devices=devices)) == wanted


def test_bf16_pays_where_a_product_is_faster(monkeypatch):
    taken = {torch.float32: 3.0, torch.bfloat16: 1.9}
    monkeypatch.setattr(precision, "seconds_of_a_product", taken.get)
    assert precision.bf16_pays.__wrapped__()
    taken[torch.bfloat16] = 2.1
    assert not precision.bf16_pays.__wrapped__()


@pytest.mark.slow  # bfloat16 without instructions for it
def test_a_run_goes_on_in_the_precision_that_it_was_begun_in(tiny, tiny_corpus, tmp_path, monkeypatch):
    options = (f"data.path={tiny_corpus}", f"runs_dir={tmp_path}", "name=a", "trainer.precision=auto", "trainer.media_items=0")
    monkeypatch.setattr(precision, "bf16_pays", lambda: True)
    train(tiny(*options, "trainer.max_steps=1"))
    monkeypatch.setattr(precision, "bf16_pays", lambda: False)  # another machine
    train(tiny(*options, "trainer.max_steps=2"))
    assert yaml.safe_load((tmp_path / "a/config.yaml").read_text())["trainer"]["precision"] == "bf16-mixed"
    with pytest.raises(ConfigError, match="trainer.precision: 'bf16-mixed' there, '32-true' now"):
        train(tiny(*options, "trainer.max_steps=2", "trainer.precision=32-true"))
    old = {"trainer": {"precision": "auto"}}  # as runs stored it before it was measured
    monkeypatch.setattr(precision, "bf16_pays", lambda: True)
    assert precision.settled(tiny("trainer.precision=auto"), old).trainer.precision == "32-true"


@pytest.mark.parametrize(
    ("word", "instead"), [("16-true", "16-mixed"), ("64-true", "32-true"), ("64", "32-true"), ("16-mixed", "bf16-mixed")]
)
def test_precisions_that_make_no_sense_here_are_refused_with_what_to_write(tiny, word, instead):
    with pytest.raises(ConfigError, match=f"trainer.precision={word} .*give {instead}"):
        tiny(f"trainer.precision={word}")


@pytest.mark.skipif(torch.cuda.is_available(), reason="it needs a machine without a GPU")
def test_precision_is_chosen_by_device():
    for word, name in (("32", "32-true"), ("bf16-true", "bf16-true")):
        assert resolve_precision(TrainerConfig(precision=word)) == name
    with pytest.raises(ConfigError, match="16-mixed needs a GPU"):
        resolve_precision(TrainerConfig(precision="16-mixed"))
