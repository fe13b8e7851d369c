"""What "frozen" means: eval, no gradients, absent from a parent's checkpoint, named by digest."""

import copy

import pytest
import torch
from torch import nn

from melfusion.models.frozen import digest, freeze


class Part(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.conv, self.norm = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)
            self.drop, self.inner = nn.Dropout(0.5), nn.Sequential(nn.Linear(4, 3))
        self.register_buffer("table", torch.arange(5.0))
        self.register_buffer("scratch", torch.zeros(3), persistent=False)

    def forward(self, x):
        return self.inner(self.drop(self.norm(self.conv(x)).mean((2, 3))))


class Parent(nn.Module):
    def __init__(self, part):
        super().__init__()
        self.part, self.head = part, nn.Linear(3, 2)

    def forward(self, x):
        return self.head(self.part(x))


IMAGE = torch.linspace(-1, 1, 2 * 2 * 6 * 6).reshape(2, 2, 6, 6)


def test_freeze_works_in_place_and_returns_the_module():
    part = Part()
    assert freeze(part) is part


def test_a_frozen_part_stays_in_eval_mode_whatever_its_parent_does():
    part = freeze(Part())
    parent = Parent(part)
    for mode in (True, False, True):
        parent.train(mode)
        assert not any(m.training for m in part.modules()) and parent.head.training == mode
    assert part.train() is part and not part.training


def test_training_the_parent_leaves_a_frozen_part_as_it_is():
    parent = Parent(freeze(Part())).train()
    before = digest(parent.part)
    optimizer = torch.optim.SGD([p for p in parent.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        parent(IMAGE).square().sum().backward()
        optimizer.step()
    assert digest(parent.part) == before  # batch statistics included
    assert all(p.grad is None and not p.requires_grad for p in parent.part.parameters())
    assert {id(p) for p in parent.head.parameters()} == {id(p) for p in optimizer.param_groups[0]["params"]}


def test_gradients_flow_through_a_frozen_part_to_its_input():
    image = IMAGE.clone().requires_grad_()
    freeze(Part())(image).sum().backward()
    assert image.grad.abs().sum() > 0


def test_a_parents_state_dict_holds_nothing_of_a_frozen_part():
    parent = Parent(freeze(Part()))
    assert set(parent.state_dict()) == {"head.weight", "head.bias"}
    assert set(nn.ModuleList([parent]).state_dict()) == {"0.head.weight", "0.head.bias"}


def test_a_parent_loads_strictly_without_the_frozen_weights():
    saved, parent = Parent(freeze(Part(1))).state_dict(), Parent(freeze(Part(2)))
    before = digest(parent.part)
    result = parent.load_state_dict(saved, strict=True)
    assert not result.missing_keys and not result.unexpected_keys
    assert torch.equal(parent.head.weight, saved["head.weight"]) and digest(parent.part) == before
    assert set(saved) == {"head.weight", "head.bias"}  # what was handed over is not changed


def test_a_parent_still_refuses_what_it_does_not_know_and_misses_what_it_lacks():
    parent = Parent(freeze(Part()))
    saved = parent.state_dict()
    with pytest.raises(RuntimeError, match="Unexpected key.*stranger"):
        parent.load_state_dict(saved | {"stranger": torch.zeros(1)}, strict=True)
    with pytest.raises(RuntimeError, match="Missing key.*head.bias"):
        parent.load_state_dict({"head.weight": saved["head.weight"]}, strict=True)


def test_weights_of_a_frozen_part_in_a_parents_checkpoint_do_not_overwrite_it():
    parent, before = Parent(freeze(Part(1))), digest(freeze(Part(1)))
    parent.load_state_dict(Parent(Part(2)).state_dict(), strict=True)
    assert digest(parent.part) == before


def test_a_frozen_part_has_and_loads_its_own_state_dict():
    part, other = freeze(Part(1)), Part(2)
    assert set(part.state_dict()) == set(other.state_dict())
    part.load_state_dict(other.state_dict(), strict=True)
    assert digest(part) == digest(other)
    with pytest.raises(RuntimeError, match="Missing key"):
        part.load_state_dict({}, strict=True)


def test_a_deep_copy_is_frozen_too_and_independent():
    parent = Parent(freeze(Part()))
    twin = copy.deepcopy(parent).train()
    assert not any(m.training for m in twin.part.modules())
    assert set(twin.state_dict()) == {"head.weight", "head.bias"}
    twin.load_state_dict(parent.state_dict(), strict=True)
    with torch.no_grad():
        twin.part.conv.weight.add_(1)
    twin.load_state_dict(parent.state_dict(), strict=True)  # must not bring the original's weights either
    assert digest(twin.part) != digest(parent.part)


def test_a_deep_copys_train_returns_the_copy():
    twin = copy.deepcopy(freeze(Part()))
    assert twin.train() is twin


# --- digest -----------------------------------------------------------------------------------------------------------


def test_digest_is_a_sha256_that_equal_weights_share():
    assert digest(Part()) == digest(Part()) == digest(freeze(Part())) and len(digest(Part())) == 64
    int(digest(Part()), 16)


@pytest.mark.parametrize("name", Part().state_dict())
def test_digest_changes_with_any_single_number(name):
    part = Part()
    before = digest(part)
    with torch.no_grad():
        flat = part.state_dict()[name].view(-1)
        flat[-1] = flat[-1] + 1 if not flat.is_floating_point() else torch.nextafter(flat[-1], torch.tensor(9e9))
    assert digest(part) != before


def test_digest_changes_with_names_shapes_and_dtypes():
    def of(**tensors):
        module = nn.Module()
        for name, tensor in tensors.items():
            module.register_buffer(name, tensor)
        return digest(module)

    zeros = torch.zeros(6)
    variants = [
        of(a=zeros),
        of(b=zeros),
        of(a=zeros.view(2, 3)),
        of(a=zeros.view(3, 2)),
        of(a=zeros.half()),
        of(a=zeros.int()),
        of(a=zeros[:3], b=zeros[3:]),
        of(a=zeros[0]),
        of(a=zeros[:0]),
        of(),
    ]
    assert len(set(variants)) == len(variants)


def test_digest_is_blind_to_memory_layout_order_mode_and_scratch_buffers():
    part = Part()
    before = digest(part)
    assert digest(copy.deepcopy(part).to(memory_format=torch.channels_last)) == before
    reordered = Part()
    reordered._modules = dict(reversed(reordered._modules.items()))
    assert list(reordered.state_dict()) != list(part.state_dict()) and digest(reordered) == before
    part.scratch.add_(1)
    assert digest(part.eval().requires_grad_(False)) == before


def test_digest_takes_any_dtype_and_does_not_need_gradients_off():
    module = nn.Module()
    module.half, module.scalar = nn.Linear(2, 2, dtype=torch.bfloat16), nn.Parameter(torch.tensor(0.5))
    before = digest(module)
    with torch.no_grad():
        module.scalar.add_(0.5)
    assert digest(module) != before
