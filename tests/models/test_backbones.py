"""Every backbone with every synapse that makes sense there: stock without a picture, stock keys, gradients where they belong."""

import pytest
import torch
from backbone_twins import CALLS, CLASSES, IMAGE_WIDTH, LENGTH, WIDTH, Tokens, build, forward, inputs, stock
from data_fixtures import one_sentence
from synapse_fixtures import randn, small_image_unet

from melfusion.assembly.denoiser import BUILD
from melfusion.errors import ConfigError
from melfusion.models.synapse.options import OPTIONS

KINDS = ("kv_mix_proj", "concat", "decoupled", "context_mix", "language_of_audio")
REFUSED = {("stable_audio_3", "decoupled"), ("audioldm", "kv_mix_proj"), ("audioldm", "context_mix")}
PAIRS = [(name, kind) for name in CLASSES for kind in KINDS if (name, kind) not in REFUSED]


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


@pytest.mark.parametrize("name", [name for name in CLASSES if name != "audioldm"])  # which has one vector for all words
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
        (
            "audioldm",
            "kv_mix_proj",
            "mixes the picture with the words that a layer attends to, and the layers of AudioLDM attend to",
        ),
        ("audioldm", "controlnet", "gives the words to its copy of the encoder"),
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
