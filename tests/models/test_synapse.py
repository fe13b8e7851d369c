"""The synapse: eq. 5-6 literally, token matching, layer choice, α's sharing, the mask rule."""

import math

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from synapse_fixtures import (
    LENGTH,
    TEXT_WIDTH,
    empty_caption,
    encoder_of,
    music_inputs,
    randn,
    random_features,
    seeded,
    synaptic,
    text_masks,
)

from melfusion.models.backbones.unet import unet_sites
from melfusion.models.synapse.kinds import SYNAPSES
from melfusion.models.synapse.layers import LayerSpec, attention_layers, block_names, choose, layer_specs
from melfusion.models.synapse.matching import MATCHES, pool, pool_2d
from melfusion.models.synapse.processor import Sight, SynapseProcessor

KINDS = ("kv_mix", "kv_mix_proj", "concat", "decoupled", "context_mix")
MIXING = ("kv_mix", "kv_mix_proj", "context_mix")
LAYER = "up_blocks.0.attentions.0.transformer_blocks.0"


# --- one attention layer against a naive implementation ---------------------------------------------------------------


def attention_layer(width=16, heads=4):
    with seeded(3):
        return Attention(width, TEXT_WIDTH, heads=heads, dim_head=width // heads)


def one_layer(kind="kv_mix", width=16, heads=4, image_width=16, **kwargs):
    spec = LayerSpec(LAYER, "decoder1", width, heads, image_width)
    with seeded(4):
        return SYNAPSES[kind]([spec], **kwargs)


def project(synapse, image_key, image_value):
    """The picture's keys and values (B, M, 16), normalised, through the synapse's own linear maps."""
    layers = [synapse.projections[f"{LAYER.replace('.', '-')}-{part}"] for part in ("key", "value")]
    return [F.layer_norm(t, (16,)) @ layer.weight.T + layer.bias for layer, t in zip(layers, (image_key, image_value), strict=True)]


def naive_attention(attn, hidden, key, value, visible):
    """Attention by loops over samples and heads, softmax written out; visible (B, tokens) bool."""
    query, out = attn.to_q(hidden), torch.empty_like(hidden)
    width = query.shape[-1] // attn.heads
    for b in range(len(hidden)):
        for h in range(attn.heads):
            part = slice(h * width, (h + 1) * width)
            scores = query[b, :, part] @ key[b, :, part].T / math.sqrt(width)
            weights = scores.exp() * visible[b]
            out[b, :, part] = (weights / weights.sum(-1, keepdim=True)) @ value[b, :, part]
    return F.linear(out, attn.to_out[0].weight, attn.to_out[0].bias)


def layer_inputs(tokens=LENGTH, width=16):
    hidden, text = randn(3, 8, width, seed=1), randn(3, LENGTH, TEXT_WIDTH, seed=2)
    return hidden, text, randn(3, tokens, width, seed=6), randn(3, tokens, width, seed=7)


def bias(mask):
    """The additive mask (B, 1, L) that diffusers hands to a processor."""
    return ((1 - mask.float()) * -10000.0)[:, None]


def attend(synapse, attn, hidden, text, features, has_image, mask=None):
    """The layer through its processor while the picture is seen."""
    sight = Sight()
    with sight.of(({LAYER: features}, has_image)):
        return SynapseProcessor(AttnProcessor2_0(), LAYER, synapse, sight)(attn, hidden, text, mask)


@pytest.mark.parametrize(("share", "alpha"), [("layer", 0.37), ("head", [-0.2, 0.37, 0.63, 1.0]), ("all", 1.0)])
def test_kv_mix_is_equations_5_and_6(share, alpha):
    attn, synapse = attention_layer(), one_layer(alpha_share=share)
    synapse.alphas[synapse.group(synapse.specs[LAYER])].data = torch.tensor(alpha)
    hidden, text, image_key, image_value = layer_inputs()
    per_width = torch.tensor(alpha).repeat_interleave(4) if share == "head" else alpha
    key = per_width * image_key + (1 - per_width) * attn.to_k(text)
    value = per_width * image_value + (1 - per_width) * attn.to_v(text)

    mixed = attend(synapse, attn, hidden, text, (image_key, image_value), torch.ones(3))
    torch.testing.assert_close(mixed, naive_attention(attn, hidden, key, value, torch.ones(3, LENGTH)))


def test_kv_mix_holds_the_mask_without_a_picture_and_lifts_it_with_one():
    attn, synapse = attention_layer(), one_layer(alpha_init=0.6)
    hidden, text, image_key, image_value = layer_inputs()
    mask, has_image = text_masks(3)["partial"], torch.tensor([1.0, 0.0, 1.0])
    alpha = (0.6 * has_image)[:, None, None]
    key = alpha * image_key + (1 - alpha) * attn.to_k(text)
    value = alpha * image_value + (1 - alpha) * attn.to_v(text)
    visible = mask | has_image.bool()[:, None]

    mixed = attend(synapse, attn, hidden, text, (image_key, image_value), has_image, bias(mask))
    torch.testing.assert_close(mixed, naive_attention(attn, hidden, key, value, visible))


def test_kv_mix_proj_mixes_projections_of_the_normalised_features():
    attn, synapse = attention_layer(), one_layer("kv_mix_proj", image_width=10, alpha_init=0.3)
    hidden, text, image_key, image_value = layer_inputs(width=16)
    image_key, image_value = 50 * image_key[..., :10] + 3, image_value[..., :10]
    projected = []
    for part, t in (("key", image_key), ("value", image_value)):
        layer = synapse.projections[f"{LAYER.replace('.', '-')}-{part}"]
        normal = (t - t.mean(-1, keepdim=True)) / (t.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
        projected.append(normal @ layer.weight.T + layer.bias)
    key, value = 0.3 * projected[0] + 0.7 * attn.to_k(text), 0.3 * projected[1] + 0.7 * attn.to_v(text)

    mixed = attend(synapse, attn, hidden, text, (image_key, image_value), torch.ones(3))
    torch.testing.assert_close(mixed, naive_attention(attn, hidden, key, value, torch.ones(3, LENGTH)))


def test_concat_appends_image_tokens_that_are_visible_where_there_is_a_picture():
    attn, synapse = attention_layer(), one_layer("concat", image_tokens=4)
    hidden, text, image_key, image_value = layer_inputs(tokens=4)
    mask, has_image = text_masks(3)["partial"], torch.tensor([1.0, 0.0, 1.0])
    projected = project(synapse, image_key, image_value)
    key, value = torch.cat([attn.to_k(text), projected[0]], 1), torch.cat([attn.to_v(text), projected[1]], 1)
    visible = torch.cat([mask, has_image.bool()[:, None].expand(-1, 4)], 1)

    mixed = attend(synapse, attn, hidden, text, (image_key, image_value), has_image, bias(mask))
    torch.testing.assert_close(mixed, naive_attention(attn, hidden, key, value, visible))


@torch.no_grad()
def test_decoupled_adds_the_gated_attention_of_the_picture():
    attn, synapse = attention_layer(), one_layer("decoupled", image_tokens=4, alpha_init=0.3)
    hidden, text, image_key, image_value = layer_inputs(tokens=4)
    mask, has_image = text_masks(3)["partial"], torch.tensor([1.0, 0.0, 1.0])
    projected = project(synapse, image_key, image_value)
    both = naive_attention(attn, hidden, attn.to_k(text), attn.to_v(text), mask)
    seen = naive_attention(attn, hidden, *projected, torch.ones(3, 4))
    bias_of_out = attn.to_out[0].bias  # each naive attention ends in the output's projection; its bias counts once
    expected = both + 0.3 * has_image[:, None, None] * (seen - bias_of_out)
    mixed = attend(synapse, attn, hidden, text, (image_key, image_value), has_image, bias(mask))
    torch.testing.assert_close(mixed, expected)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 50.0])
