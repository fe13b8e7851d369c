"""Operations that are counted as they run, and the machine's peak."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from melfusion.assembly.peak import Flops, quick_peak


def step(seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Conv1d(3, 8, 3, padding=1), nn.Flatten(1), nn.Linear(80, 40))
        x, q, k = torch.randn(2, 3, 10), torch.randn(2, 2, 5, 4, requires_grad=True), torch.randn(2, 2, 7, 4)
    (network(x).square().sum() + F.scaled_dot_product_attention(q, k, k).sum()).backward()
    return [p.grad for p in network.parameters()] + [q.grad]


def test_forward_and_backward_are_counted_and_nothing_changes():
    plain, state = step(1), torch.get_rng_state()
    with Flops() as flops:
        counted = step(1)
    assert all(torch.equal(a, b) for a, b in zip(plain, counted, strict=True))
    convolution, linear, product = 2 * 2 * 10 * 8 * 3 * 3, 2 * 2 * 80 * 40, 2 * 2 * 2 * 5 * 7 * 4
    # the first layer has no gradient of its input; attention multiplies twice forward and five times backward
    assert flops.total == 2 * convolution + 3 * linear + 7 * product
    quick_peak("32-true")
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_peak_is_of_this_machine(precision):
    assert 1e8 < quick_peak(precision, 0.01) < 1e16
