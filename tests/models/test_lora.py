"""LoRA beside the synapse: what trains, stock keys, what is exported, and to which backbone it belongs."""

import sys

import building as build
import pytest
import torch
from data_fixtures import one_sentence
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file
from synapse_fixtures import music_inputs, randn
from test_backbones import CLASSES
from test_backbones import build as backbone
from test_backbones import forward as call

from melfusion.assembly.load import export_system, load_system
from melfusion.assembly.system import export
from melfusion.errors import CheckpointError, ConfigError
from melfusion.models.lora import linear_layers


@pytest.fixture(scope="module")
def peft():
    return pytest.importorskip("peft", reason="needs the extra `adapter`")


def lora(module):
    return {name: p for name, p in module.named_parameters() if "lora_" in name}


def open_up(module):
    """B of each LoRA starts at zero: with other numbers it does something."""
    with torch.no_grad():
        for i, (name, parameter) in enumerate(lora(module).items()):
            parameter.add_(0.3 * randn(*parameter.shape, seed=i) * ("lora_B" in name))


@pytest.mark.usefixtures("peft")
@pytest.mark.parametrize("name", CLASSES)
def test_it_starts_as_no_change_trains_beside_the_synapse_and_keeps_stock_keys(tiny, name):
    plain, model = (backbone(tiny, name, "none", "denoiser.trainable=synapse") for _ in range(2))
    model.adapt(2)  # without a synapse: in all cross-attentions
    assert {n.split(".lora_")[0].split(".", 1)[1].rpartition(".to_")[0] for n in lora(model)} == {s.path for s in model.sites()}
    with torch.no_grad():
        assert torch.equal(call(plain.eval(), name, shown=False), call(model.eval(), name, shown=False))
    assert {n for n, p in model.named_parameters() if p.requires_grad} == set(lora(model))
    stock = plain.network.state_dict()
    assert {n: t.shape for n, t in model.network.state_dict().items() if "lora_" not in n} == {n: t.shape for n, t in stock.items()}
    shifted = {n: t + 1 if t.is_floating_point() else t for n, t in stock.items()}
    lost = model.network.load_state_dict(shifted, strict=False)
    assert not lost.unexpected_keys and all("lora_" in n for n in lost.missing_keys)
    assert all(torch.equal(t, shifted[n]) for n, t in model.network.state_dict().items() if n in shifted)
    assert model.frozen_state().keys() == plain.frozen_state().keys()


@pytest.mark.usefixtures("peft")
@pytest.mark.parametrize("name", ["stable_audio_3", "ace_step"])
def test_gradients_are_the_same_under_activation_checkpointing(tiny, name):
    model = backbone(tiny, name, "concat", "denoiser.trainable=synapse").train()
    model.adapt(2)
    open_up(model)

    def gradients():
        model.zero_grad(set_to_none=True)
        call(model, name).square().mean().backward()
        return {n: p.grad for n, p in model.named_parameters() if p.requires_grad}

    plain = gradients()
    assert all(g is not None for g in plain.values()) and all(plain[n].any() for n in lora(model))
    model.checkpoint_activations()
    for n, grad in gradients().items():
        torch.testing.assert_close(grad, plain[n], rtol=1e-5, atol=1e-7)


