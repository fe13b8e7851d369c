"""SynapticUNet: stock to the bit without a picture, gradients, checkpointing, copies, compilation, what trains."""

import copy

import pytest
import torch
from synapse_fixtures import (
    LENGTH,
    PROMPT_WIDTH,
    call_stock,
    empty_caption,
    music_inputs,
    randn,
    random_features,
    small_image_unet,
    small_unet,
    stock_of,
    synaptic,
    text_masks,
)

from melfusion.models.diffusion.options import DiffusionConfig
from melfusion.models.diffusion.process import alphas_cumprod
from melfusion.models.image_diffusion import ImageFeatureExtractor
from melfusion.models.synapse.processor import SynapseProcessor

ALPHA = ("kv_mix", "kv_mix_proj", "decoupled", "context_mix")
KINDS = (*ALPHA, "concat")


def forward(model, mask=None, has_image=(1.0, 1.0), features=None):
    return model(*music_inputs(), mask, random_features(model) if features is None else features, torch.tensor(has_image))


# --- stock identity ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", ["none", "partial", "all"])
@pytest.mark.parametrize("share", ["block", "head"])
@pytest.mark.parametrize("kind", ALPHA)
@torch.no_grad()
def test_without_a_picture_the_kinds_with_alpha_are_stock_to_the_bit(kind, share, mask):
    model, mask = synaptic(kind, layers=["both"], alpha_share=share, match_scale=True), text_masks()[mask]
    assert torch.equal(forward(model, mask, (0.0, 0.0)), call_stock(stock_of(model), *music_inputs(), mask))


@pytest.mark.parametrize("share", ["block", "head"])
@pytest.mark.parametrize("kind", ALPHA)
@torch.no_grad()
def test_alpha_zero_is_stock_to_the_bit_even_with_a_picture(kind, share):
    model = synaptic(kind, alpha_init=0.0, alpha_share=share)
    assert torch.equal(forward(model), call_stock(stock_of(model), *music_inputs()))


@pytest.mark.parametrize("mask", ["none", "partial", "all"])
@torch.no_grad()
def test_without_a_picture_concat_is_stock(mask):
    model, mask = synaptic("concat"), text_masks()[mask]
    stock = call_stock(stock_of(model), *music_inputs(), mask)
    torch.testing.assert_close(forward(model, mask, (0.0, 0.0)), stock, rtol=0, atol=1e-6)


@pytest.mark.parametrize("mask", ["none", "partial"])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_in_a_mixed_batch_only_the_samples_with_a_picture_differ_from_stock(kind, mask):
    model, mask = synaptic(kind), text_masks()[mask]
    mixed, stock = forward(model, mask, (1.0, 0.0)), call_stock(stock_of(model), *music_inputs(), mask)
    if kind in ALPHA:
        assert torch.equal(mixed[1], stock[1])
    torch.testing.assert_close(mixed[1], stock[1], rtol=0, atol=1e-6)
    assert (mixed[0] - stock[0]).abs().max() > 1e-3
    torch.testing.assert_close(mixed[0], forward(model, mask, (1.0, 1.0))[0])


@pytest.mark.parametrize("kind", ALPHA)
@torch.no_grad()
def test_without_a_picture_the_kinds_with_alpha_are_stock_to_the_bit_under_autocast(kind):
    model, mask = synaptic(kind), text_masks()["partial"]
    with torch.autocast("cpu", torch.bfloat16):
        ours, stock = forward(model, mask, (0.0, 0.0)), call_stock(stock_of(model), *music_inputs(), mask)
    assert ours.dtype == torch.bfloat16 and torch.equal(ours, stock)


@pytest.mark.parametrize("kind", ["none", *KINDS])
@torch.no_grad()
def test_a_call_without_features_is_stock(kind):
    model, mask = synaptic(kind), text_masks()["partial"]
    stock = call_stock(stock_of(model), *music_inputs(), mask)
    assert torch.equal(model(*music_inputs(), mask), stock)
    if kind == "none":
        features = random_features(synaptic("kv_mix"))
        assert torch.equal(model(*music_inputs(), mask, features, torch.ones(2)), stock)


@pytest.mark.parametrize("kind", KINDS)
def test_the_unet_keeps_its_stock_keys_and_loads_stock_weights_strictly(kind):
    model, stock = synaptic(kind), small_unet(seed=55)
    assert list(model.unet.state_dict()) == list(stock.state_dict())
    model.unet.load_state_dict(stock.state_dict(), strict=True)
    assert not any(isinstance(p, torch.nn.Module) for p in model.unet.attn_processors.values())
    assert {k.split(".")[0] for k in model.state_dict()} == {"unet", "synapse"}