@torch.no_grad()
def test_context_mix_is_the_released_weight_on_the_text_before_its_projections(alpha):
    attn, synapse = attention_layer(), one_layer("context_mix", alpha_init=alpha)
    hidden, text, image_key, image_value = layer_inputs()
    weight = (2 / (1 + math.exp(-alpha)) - 1) / 5
    assert 0 <= weight <= 0.2
    cells = [list(stretch(i, image_value.shape[2], TEXT_WIDTH)) for i in range(TEXT_WIDTH)]
    image = torch.stack([image_value[..., cell].mean(-1) for cell in cells], -1)
    context = (1 - weight) * text + weight * image
    mixed = attend(synapse, attn, hidden, text, (image_key, image_value), torch.ones(3))
    expected = naive_attention(attn, hidden, attn.to_k(context), attn.to_v(context), torch.ones(3, LENGTH))
    torch.testing.assert_close(mixed, expected)


@torch.no_grad()
def test_match_scale_brings_the_picture_to_the_rms_of_the_music():
    synapse = one_layer(alpha_init=1.0, match_scale=True)
    key, value = randn(2, 4, 16, seed=1), 3 * randn(2, 4, 16, seed=2)
    image = (100 * randn(2, 4, 16, seed=3), 0.01 * randn(2, 4, 16, seed=4))
    mixed_key, mixed_value, _ = synapse.mix(LAYER, key, value, None, image, torch.ones(2))
    for mixed, music, picture in ((mixed_key, key, image[0]), (mixed_value, value, image[1])):
        for b in range(2):
            assert mixed[b].square().mean() == pytest.approx(music[b].square().mean().item(), rel=1e-5)
            assert F.cosine_similarity(mixed[b].flatten(), picture[b].flatten(), dim=0) == pytest.approx(1, abs=1e-5)


