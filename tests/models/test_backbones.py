"""Every backbone with every synapse that makes sense there: stock without a picture, stock keys, gradients where they belong."""

import dataclasses

import pytest
import torch
from data_fixtures import one_sentence
from diffusers import AceStepTransformer1DModel, StableAudio3DiTModel, StableAudioDiTModel, UNet2DConditionModel
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from diffusers.pipelines.audioldm2 import AudioLDM2UNet2DConditionModel
from synapse_fixtures import randn, seeded, small_image_unet

from melfusion.assembly.denoiser import BUILD
from melfusion.errors import ConfigError
from melfusion.models.backbones.options import DENOISERS
from melfusion.models.image_encoder import ImageEncoder
from melfusion.models.synapse.options import OPTIONS

CLASSES = {
    "unet": UNet2DConditionModel,
    "audioldm2": AudioLDM2UNet2DConditionModel,
    "stable_audio": StableAudioDiTModel,
    "stable_audio_3": StableAudio3DiTModel,
    "ace_step": AceStepTransformer1DModel,
}
KINDS = ("kv_mix_proj", "concat", "decoupled", "context_mix", "language_of_audio")
REFUSED = {("stable_audio_3", "decoupled")}
PAIRS = [(name, kind) for name in CLASSES for kind in KINDS if (name, kind) not in REFUSED]
LENGTH, WIDTH, IMAGE_WIDTH = 6, 16, 12


class Tokens(ImageEncoder):
    """One layer of tokens for all."""

    def width_of(self, layer):
        return IMAGE_WIDTH


def build(tiny, name, kind="concat", *overrides):
    """A backbone of its random twin."""
    own = [f"synapse.kind={kind}", "synapse.layers=[all]", f"denoiser.kind={name}", *overrides]
    config = tiny(*own, "denoiser.weights=null")
    config = dataclasses.replace(config, denoiser=DENOISERS[name](**{"kind": name, **DENOISERS[name].TINY}))
    config.denoiser.trainable = next((o.partition("=")[2] for o in overrides if o.startswith("denoiser.trainable=")), "all")
    with seeded(3):
        return BUILD[name](config, WIDTH, Tokens() if kind != "none" else None)


def inputs(name):
    """noisy_latents, times, text_embeds, text_mask, extra, as the backbone takes them."""
    text, mask = randn(2, LENGTH, WIDTH, seed=1), torch.arange(LENGTH) < torch.tensor([[3], [6]])
    if name in ("unet", "audioldm2"):
        extra = {"generated": randn(2, 5, 8, seed=2)} if name == "audioldm2" else {}
        return randn(2, 4, 16, 4), torch.tensor([3, 700]), text, mask, extra
    # the stock ACE-Step takes no mask, and attends to all words
    return randn(2, 16, 10), torch.tensor([0.2, 0.9]), text, None if name == "ace_step" else mask, {}


def forward(model, name, has_image=(1.0, 1.0), shown=True, features=None):
    latents, times, text, mask, extra = inputs(name)
    seen = features or {
        layer: (randn(2, 9, IMAGE_WIDTH, seed=7 + i), randn(2, 9, IMAGE_WIDTH, seed=70 + i)) for i, layer in enumerate(model.layers)
    }
    return model(latents, times, text, mask, seen if shown else None, torch.tensor(has_image), extra)


def call_unet(network, latents, times, text, mask, extra):
    return network(latents, times, encoder_hidden_states=text, encoder_attention_mask=mask).sample


def call_audioldm2(network, latents, times, text, mask, extra):
    texts = {"encoder_hidden_states": extra["generated"], "encoder_hidden_states_1": text, "encoder_attention_mask_1": mask}
    return network(latents, times, **texts).sample


