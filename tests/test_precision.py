"""What a run computes in."""

import torch
import torch.nn.functional as F

import melfusion.precision  # noqa: F401  it tells autocast
from melfusion.synapse import attention


def test_attention_is_fp32_under_autocast_on_a_cpu():
    q, k, v = torch.randn(3, 2, 4, 64, 8).mul(4).unbind()
    mask = torch.randn(2, 1, 1, 64)
    wanted = F.scaled_dot_product_attention(q, k, v, mask)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(F.scaled_dot_product_attention(q, k, v, attn_mask=mask), wanted)
        halves = [t.bfloat16() for t in (q, k, v)]
        seen = F.scaled_dot_product_attention(*halves, attn_mask=mask.bfloat16())
    assert seen.dtype == torch.bfloat16
    assert torch.equal(
        seen, F.scaled_dot_product_attention(*(t.float() for t in halves), mask.bfloat16().float()).bfloat16()
    )
    assert not torch.equal(
        seen, F.scaled_dot_product_attention(*halves, attn_mask=mask.bfloat16())
    )  # as it is without autocast


def test_its_gradient_and_bool_masks_pass_through_autocast():
    q, k, v = (t.requires_grad_() for t in torch.randn(3, 2, 10, 16).unbind())
    with torch.autocast("cpu", torch.bfloat16):
        out = attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), None, heads=2)
        F.scaled_dot_product_attention(q, k, v, torch.ones(10, 10, dtype=torch.bool), is_causal=False)
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert all(t.grad.isfinite().all() for t in (k, v)) and v.grad.abs().sum() > 0
