"""The share of attention that the picture's tokens get, against the softmax written out."""

import math

import pytest
import torch
from test_backbones import LENGTH, build, forward

SHARED = [(name, kind) for name in ("audioldm2", "stable_audio", "ace_step") for kind in ("concat", "language_of_audio")]


@pytest.fixture
def written_out(monkeypatch):
    """Shares (B,) of tokens after the words, of each attention that has such, in the order of its calls."""
    found, inner = [], torch.nn.functional.scaled_dot_product_attention

    def attend(query, key, value, attn_mask=None, **more):
        if attn_mask is not None and key.shape[2] > LENGTH and key.shape[2] != query.shape[2] > 1:  # not GPT-2's own
            heads = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
            weights = (query @ heads.mT / math.sqrt(query.shape[-1]) + attn_mask).softmax(-1)
            found.append(weights[..., LENGTH:].sum(-1).mean((1, 2)))
        return inner(query, key, value, attn_mask=attn_mask, **more)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attend)
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
    wanted = written_out[::2]  # each layer attends twice, to measure and as ever
    for share, right in zip(shares.values(), wanted, strict=True):
        torch.testing.assert_close(share, right, rtol=1e-4, atol=1e-6)
        assert ((share > 0) & (share < 1)).all()
    with model.measuring_attention() as shares:
        forward(model, name, (1.0, 0.0))
    assert all(share[0] > 0 and share[1] == 0 for share in shares.values()) or kind == "language_of_audio"


@pytest.mark.parametrize(("name", "kind"), [("ace_step", "kv_mix_proj"), ("ace_step", "decoupled"), ("stable_audio_3", "concat")])
@torch.no_grad()
def test_without_tokens_beside_the_words_in_one_softmax_there_is_none(tiny, name, kind):
    model = build(tiny, name, kind).eval()
    with model.measuring_attention() as shares:
        forward(model, name)
    assert shares == {}