@pytest.mark.usefixtures("peft")
def test_what_is_saved_is_what_trains_and_belongs_to_its_backbone(tiny, tmp_path, make_batch):
    for seed in (0, 1):
        donor = tiny("synapse.kind=none", f"seed={seed}")
        export(build.system(donor), donor, tmp_path / f"base{seed}")
    own = ("synapse.kind=concat", f"denoiser.weights={tmp_path}/base0/unet")
    config = tiny(*own, "denoiser.lora_rank=2")
    system, without = build.system(config).eval(), build.system(tiny(*own, "denoiser.trainable=synapse"))
    assert system.frozen_digests() == without.frozen_digests()  # one backbone, with and without its adapter
    open_up(system)
    batch = make_batch(config, system)
    loss = system.training_step(batch, 0)["loss"]
    loss.backward()
    assert {id(p) for p in lora(system).values()} < {id(p) for p in system.denoiser.other_parameters()}
    assert all(p.grad is not None and p.grad.any() for p in lora(system).values())

    export_system(system, config, tmp_path / "adapter")
    stored = load_file(tmp_path / "adapter" / "model.safetensors")
    assert stored.keys() == {n for n in system.state_dict() if "lora_" in n or n.startswith("denoiser.synapse.")}
    again, _ = load_system(tmp_path / "adapter")
    assert torch.equal(again.training_step(batch, 0)["loss"], loss)
    with pytest.raises(CheckpointError, match="trained with another denoiser"):
        load_system(tmp_path / "adapter", overrides=[f"denoiser.weights={tmp_path}/base1/unet"])

    checkpoint = {"state_dict": system.state_dict()}
    system.on_save_checkpoint(checkpoint)
    assert checkpoint["state_dict"].keys() == stored.keys()
    fresh = build.system(config)
    fresh.on_load_checkpoint(checkpoint)
    fresh.load_state_dict(checkpoint["state_dict"], strict=True)
    assert torch.equal(fresh.eval().training_step(batch, 0)["loss"], loss)


@pytest.mark.usefixtures("peft")
@torch.no_grad()
def test_the_exported_backbone_is_stock_and_holds_what_was_learned(tiny, tmp_path):
    system = build.system(tiny("synapse.kind=none", "denoiser.lora_rank=2", "denoiser.lora_targets=['*.attn1.to_?','*.ff.*']"))
    model = system.denoiser.eval()
    assert all(".attn1.to_" in n or ".ff.net." in n for n in lora(model)) and any(".ff.net." in n for n in lora(model))
    open_up(model)
    shapes = (2, *system.latent_shape())
    noisy, (_, timesteps, _), text = randn(*shapes), music_inputs(), randn(2, 5, model.text_width)
    before, state = model(noisy, timesteps, text), {n: t.clone() for n, t in model.state_dict().items()}
    model.export(tmp_path)
    unet = UNet2DConditionModel.from_pretrained(tmp_path / "unet").eval()
    torch.testing.assert_close(type(model)(unet).eval()(noisy, timesteps, text), before, rtol=1e-4, atol=1e-5)
    assert torch.equal(model(noisy, timesteps, text), before)
    assert all(torch.equal(state[n], t) for n, t in model.state_dict().items()) and len(state) == len(model.state_dict())


@pytest.mark.usefixtures("peft")
def test_it_changes_no_random_number_of_other_parts(tiny):
    config = ("synapse.kind=none", "denoiser.trainable=synapse")
    plain, adapted = build.system(tiny(*config)), build.system(tiny(*config, "denoiser.lora_rank=3"))
    assert plain.frozen_digests() == adapted.frozen_digests()


def test_a_target_that_is_no_layer_is_refused():
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 2))
    assert linear_layers(network, ["2", "[0-1]"]) == ["0", "2"]
    with pytest.raises(ConfigError, match="'attn' names none of the 2 linear layers of this backbone, such as 2"):
        linear_layers(network, ["0", "attn"])


def test_what_does_not_go_with_a_lora_is_refused(tiny, monkeypatch):
    for kind in ("unet", "ace_step"):
        with pytest.raises(ConfigError, match="denoiser.trainable=all does not go with denoiser.lora_rank=4"):
            tiny(f"denoiser.kind={kind}", "denoiser.lora_rank=4", "denoiser.trainable=all")
    with pytest.raises(ConfigError, match="denoiser.lora_rank=-1 must be at least 0"):
        tiny("denoiser.lora_rank=-1")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError) as caught:
        build.system(tiny("denoiser.lora_rank=4"))
    assert "pip install 'melfusion[adapter]'" in one_sentence(caught.value)