# --- token matching ---------------------------------------------------------------------------------------------------


def stretch(i, size, bins):
    """Indices of bin i of `bins` over `size` items: floor(i·size/bins) … ceil((i+1)·size/bins)."""
    return range(i * size // bins, -(-(i + 1) * size // bins))


@pytest.mark.parametrize(("tokens", "length"), [(64, 6), (16, 16), (4, 7), (9, 1), (64, 77)])
def test_pool_averages_stretches_of_the_raster_order(tokens, length):
    t = randn(2, tokens, 3)
    expected = torch.stack([t[:, list(stretch(i, tokens, length))].mean(1) for i in range(length)], dim=1)
    torch.testing.assert_close(pool(t, length), expected)


@pytest.mark.parametrize(("length", "rows", "columns"), [(6, 2, 3), (16, 4, 4), (7, 1, 7), (77, 7, 11), (12, 3, 4)])
def test_pool_2d_averages_the_most_square_grid_of_cells(length, rows, columns):
    side = 8
    t = randn(2, side * side, 3)
    cells = []
    for r in range(rows):
        for c in range(columns):
            members = [y * side + x for y in stretch(r, side, rows) for x in stretch(c, side, columns)]
            cells.append(t[:, members].mean(1))
    torch.testing.assert_close(pool_2d(t, length), torch.stack(cells, dim=1))


def test_pool_2d_of_an_oblong_picture_is_refused_in_one_sentence():
    with pytest.raises(ValueError, match="pool_2d needs a square picture") as error:
        pool_2d(randn(1, 12, 3), 6)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("match", MATCHES)
@pytest.mark.parametrize(("tokens", "length"), [(64, 6), (64, 7), (16, 77), (64, 64)])
def test_every_image_token_counts(match, tokens, length):
    t = randn(1, tokens, 2).requires_grad_()
    MATCHES[match](t, length).square().sum().backward()
    assert (t.grad.abs().sum(-1) > 0).all()


@pytest.mark.parametrize("match", MATCHES)
@pytest.mark.parametrize("kind", KINDS)
def test_prepare_is_idempotent_and_gives_the_matched_length(kind, match):
    synapse = synaptic(kind, match=match, image_tokens=5).synapse
    features = {layer: (randn(2, 64, s.image_width), randn(2, 64, s.image_width)) for layer, s in synapse.specs.items()}
    once = synapse.prepare(features, LENGTH)
    twice = synapse.prepare(once, LENGTH)
    assert list(once) == list(synapse.specs)
    for layer in once:
        for a, b in zip(once[layer], twice[layer], strict=True):
            assert a.shape[1] == (5 if kind in ("concat", "decoupled") else LENGTH) and torch.equal(a, b)


# --- the mask rule in the whole UNet ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MIXING)
def test_with_a_picture_the_text_mask_says_nothing_to_a_layer_with_a_synapse(kind):
    model, inputs = synaptic(kind, layers=["*"]), music_inputs()
    features, masks = random_features(model), text_masks()
    with torch.no_grad():
        outputs = [model(*inputs, mask, features, torch.ones(2)) for mask in (*masks.values(), empty_caption())]
    assert torch.equal(outputs[1], outputs[2]) and torch.equal(outputs[1], outputs[3])
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_picture_the_text_mask_holds(kind):
    model, (latents, timesteps, text) = synaptic(kind), music_inputs()
    features, mask = random_features(model), text_masks()["partial"]
    other = torch.where(mask[..., None], text, randn(*text.shape, seed=50))

    def run(t, m, has):
        return model(latents, timesteps, t, m, features, torch.full((2,), has))

    with torch.no_grad():
        assert torch.equal(run(text, mask, 0.0), run(other, mask, 0.0))
        assert not torch.allclose(run(text, None, 0.0), run(other, None, 0.0), atol=1e-4)
        hidden_text_speaks = not torch.allclose(run(text, mask, 1.0), run(other, mask, 1.0), atol=1e-4)
    assert hidden_text_speaks == (kind in MIXING)  # the others add tokens: the caption's own mask stays as it is


@pytest.mark.parametrize("match", MATCHES)
@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_caption_hides_no_token_of_the_picture(kind, match):
    model = synaptic(kind, match=match, image_tokens=5)
    features = {k: tuple(t.requires_grad_() for t in pair) for k, pair in random_features(model, tokens=64).items()}
    model(*music_inputs(), empty_caption(), features, torch.ones(2)).square().sum().backward()
    for layer, pair in features.items():
        for name, t in zip(("key", "value"), pair, strict=True):
            if kind == "context_mix" and name == "key":  # which reads the values alone
                continue
            assert (t.grad.abs().amax(-1) > 0).all(), f"{layer}: tokens that the {name}s of the music never see"


# --- layer choice -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sd():
    """Stable Diffusion's block structure and widths, without memory."""
    with torch.device("meta"):
        return UNet2DConditionModel(block_out_channels=(320, 640, 1280, 1280), cross_attention_dim=768)


@pytest.fixture(scope="module")
def tango():
    """The published music UNet: as Stable Diffusion, but other heads."""
    with torch.device("meta"):
        return UNet2DConditionModel(
            block_out_channels=(320, 640, 1280, 1280),
            cross_attention_dim=1024,
            in_channels=8,
            out_channels=8,
            attention_head_dim=(5, 10, 20, 20),
        )


def names_of(side, blocks, per_block):
    return [f"{side}_blocks.{b}.attentions.{a}.transformer_blocks.0" for b in blocks for a in range(per_block)]


DECODER, ENCODER = names_of("up", (1, 2, 3), 3), names_of("down", (0, 1, 2), 2)
MID = ["mid_block.attentions.0.transformer_blocks.0"]


def test_block_names_count_only_blocks_with_cross_attention(sd):
    layers = attention_layers(sd)
    assert layers == ENCODER + MID + DECODER
    expected = [f"encoder{b + 1}" for b in range(3) for _ in range(2)] + ["mid"]
    expected += [f"decoder{b + 1}" for b in range(3) for _ in range(3)]
    assert [block_names(layers)[layer] for layer in layers] == expected


@pytest.mark.parametrize(
    ("patterns", "chosen"),
    [
        (["decoder"], DECODER),
        (["encoder"], ENCODER),
        (["both"], ENCODER + DECODER),
        (["mid"], MID),
        (["decoder1"], DECODER[:3]),
        (["decoder2", "decoder1"], DECODER[:6]),
        (["encoder3"], ENCODER[4:]),
        (["up_blocks.3.*"], DECODER[6:]),
        (["*.attentions.0.*"], [ENCODER[0], ENCODER[2], ENCODER[4], *MID, DECODER[0], DECODER[3], DECODER[6]]),
        ([DECODER[4]], DECODER[4:5]),
        (["decoder", "up_blocks.1.*"], DECODER),
        (["*"], ENCODER + MID + DECODER),
    ],
)
def test_layers_are_chosen_by_side_block_name_or_glob(sd, patterns, chosen):
    assert [attention_layers(sd)[i] for i in choose(unet_sites(sd), patterns)] == chosen


@pytest.mark.parametrize("pattern", ["decoder4", "up_blocks.0.*", "decoders", ""])
def test_a_pattern_that_matches_nothing_is_one_sentence(sd, pattern):
    with pytest.raises(ValueError, match="matches none of the layers") as error:
        choose(unet_sites(sd), ["decoder", pattern])
    assert repr(pattern) in str(error.value) and "\n" not in str(error.value)


def test_specs_take_widths_from_both_unets_and_heads_from_the_music(sd, tango):
    specs = layer_specs(unet_sites(tango), encoder_of(sd), ["decoder"])
    assert [s.name for s in specs] == DECODER
    assert [s.block for s in specs] == ["decoder1"] * 3 + ["decoder2"] * 3 + ["decoder3"] * 3
    assert [(s.width, s.image_width, s.heads) for s in specs[::3]] == [(1280, 1280, 20), (640, 640, 10), (320, 320, 5)]


def test_a_layer_that_the_image_unet_lacks_is_one_sentence(sd):
    with torch.device("meta"):
        shallow = UNet2DConditionModel(
            block_out_channels=(320, 640),
            cross_attention_dim=768,
            down_block_types=["CrossAttnDownBlock2D"] * 2,
            up_block_types=["CrossAttnUpBlock2D"] * 2,
        )
    with pytest.raises(ValueError, match="which the image UNet does not have") as error:
        layer_specs(unet_sites(sd), encoder_of(shallow), ["decoder"])
    assert DECODER[6] not in str(error.value).split("which")[0] and "\n" not in str(error.value)


def test_kv_mix_refuses_unequal_widths_and_names_the_way_out(tango):
    with torch.device("meta"):
        narrow = UNet2DConditionModel(block_out_channels=(160, 320, 640, 640), cross_attention_dim=768)
    specs = layer_specs(unet_sites(tango), encoder_of(narrow), ["decoder"])
    with pytest.raises(ValueError, match=f"{DECODER[0]} has 1280 .* and 640 .*use kv_mix_proj") as error:
        SYNAPSES["kv_mix"](specs)
    assert "\n" not in str(error.value)


def test_kv_mix_proj_accepts_unequal_widths():
    model = synaptic("kv_mix_proj", image_widths=(4, 12))
    with torch.no_grad():
        assert model(*music_inputs(), None, random_features(model), torch.ones(2)).shape == (2, 4, 16, 4)


# --- α ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "count"), [("all", 1), ("block", 3), ("layer", 9), ("head", 3 * (20 + 10 + 5))])
def test_alpha_is_shared_as_asked(sd, tango, share, count):
    synapse = SYNAPSES["kv_mix"](layer_specs(unet_sites(tango), encoder_of(sd), ["decoder"]), alpha_share=share, alpha_init=0.25)
    assert sum(p.numel() for p in synapse.parameters()) == count  # and kv_mix has no other parameters
    assert all((p == 0.25).all() for p in synapse.parameters())
    same = synapse.alpha(DECODER[0]) is synapse.alpha(DECODER[1])
    assert same == (share in ("all", "block"))
    assert (synapse.alpha(DECODER[0]) is synapse.alpha(DECODER[8])) == (share == "all")
    assert synapse.alpha(DECODER[3]).shape == ((640,) if share == "head" else ())


@pytest.mark.parametrize("value", [-0.5, 0.0, 1.7])
def test_alpha_is_the_raw_weight_without_squashing(value):
    synapse = one_layer(alpha_init=value)
    key, image = randn(1, 2, 16, seed=1), randn(1, 2, 16, seed=2)
    mixed, _, _ = synapse.mix(LAYER, key, key, None, (image, image), torch.ones(1))
    torch.testing.assert_close(mixed, value * image + (1 - value) * key)


def test_concat_and_none_have_no_alpha():
    assert not synaptic("concat").alpha_parameters()
    assert not list(synaptic("none").synapse.parameters())
