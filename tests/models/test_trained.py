"""AdamW's groups, the learning rate over the steps, clipping with its norm logged."""

import math

import pytest
import torch
from synapse_fixtures import synaptic
from torch import nn

from melfusion.models.options import OptimConfig
from melfusion.models.trained import LearningRate, TrainedModule, configure_optimizer


def configured(groups, max_steps=None, **optim):
    made = configure_optimizer(groups, OptimConfig(**optim), max_steps)
    return made["optimizer"], made["lr_scheduler"]


def network():
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Conv1d(4, 2, 3))


def members(optimizer):
    """[(weight decay, initial learning rate, ids of the parameters)] of the groups."""
    return [(g["weight_decay"], g["initial_lr"], {id(p) for p in g["params"]}) for g in optimizer.param_groups]


def test_biases_and_norms_get_no_weight_decay():
    net = network()
    optimizer, _ = configured([{"params": net.parameters()}], lr=0.1, weight_decay=0.3)
    decayed = {id(net[0].weight), id(net[2].weight)}
    assert members(optimizer) == [(0.3, 0.1, decayed), (0.0, 0.1, {id(p) for p in net.parameters()} - decayed)]


def test_parameters_that_do_not_train_and_empty_groups_are_left_out():
    net = network()
    net[0].requires_grad_(False)
    optimizer, _ = configured([{"params": net.parameters()}, {"params": []}])
    held = {id(p) for g in optimizer.param_groups for p in g["params"]}
    assert held == {id(p) for p in net.parameters() if p.requires_grad} and len(optimizer.param_groups) == 2


@pytest.mark.parametrize("share", ["block", "head"])
def test_alpha_has_a_group_of_its_own_with_an_absolute_rate_and_no_decay(share):
    model = synaptic("kv_mix_proj", alpha_share=share)
    groups = [{"params": model.other_parameters()}, {"params": model.alpha_parameters(), "lr": 1e-5, "weight_decay": 0.0}]
    optimizer, _ = configured(groups, lr=3e-4, weight_decay=0.5)
    alphas = {id(p) for p in model.alpha_parameters()}
    (group,) = [g for g in members(optimizer) if g[2] & alphas]
    assert group == (0.0, 1e-5, alphas)
    assert all(lr == 3e-4 for _, lr, ids in members(optimizer) if not ids & alphas)
    assert {id(p) for p in model.parameters()} == set.union(*(ids for _, _, ids in members(optimizer)))


def test_weight_decay_shrinks_matrices_only():
    net = network()
    optimizer, _ = configured([{"params": net.parameters()}], lr=0.1, weight_decay=0.5, warmup_steps=0)
    before = [p.clone() for p in net.parameters()]
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for old, new in zip(before, net.parameters(), strict=True):
        torch.testing.assert_close(new, old * (1 - 0.1 * 0.5) if new.ndim >= 2 else old)


def rates(steps, max_steps=None, **optim):
    """Learning rates of the two groups, in the order the optimizer uses them."""
    a, b = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(2, 2))
    optimizer, schedule = configured([{"params": [a]}, {"params": [b], "lr": 0.01}], max_steps, lr=1.0, **optim)
    assert schedule["interval"] == "step"
    seen = []
    for _ in range(steps):
        seen.append(tuple(g["lr"] for g in optimizer.param_groups))
        optimizer.step()
        schedule["scheduler"].step()
    return seen


def test_warm_up_is_linear_for_every_group_and_then_constant():
    seen = rates(8, warmup_steps=4)
    assert [r for r, _ in seen] == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 1, 1])
    assert [r for _, r in seen] == pytest.approx([0.01 * r for r, _ in seen])


@pytest.mark.parametrize("warmup", [0, 1])
def test_without_warm_up_the_first_step_is_full(warmup):
    assert rates(3, warmup_steps=warmup) == [(1.0, 0.01)] * 3


def test_cosine_falls_to_zero_at_the_last_step():
    factor = LearningRate(OptimConfig(warmup_steps=4, schedule="cosine"), max_steps=20)
    assert [factor(s) for s in range(4)] == pytest.approx([0.25, 0.5, 0.75, 1])
    for step in range(4, 21):
        assert factor(step) == pytest.approx((1 + math.cos(math.pi * (step - 4) / 16)) / 2)
    assert factor(20) == pytest.approx(0, abs=1e-12) and factor(99) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("max_steps", [None, 2, 4])
def test_cosine_with_few_or_unknown_steps_stays_within_bounds(max_steps):
    factor = LearningRate(OptimConfig(warmup_steps=4, schedule="cosine"), max_steps)
    assert all(0 <= factor(s) <= 1 for s in range(10))


class Toy(TrainedModule):
    def __init__(self, **optim):
        super().__init__()
        self.net, self.spare, self.optim = network(), nn.Parameter(torch.zeros(3)), OptimConfig(**optim)
        self.logged = {}

    def parameter_groups(self):
        return [{"params": self.net.parameters()}, {"params": [self.spare], "lr": 0.5}]

    def log(self, name, value, **kwargs):
        self.logged[name] = float(value)


def clipped(**optim):
    """(norm before, gradients after, what was logged) of a toy whose gradients are all 3 and whose `spare` has none."""
    toy = Toy(**optim)
    optimizer = toy.configure_optimizers()["optimizer"]
    for p in toy.net.parameters():
        p.grad = torch.full_like(p, 3.0)
    count = sum(p.numel() for p in toy.net.parameters())
    toy.configure_gradient_clipping(optimizer, gradient_clip_val=None, gradient_clip_algorithm=None)
    return 3 * count**0.5, [p.grad for p in toy.net.parameters()], toy.logged


def norm_of(grads):
    return torch.cat([g.flatten() for g in grads]).norm().item()


def test_gradients_are_clipped_and_the_norm_before_is_logged():
    norm, grads, logged = clipped(grad_clip_norm=2.0)
    assert norm_of(grads) == pytest.approx(2, rel=1e-4)
    assert logged == {"train/grad_norm": pytest.approx(norm, rel=1e-5)}


@pytest.mark.parametrize("limit", [0.0, 1e9])
def test_no_limit_or_a_high_one_leaves_gradients_but_logs_the_norm(limit):
    norm, grads, logged = clipped(grad_clip_norm=limit)
    assert all((g == 3).all() for g in grads)
    assert logged == {"train/grad_norm": pytest.approx(norm, rel=1e-5)}


def test_the_optimizer_of_a_module_follows_its_config():
    toy = Toy(lr=0.2, weight_decay=0.1, betas=[0.8, 0.95], warmup_steps=0)
    optimizer = toy.configure_optimizers()["optimizer"]
    assert isinstance(optimizer, torch.optim.AdamW)
    assert [(g["lr"], g["weight_decay"], g["betas"]) for g in optimizer.param_groups] == [
        (0.2, 0.1, (0.8, 0.95)),
        (0.2, 0.0, (0.8, 0.95)),
        (0.5, 0.0, (0.8, 0.95)),
    ]
