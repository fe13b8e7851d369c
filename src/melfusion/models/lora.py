"""LoRA (Hu et al. 2021, arXiv 2106.09685) in the linear layers of a backbone, through peft.

The backbone keeps its stock keys: what peft names `x.base_layer.weight` is `x.weight` in the state dict that the backbone gives
and takes.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from melfusion.errors import ConfigError

BASE = ".base_layer."  # peft's name for what it wraps


def add_lora(network: nn.Module, patterns: list[str], rank: int) -> None:
    """Put a LoRA of that rank beside each linear layer that a pattern names; nothing else of the network trains from then on.

    It starts as no change. Its scale is 1: the learning rate says how far it goes. ConfigError where peft is missing or a
    pattern names no layer.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ConfigError(
            f"denoiser.lora_rank={rank} needs packages: run `pip install 'melfusion[adapter]'`, or give denoiser.lora_rank=0."
        ) from error
    chosen = "|".join(re.escape(name) for name in linear_layers(network, patterns))
    with torch.random.fork_rng(devices=[]):  # the parts that are built after it draw the same numbers as ever
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=chosen), network)
    network.register_state_dict_post_hook(_to_stock)
    network.register_load_state_dict_pre_hook(_from_stock)


def linear_layers(network: nn.Module, patterns: list[str]) -> list[str]:
    """Names of the linear layers that globs choose."""
    known = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise ConfigError(
                f"denoiser.lora_targets: {pattern!r} names none of the {len(known)} linear layers of this backbone, such as "
                f"{known[-1]}."
            )
    return [name for name in known if any(fnmatchcase(name, pattern) for pattern in patterns)]


def stock_name(name: str) -> str:
    """The name of a parameter in the stock network."""
    return name.replace(BASE, ".")


@contextlib.contextmanager
def merged(network: nn.Module) -> Iterator[None]:
    """Within it, the stock weights hold what the LoRA has learned, and the state dict has no other names."""
    layers = _adapted(network).values()
    kept = [layer.base_layer.weight.detach().clone() for layer in layers]  # to take it out again would leave rounding
    try:
        for layer in layers:
            layer.merge()
        yield
    finally:
        for layer, weight in zip(layers, kept, strict=True):
            if layer.merged:
                layer.unmerge()
            layer.base_layer.weight.data.copy_(weight)


def _adapted(network: nn.Module) -> dict[str, Any]:
    return {name: module for name, module in network.named_modules() if hasattr(module, "base_layer")}


def _to_stock(network: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    for name, layer in _adapted(network).items():
        for key in [key for key in state if key.startswith(f"{prefix}{name}.")]:
            tensor = state.pop(key)
            if BASE in key or not layer.merged:
                state[stock_name(key)] = tensor


def _from_stock(network: nn.Module, state: dict[str, Any], prefix: str, *args: Any) -> None:
    for name, layer in _adapted(network).items():
        for own, _ in layer.base_layer.named_parameters():
            if (stock := f"{prefix}{name}.{own}") in state:
                state[f"{prefix}{name}{BASE}{own}"] = state.pop(stock)
