"""The paper's other ways to condition on a picture: by CLIP, by a ControlNet, by tokens that a GPT-2 writes."""

import building as build
import pytest
import torch
from synapse_fixtures import (
    LENGTH,
    TEXT_WIDTH,
    call_stock,
    music_inputs,
    randn,
    random_features,
    seeded,
    small_unet,
    stock_of,
    synaptic,
    text_masks,
)
from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig, CLIPVisionModel

from melfusion.errors import ConfigError
from melfusion.models.backbones.unet import SynapticUNet
from melfusion.models.frozen import digest
from melfusion.models.image_vision import Preprocessing, VisionFeatures
from melfusion.models.synapse.language import LanguageOfAudio

KINDS = {"controlnet": {"match": "pool_2d", "image_tokens": 16}, "language_of_audio": {"image_tokens": 5}}


def model_of(kind, open_gates=True, **more):
    """A tiny model of that kind; with `open_gates` the convolutions that a ControlNet starts at zero are random."""
    model = synaptic(kind, **KINDS[kind] | more)
    if open_gates and kind == "controlnet":
        copy = model.synapse.copy
        zeros = [*copy.controlnet_down_blocks, copy.controlnet_mid_block, copy.controlnet_cond_embedding.conv_out]
        for i, module in enumerate(zeros):
            for parameter in module.parameters():
                parameter.data = 0.3 * randn(*parameter.shape, seed=i)
    return model


def forward(model, has_image=(1.0, 1.0), mask=None, features=None, inputs=None):
    return model(*(inputs or music_inputs()), mask, features or random_features(model), torch.tensor(has_image))


# --- both kinds -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", ["none", "partial", "all"])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_only_the_samples_with_a_picture_differ_from_stock(kind, mask):
    model, mask = model_of(kind), text_masks()[mask]
    stock = call_stock(stock_of(model), *music_inputs(), mask)
    mixed = forward(model, (1.0, 0.0), mask)
    torch.testing.assert_close(mixed[1], stock[1], rtol=0, atol=1e-6)
    assert (mixed[0] - stock[0]).abs().max() > 1e-3
    torch.testing.assert_close(mixed[0], forward(model, (1.0, 1.0), mask)[0])
    assert torch.equal(model(*music_inputs(), mask), stock)  # without features nothing is asked of the synapse


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_another_picture_gives_another_output(kind):
    model = model_of(kind)
    here, there = (forward(model, features=random_features(model, seed=seed)) for seed in (5, 6))
    assert (here - there).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_all_that_a_kind_adds_is_trained_lies_in_the_synapse_and_leaves_the_unet_its_keys(kind):
    model = model_of(kind, trainable="synapse").train()
    assert list(model.unet.state_dict()) == list(small_unet().state_dict())
    assert {k.split(".")[0] for k in model.state_dict()} == {"unet", "synapse"}
    forward(model, mask=text_masks()["partial"]).square().mean().backward()
    dead = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert model.other_parameters() and all(n.startswith("synapse.") for n, p in model.named_parameters() if p.requires_grad)
    assert not dead, dead
    assert not any(p.grad is None for p in model.other_parameters())  # of which DDP would complain


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_as_deterministic_in_training_as_the_other_kinds(kind):
    model = model_of(kind).train()
    assert torch.equal(forward(model), forward(model))


# --- ControlNet -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_fresh_controlnet_is_stock_and_its_copy_starts_as_the_unets_encoder():
    model = model_of("controlnet", open_gates=False)
    assert torch.equal(forward(model), call_stock(stock_of(model), *music_inputs()))
    copy = model.synapse.copy
    for name in ("conv_in", "time_embedding", "down_blocks", "mid_block"):
        assert digest(getattr(copy, name)) == digest(getattr(model.unet, name))
    shared = {p.data_ptr() for p in copy.parameters()} & {p.data_ptr() for p in model.unet.parameters()}
    assert not shared


@torch.no_grad()
def test_a_controlnet_sees_where_in_the_picture_something_is():
    """The grid stays a grid: what is turned upside down, with the same tokens in it, encoder otherwise."""
    model = model_of("controlnet")
    features = random_features(model)
    turned = {layer: tuple(t.flip(1) for t in pair) for layer, pair in features.items()}
    assert (forward(model, features=features) - forward(model, features=turned)).abs().max() > 1e-3


@torch.no_grad()
def test_a_controlnet_is_told_nothing_of_hidden_words():
    model, mask = model_of("controlnet"), text_masks()["partial"]
    noisy, timesteps, text = music_inputs()
    other = torch.where(mask[..., None], text, randn(*text.shape, seed=9))
    torch.testing.assert_close(forward(model, mask=mask), forward(model, mask=mask, inputs=(noisy, timesteps, other)))


def test_a_controlnet_refuses_tokens_that_are_no_grid():
    with pytest.raises(ConfigError, match="give synapse.match=pool_2d"):
        synaptic("controlnet")


# --- language of audio ------------------------------------------------------------------------------------------------


