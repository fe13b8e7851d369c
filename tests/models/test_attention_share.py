"""The attention that each of the picture's tokens gets, against the softmax written out."""

import math

import pytest
import torch
from test_backbones import IMAGE_WIDTH, LENGTH, build, forward

from melfusion.models.synapse import concat

SHARED = [(name, kind) for name in ("audioldm2", "stable_audio", "ace_step") for kind in ("concat", "language_of_audio")]


@pytest.fixture
def written_out(monkeypatch):
    """Shares (B, M) of tokens after the words, of each attention that has such, in the order of its calls."""
    found, inner = [], torch.nn.functional.scaled_dot_product_attention

    def attend(query, key, value, attn_mask=None, **more):
        if attn_mask is not None and key.shape[2] > LENGTH and key.shape[2] != query.shape[2] > 1:  # not GPT-2's own
            heads = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
            weights = (query @ heads.mT / math.sqrt(query.shape[-1]) + attn_mask).softmax(-1)
            found.append(weights[..., LENGTH:].mean((1, 2)))
        return inner(query, key, value, attn_mask=attn_mask, **more)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attend)
    return found


def of_layers(model, calls):
    """One call of each layer: it attends as ever, and to measure, as many tokens at once as a head has channels."""
    found = []
    for spec in model.synapse.specs.values():
        tokens = 8 if model.synapse.keeps_tokens else model.synapse.WRITTEN
        found.append(calls[0])
        calls = calls[math.ceil(tokens / (spec.width // spec.heads)) + 1 :]
    assert not calls
    return found


@pytest.mark.parametrize(("name", "kind"), SHARED)
@torch.no_grad()
def test_it_is_what_the_processor_computes(tiny, written_out, name, kind):
    model = build(tiny, name, kind).eval()
    plain = forward(model, name)
    written_out.clear()
    with model.measuring_attention() as shares:
        assert torch.equal(forward(model, name), plain)  # measuring changes nothing
    assert list(shares) == list(model.synapse.specs)
    for share, right in zip(shares.values(), of_layers(model, written_out), strict=True):
        torch.testing.assert_close(share, right, rtol=1e-4, atol=1e-6)
        assert ((share > 0) & (share < 1)).all() and (share.sum(1) < 1).all()
    with model.measuring_attention() as shares:
        forward(model, name, (1.0, 0.0))
    assert all((share[0] > 0).all() and (share[1] == 0).all() for share in shares.values()) or kind == "language_of_audio"


@pytest.mark.parametrize("share", ["layer", "head"])
@pytest.mark.parametrize("name", ["audioldm2", "ace_step"])
@torch.no_grad()
def test_an_attention_of_the_picture_s_own_counts_as_much_as_its_gate_lets_through(tiny, monkeypatch, name, share):
    model = build(tiny, name, "decoupled", f"synapse.alpha_share={share}").eval()
    for i, alpha in enumerate(model.alphas().values()):
        alpha.fill_(-0.1 * (i + 1)) if share == "layer" else alpha.copy_(-0.1 * (1 + torch.arange(len(alpha))))
    found, inner = [], concat.attention

    def attend(query, key, value, heads):
        width = query.shape[2] // heads
        q, k = (t.unflatten(2, (-1, width)).transpose(1, 2) for t in (query, key))
        weights = (q @ k.repeat_interleave(heads // k.shape[1], 1).mT / math.sqrt(width)).softmax(-1)  # (B, heads, T, M)
        found.append((weights, heads // k.shape[1]))
        return inner(query, key, value, heads)

    plain = forward(model, name)
    monkeypatch.setattr(concat, "attention", attend)
    with model.measuring_attention() as shares:
        assert torch.equal(forward(model, name), plain)
    assert list(shares) == list(model.synapse.specs)
    for (layer, seen), (weights, shared) in zip(shares.items(), of_layers(model, found), strict=True):
        gate = model.alphas()[model.synapse.group(model.synapse.specs[layer])].abs().expand(weights.shape[1] // shared)
        right = (weights * gate.repeat_interleave(shared)[:, None, None]).mean((1, 2))
        torch.testing.assert_close(seen, right, rtol=1e-4, atol=1e-6)
    with model.measuring_attention() as shares:
        forward(model, name, (1.0, 0.0))
    assert all((seen[1] == 0).all() for seen in shares.values())


@pytest.mark.parametrize(("name", "kind"), [("ace_step", "kv_mix_proj"), ("stable_audio_3", "concat")])
@torch.no_grad()
def test_without_tokens_of_the_picture_in_one_softmax_there_is_none(tiny, name, kind):
    model = build(tiny, name, kind).eval()
    with model.measuring_attention() as shares:
        forward(model, name)
    assert shares == {} and not model.keeps_tokens


@pytest.mark.parametrize(("kind", "keeps"), [("concat", True), ("decoupled", True), ("language_of_audio", False), ("none", False)])
def test_a_kind_says_whether_its_tokens_are_places_of_the_picture(tiny, kind, keeps):
    assert build(tiny, "ace_step", kind).keeps_tokens is keeps


@pytest.mark.parametrize(("match", "own"), [("pool", [4, 5, 6, 7]), ("pool_2d", [2, 3, 6, 7])])
def test_attention_to_pooled_tokens_is_divided_among_those_they_are_made_of(tiny, match, own):
    """16 tokens of the encoder, 4 by 4, become four: the second of them is the second row, or the upper right quarter."""
    synapse = build(tiny, "ace_step", "concat", "synapse.image_tokens=4", f"synapse.match={match}").synapse
    features = dict.fromkeys(synapse.specs, (torch.zeros(1, 16, IMAGE_WIDTH),) * 2)
    attended = dict.fromkeys(synapse.specs, torch.tensor([[0.0, 0.4, 0.0, 0.0]]))
    for share in synapse.over_picture(attended, features).values():
        assert share[0].nonzero().flatten().tolist() == own and share.sum() == pytest.approx(0.4)