def test_the_chosen_layers_are_wrapped_and_forward_warns_of_nothing(caplog, recwarn):
    model = synaptic()
    wrapped = {name for name, p in model.unet.attn_processors.items() if isinstance(p, SynapseProcessor)}
    assert wrapped == {f"{layer}.attn2.processor" for layer in model.synapse.specs}
    forward(model)
    assert not caplog.records and not [w for w in recwarn if "cross_attention_kwargs" in str(w.message)]


# --- gradients --------------------------------------------------------------------------------------------------------


def gradients(model, mask=None, has_image=(1.0, 1.0)):
    """Name → gradient of the loss, of every parameter."""
    model.zero_grad(set_to_none=True)
    forward(model, mask, has_image).sub(randn(2, 4, 16, 4, seed=30)).square().mean().backward()
    return {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("share", ["all", "block", "layer", "head"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_of_a_synapse_has_a_gradient(kind, share):
    model = synaptic(kind, alpha_share=share)
    scale = max(g.abs().max() for g in gradients(model).values())
    for name, grad in gradients(model, text_masks()["partial"]).items():
        if not name.startswith("synapse") or (kind in ("kv_mix_proj", "decoupled") and name.endswith("key.bias")):
            continue  # a bias that all keys share moves no softmax: that parameter is idle by construction
        assert grad is not None and (grad.abs() > 1e-7 * scale).any(), name
        assert name.startswith("synapse.projections") or (grad != 0).all(), name


@pytest.mark.parametrize("kind", ALPHA)
def test_alpha_has_a_gradient_at_zero(kind):
    grads = gradients(synaptic(kind, alpha_init=0.0, alpha_share="layer"))
    alphas = {name: grad for name, grad in grads.items() if "alphas" in name}
    assert len(alphas) == 4 and all(grad.abs() > 1e-8 for grad in alphas.values())


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_without_pictures_leaves_zero_gradients_not_none(kind):
    grads = gradients(synaptic(kind), text_masks()["partial"], (0.0, 0.0))
    assert all(grad is not None for grad in grads.values())  # None would stop DDP
    assert all((grad == 0).all() for name, grad in grads.items() if name.startswith("synapse"))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_agree_with_and_without_activation_checkpointing(kind):
    model = synaptic(kind, layers=["both"], alpha_share="layer").train()
    mask, has_image = text_masks()["partial"], (1.0, 0.0)
    plain = gradients(model, mask, has_image)
    model.checkpoint_activations()
    recomputed = gradients(model, mask, has_image)
    assert len([name for name in plain if "alphas" in name]) == (0 if kind == "concat" else 6)
    for name, grad in plain.items():
        torch.testing.assert_close(recomputed[name], grad, rtol=1e-5, atol=1e-8, msg=name)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_layer_reads_its_own_feature(kind, checkpointing):
    model = synaptic(kind, layers=["both"]).train()
    if checkpointing:
        model.checkpoint_activations()
    features = {k: tuple(t.requires_grad_() for t in pair) for k, pair in random_features(model).items()}
    forward(model, features=features).square().sum().backward()
    for layer, pair in features.items():
        read = pair[1:] if kind == "context_mix" else pair  # which reads the values alone
        assert all(t.grad is not None and t.grad.abs().max() > 0 for t in read), layer


# --- the picture ------------------------------------------------------------------------------------------------------


def regions():
    """Boxes (top, bottom, left, right) of a 16 px picture: the quadrants, and blocks of one pixel here and there."""
    halves = ((0, 8), (8, 16))
    yield from ((*rows, *columns) for rows in halves for columns in halves)
    yield from ((y, y + 1, x, x + 1) for y, x in ((0, 0), (0, 15), (15, 0), (15, 15), (7, 8), (3, 12)))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_any_region_of_the_picture_reaches_the_output_under_an_empty_caption(kind):
    alpha_bar = alphas_cumprod(DiffusionConfig())
    image_unet = small_image_unet()
    extractor = ImageFeatureExtractor(image_unet, None, torch.zeros(1, 1, PROMPT_WIDTH), alpha_bar, grid_steps=1)
    model = synaptic(kind, image_tokens=5)
    picture = randn(3, 16, 16, seed=8).tanh()
    changed = [picture.clone() for _ in regions()]
    for image, (top, bottom, left, right) in zip(changed, regions(), strict=True):
        image[:, top:bottom, left:right] *= -1
    images = torch.stack([picture, *changed])
    latents, timesteps, text = (t[:1].expand(len(images), *t.shape[1:]) for t in music_inputs())
    features = extractor(images, timesteps)
    out = model(latents, timesteps, text, empty_caption(len(images)), features, torch.ones(len(images)))
    moved = (out[1:] - out[0]).abs().flatten(1).amax(1)
    assert (moved > 1e-5).all(), moved


# --- copies, compilation, what trains ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_deep_copy_gives_the_same_and_shares_nothing(kind):
    model = synaptic(kind)
    twin, before = copy.deepcopy(model), forward(model)
    assert torch.equal(forward(twin), before)
    storages = [{t.data_ptr() for t in m.state_dict().values()} for m in (model, twin)]
    assert not storages[0] & storages[1]
    wrapped = [p for p in twin.unet.attn_processors.values() if isinstance(p, SynapseProcessor)]
    assert len(wrapped) == 4 and all(p.synapse is twin.synapse and p.sight is twin.sight for p in wrapped)
    for parameter in twin.parameters():
        parameter.add_(0.1)
    assert torch.equal(forward(model), before) and not torch.equal(forward(twin), before)


@pytest.mark.parametrize("kind", ["kv_mix", "concat"])
@torch.no_grad()
def test_attention_compiles_without_a_graph_break(kind):
    model = synaptic(kind)
    layer = next(iter(model.synapse.specs))
    block = model.unet.get_submodule(layer)
    seen = (model.synapse.prepare(random_features(model), LENGTH), torch.ones(2))
    mask = (1 - empty_caption().float())[:, None] * -10000.0
    args = (randn(2, 16, 16), None, music_inputs()[2], mask)
    compiled = torch.compile(block, fullgraph=True, backend="eager")
    with model.sight.of(seen):
        torch.testing.assert_close(compiled(*args), block(*args))


@pytest.mark.slow  # a compilation of each kind; one block of each is a fast test
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_unet_compiles_without_a_graph_break(kind):
    model, (latents, timesteps, text) = synaptic(kind), music_inputs()
    compiled = torch.compile(model.unet, fullgraph=True, backend="eager")
    with model.sight.of((model.synapse.prepare(random_features(model), LENGTH), torch.ones(2))):
        out = compiled(latents, timesteps, encoder_hidden_states=text, encoder_attention_mask=text_masks()["partial"]).sample
    torch.testing.assert_close(out, forward(model, text_masks()["partial"]))


def cross_attention_of_the_decoder(name):
    projections = ("to_q.", "to_k.", "to_v.", "to_out.")
    return name.startswith("up_blocks.") and any(f".attn2.{p}" in name for p in projections)


WANTED = {
    "all": lambda name: True,
    "decoder": lambda name: name.startswith("up_blocks."),
    "cross_attn": cross_attention_of_the_decoder,
    "synapse": lambda name: False,
}


@pytest.mark.parametrize("kind", ["none", *KINDS])
@pytest.mark.parametrize("trainable", WANTED)
def test_exactly_the_asked_parameters_train(trainable, kind):
    model = synaptic(kind, trainable=trainable)
    training = {name for name, p in model.unet.named_parameters() if p.requires_grad}
    assert training == {name for name, _ in model.unet.named_parameters() if WANTED[trainable](name)}
    if trainable == "cross_attn":
        assert len(training) == 4 * 5  # four layers: three weights and the output's weight and bias
    assert all(p.requires_grad for p in model.synapse.parameters())
    alphas, others = model.alpha_parameters(), model.other_parameters()
    assert {id(p) for p in alphas + others} == {id(p) for p in model.parameters() if p.requires_grad}
    assert not {id(p) for p in alphas} & {id(p) for p in others}
    assert len(alphas) == (2 if kind in ALPHA else 0)


def test_training_the_synapse_alone_moves_nothing_else():
    model = synaptic("kv_mix_proj", trainable="synapse")
    before = {name: t.clone() for name, t in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    forward(model).square().mean().backward()
    optimizer.step()
    moved = {name.split(".")[0] for name, t in model.state_dict().items() if not torch.equal(t, before[name])}
    assert moved == {"synapse"}