def written(model, text, mask, has_image=(1.0, 1.0), features=None):
    """The tokens that the GPT-2 writes, (B, 8, D)."""
    synapse = model.synapse
    prepared = synapse.prepare(features or random_features(model), LENGTH)
    return next(iter(synapse.enter(None, None, text, mask, prepared, torch.tensor(has_image))[0].values()))[0]


@torch.no_grad()
def test_eight_tokens_are_written_each_from_those_before():
    model, text = model_of("language_of_audio"), music_inputs()[2]
    tokens = written(model, text, None)
    assert tokens.shape == (2, LanguageOfAudio.WRITTEN, TEXT_WIDTH)
    synapse = model.synapse
    seen = torch.nn.functional.layer_norm(synapse.prepare(random_features(model), LENGTH)[list(synapse.specs)[-1]][1], (8,))
    prompt = synapse.read(text, seen, torch.ones(2, LENGTH).long(), torch.ones(2, 5).long())
    assert prompt.hidden_states.shape[1] == LENGTH + 5 + 4  # a start and an end around each
    whole = torch.cat([prompt.hidden_states, tokens], 1)  # in one pass, without what is kept between passes
    again = synapse.gpt2(inputs_embeds=whole).last_hidden_state[:, prompt.hidden_states.shape[1] - 1 : -1]
    torch.testing.assert_close(again, tokens, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_it_reads_words_and_picture_but_nothing_hidden():
    model, mask = model_of("language_of_audio"), text_masks()["partial"]
    text, features = music_inputs()[2], random_features(model)
    other = {layer: tuple(t + randn(*t.shape, seed=3) for t in pair) for layer, pair in features.items()}
    base = written(model, text, mask, features=features)
    assert (base - written(model, text, mask, features=other)).abs().max() > 1e-3
    assert (base - written(model, text.flip(1), mask, features=features)).abs().max() > 1e-3
    hidden = torch.where(mask[..., None], text, randn(*text.shape, seed=9))
    torch.testing.assert_close(base, written(model, hidden, mask, features=features))
    unseen = (written(model, text, mask, (0.0, 0.0), f) for f in (features, other))
    torch.testing.assert_close(*unseen)


# --- CLIP encoder -------------------------------------------------------------------------------------------------------


def small_clip():
    with seeded(4):
        return CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=24, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=16, patch_size=4
            )
        ).eval()


def test_every_layer_gets_the_patch_tokens_of_the_layer_before_the_last():
    encoder = VisionFeatures(small_clip(), Preprocessing(16))
    image = randn(2, 3, 32, 32).clamp(-1, 1)
    latents = encoder.encode(image)
    assert latents.shape == (2, 1, 16, 24) and not latents.requires_grad
    hidden = encoder.network(pixel_values=Preprocessing(16)(image), output_hidden_states=True).hidden_states
    assert torch.equal(latents[:, 0], hidden[2][:, 1:]) and len(hidden) == 4
    features = encoder.features(latents, torch.tensor([0, 999]), layers=["a", "b"])
    assert list(features) == ["a", "b"] and all(torch.equal(t, latents[:, 0]) for pair in features.values() for t in pair)


def test_a_synapse_can_take_features_of_a_model_that_is_no_unet():
    model = SynapticUNet(small_unet(), VisionFeatures(small_clip(), Preprocessing(16)), "concat", ["both"], image_tokens=4).eval()
    assert {spec.image_width for spec in model.synapse.specs.values()} == {24} and len(model.synapse.specs) == 6
    assert torch.isfinite(forward(model)).all()
    with pytest.raises(ConfigError, match="mixes equal widths"):
        SynapticUNet(small_unet(), VisionFeatures(small_clip(), Preprocessing(16)), "kv_mix", ["both"])


def test_clip_is_loaded_from_the_published_layout(tmp_path, tiny, make_batch):
    """The hub's folder holds both of CLIP's towers; the picture's is taken, and none of its weights is left to chance."""
    layers = {"num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    vision, text = layers | {"hidden_size": 24, "image_size": 16, "patch_size": 4}, layers | {"hidden_size": 8, "vocab_size": 99}
    with seeded(4):
        whole = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).eval()
    whole.save_pretrained(tmp_path)
    config = tiny("image.kind=clip", f"image.weights={tmp_path}", "synapse.kind=concat")
    system = build.system(config)
    image = randn(2, 3, 16, 16).clamp(-1, 1)
    expected = whole.vision_model(pixel_values=Preprocessing(16)(image), output_hidden_states=True).hidden_states[-2][:, 1:]
    torch.testing.assert_close(system.image_encoder.encode(image)[:, 0], expected)
    batch = make_batch(config, system)
    assert torch.isfinite(system.training_step(batch, 0)["loss"])
    assert not any(p.requires_grad for p in system.image_encoder.parameters())
    assert system.generate(["a", "b"], image, num_inference_steps=2).shape == system.codec.log_mel(batch.waveform[:2]).shape