def call_stable_audio(network, latents, times, text, mask, extra):
    """Its pipeline zeroes hidden words; one place of the rotary embedding more is for the seconds, which are zeros here."""
    rotary = get_1d_rotary_pos_embed(8 // 2, 10 + 1, use_real=True, repeat_interleave_real=False)
    return network(latents, times, text * mask[..., None], torch.zeros(2, 1, 32), rotary).sample


def call_stable_audio_3(network, latents, times, text, mask, extra):
    return network(latents, times, text, torch.zeros(2, 16), encoder_attention_mask=mask).sample


def call_ace_step(network, latents, times, text, mask, extra):
    """Nothing stood there before (16 channels of zeros), and all frames are to be made (16 of ones)."""
    context = torch.cat([torch.zeros(2, 10, 16), torch.ones(2, 10, 16)], 2)
    return network(latents.transpose(1, 2), times, times, text, context).sample.transpose(1, 2)


CALLS = {  # kind → how diffusers' own pipeline calls its network, without a line of ours
    "unet": call_unet,
    "audioldm2": call_audioldm2,
    "stable_audio": call_stable_audio,
    "stable_audio_3": call_stable_audio_3,
    "ace_step": call_ace_step,
}


def stock(model, name):
    """What diffusers' own class makes with the same weights."""
    bare = CLASSES[name].from_config(model.network.config).eval()
    bare.load_state_dict(model.network.state_dict(), strict=True)
    assert not [type(module) for module in bare.modules() if type(module).__module__.startswith("melfusion")]
    return CALLS[name](bare, *inputs(name))


@pytest.mark.parametrize(("name", "kind"), PAIRS)
@torch.no_grad()
def test_without_a_picture_it_is_the_stock_network(tiny, name, kind):
    model = build(tiny, name, kind).eval()
    wanted = stock(model, name)
    assert torch.equal(forward(model, name, shown=False), wanted)
    hidden = forward(model, name, (0.0, 0.0))
    if OPTIONS[kind].__name__ == "TokensConfig":  # tokens that are hidden change the order of sums
        torch.testing.assert_close(hidden, wanted, rtol=1e-5, atol=1e-6)
    else:
        assert torch.equal(hidden, wanted)
    seen = forward(model, name)
    assert seen.shape == wanted.shape and not torch.equal(seen, wanted) and torch.isfinite(seen).all()
    half = forward(model, name, (1.0, 0.0))
    torch.testing.assert_close(half[1], wanted[1], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(half[0], seen[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CLASSES)
def test_keys_stay_stock_and_a_folder_is_loaded_by_diffusers_own_class(tiny, name, tmp_path):
    model = build(tiny, name).eval()
    fresh = CLASSES[name].from_config(model.network.config)
    assert list(model.network.state_dict()) == list(fresh.state_dict())
    assert {key.split(".")[0] for key in model.state_dict()} == {model.attribute, "synapse"}
    model.export(tmp_path)
    loaded = CLASSES[name].from_pretrained(tmp_path / model.attribute).eval()
    with torch.no_grad():
        assert torch.equal(CALLS[name](loaded, *inputs(name)), forward(model, name, shown=False))


def gradients(model, name):
    model.zero_grad(set_to_none=True)
    forward(model.train(), name).square().mean().backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_a_frozen_backbone_trains_its_synapse_alone_also_under_activation_checkpointing(tiny, name, kind):
    model = build(tiny, name, kind, "denoiser.trainable=synapse")
    plain = gradients(model, name)
    assert plain and all(n.startswith("synapse.") for n in plain)
    moved = {n for n, g in plain.items() if g.abs().max() > 0}
    assert len(moved) >= 0.5 * len(plain)
    if "alpha_init" in vars(OPTIONS[kind]()):
        assert {n for n in moved if "alphas" in n} == {f"synapse.alphas.{a}" for a in model.alphas()} and len(model.alphas()) >= 2
    model.checkpoint_activations()
    again = gradients(model, name)
    assert again.keys() == plain.keys()
    for n, grad in plain.items():
        torch.testing.assert_close(again[n], grad, rtol=1e-5, atol=1e-7, msg=n)


@pytest.mark.parametrize("name", CLASSES)
def test_two_passes_before_backward_keep_their_own_pictures(tiny, name):
    """Recomputation sees what its own pass saw, not what came last."""
    model = build(tiny, name, "concat", "denoiser.trainable=synapse").train()
    other = {layer: (randn(2, 9, IMAGE_WIDTH, seed=500), randn(2, 9, IMAGE_WIDTH, seed=501)) for layer in model.layers}

    def both():
        model.zero_grad(set_to_none=True)
        (forward(model, name).square().mean() + 2 * forward(model, name, features=other).square().mean()).backward()
        return [p.grad for p in model.synapse.parameters()]

    plain = both()
    model.checkpoint_activations()
    for grad, again in zip(plain, both(), strict=True):
        torch.testing.assert_close(again, grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", CLASSES)
def test_hidden_words_change_nothing_with_and_without_a_picture(tiny, name):
    model = build(tiny, name).eval()
    latents, times, text, _, extra = inputs(name)
    mask = torch.arange(LENGTH) < torch.tensor([[3], [6]])
    moved = torch.where(mask[..., None], text, text + 5)
    features = {layer: (randn(2, 9, IMAGE_WIDTH), randn(2, 9, IMAGE_WIDTH)) for layer in model.layers}
    with torch.no_grad():
        outs = [model(latents, times, t, mask, features, torch.tensor([1.0, 0.0]), extra) for t in (text, moved)]
    torch.testing.assert_close(*outs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("stable_audio", "controlnet", "a StableAudioDiTModel does not have"),
        ("ace_step", "kv_mix", "mixes equal widths"),
        ("stable_audio_3", "decoupled", "is the difference of two"),
    ],
)
def test_kinds_that_make_no_sense_are_refused_with_a_sentence(tiny, name, kind, words):
    more = ["synapse.match=pool_2d"] if kind == "controlnet" else []
    with pytest.raises(ConfigError, match=words):
        build(tiny, name, kind, *more)


MAKING_SENSE = [*PAIRS, *((name, "none") for name in CLASSES), ("unet", "controlnet")]


@pytest.mark.parametrize(("name", "kind"), [(n, k) for n in CLASSES for k in OPTIONS if (n, k) not in MAKING_SENSE])
def test_every_other_pair_is_refused_with_a_sentence(tiny, name, kind):
    with pytest.raises(ConfigError) as error:
        build(tiny, name, kind, *(["synapse.match=pool_2d"] if kind == "controlnet" else []))
    one_sentence(error.value)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["denoiser.kind=audioldm2", "denoiser.attention_blocks=[false,false]"], "leaves AudioLDM 2 no layer that reads a text"),
        (["denoiser.kind=audioldm2", "denoiser.attention_blocks=[]"], "has 0 levels"),
        (["denoiser.kind=stable_audio", "denoiser.num_layers=0"], "has no cross-attention that could listen"),
    ],
)
def test_a_backbone_without_cross_attention_is_refused_with_a_sentence(tiny, overrides, words):
    with pytest.raises(ConfigError) as error:
        config = tiny("synapse.kind=concat", *overrides)
        BUILD[config.denoiser.kind](config, WIDTH, Tokens())
    assert words in one_sentence(error.value)


@torch.no_grad()
def test_layers_by_half_and_a_block_listens_at_its_relative_depth(tiny):
    from synapse_fixtures import encoder_of

    from melfusion.models.synapse.layers import attention_layers, choose

    model = build(tiny, "ace_step")
    sites = model.sites()
    assert [choose(sites, [word]) for word in ("first", "second", "all", "block2")] == [[0], [1], [0, 1], [1]]
    image = small_image_unet()
    encoder, known = encoder_of(image), attention_layers(image)
    assert [encoder.layer_for("layers.0.cross_attn", depth) for depth in (0, 0.5, 1)] == [known[0], known[3], known[6]]
    assert encoder.layer_for(known[2], 0.9) == known[2]


@torch.no_grad()
def test_kv_mix_is_the_papers_rule_where_widths_are_equal(tiny):
    """K and V of a grouped-query layer are mixed before heads and norms: at α = 1 the text changes nothing any more."""

    class Wide(Tokens):
        def width_of(self, layer):
            return 16

    model = build(tiny, "ace_step", "none")
    model = type(model)(model.network, Wide(), "kv_mix", ["all"], alpha_init=1.0).eval()
    latents, times, text, mask, extra = inputs("ace_step")
    features = {layer: (randn(2, 9, 16), randn(2, 9, 16, seed=3)) for layer in model.layers}
    outs = [model(latents, times, t, mask, features, torch.ones(2), extra) for t in (text, text + 1)]
    torch.testing.assert_close(*outs, rtol=1e-4, atol=1e-5)
