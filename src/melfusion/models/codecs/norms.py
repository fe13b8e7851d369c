"""Group norms in windows: each gets the statistics of the whole clip, so that the windows are equal to it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from melfusion.models.codecs.chunks import Span, WindowSpan, window_spans, windowed

Statistics = tuple[Tensor, Tensor]  # mean and variance (B, G) of each group of channels


def windowed_with_norms(
    modules: list[Any], run: Callable[[Tensor], Tensor], x: Tensor, window: int, overlap: int, frame: Span
) -> Tensor:
    """`windowed(run, x, …)` along time, the axis 2, of a network with group norms; equal to the whole.

    The statistics of a norm depend on all norms before it. So each has a pass over the windows of its own, up to itself, in which
    they are summed. N norms take about N / 2 times the work, and the memory of one window.

    Args:
        modules: hold the norms that `run` calls, each of them once.
    """
    frames = x.shape[2] // frame[0]
    if frames <= window:
        return run(x)
    spans, known = window_spans(frames, window, overlap), dict[nn.GroupNorm, Statistics]()
    norms = [norm for module in modules for norm in module.modules() if isinstance(norm, nn.GroupNorm)]
    with given(norms, known):
        for _ in norms:
            norm, statistics = next_norm(norms, known, run, x, spans, frame[0])
            known[norm] = statistics
        return windowed(run, x, window, overlap, frame, 2)


@contextlib.contextmanager
def hooked(norms: list[nn.GroupNorm], hook: Callable[..., Any]) -> Iterator[None]:
    """Within it these norms give what the hook makes of (norm, inputs, output)."""
    with contextlib.ExitStack() as stack:
        for norm in norms:
            stack.callback(norm.register_forward_hook(hook).remove)
        yield


def given(norms: list[nn.GroupNorm], known: dict[nn.GroupNorm, Statistics]) -> contextlib.AbstractContextManager[None]:
    """Within it the norms that are known have these statistics in place of their input's own."""

    def normalise(norm: nn.GroupNorm, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        if norm not in known:
            return output
        mean, variance = (t.repeat_interleave(norm.num_channels // norm.num_groups, 1) for t in known[norm])
        gain = (variance + norm.eps).rsqrt() * norm.weight
        gain, shift = (t.to(output)[..., None, None] for t in (gain, norm.bias - mean * gain))
        return torch.addcmul(shift, inputs[0].to(output), gain)

    return hooked(norms, normalise)


class Reached(Exception):
    """A window has come to the norm that was asked for; nothing behind it is needed."""


def next_norm(
    norms: list[nn.GroupNorm],
    known: dict[nn.GroupNorm, Statistics],
    run: Callable[[Tensor], Tensor],
    x: Tensor,
    spans: list[WindowSpan],
    taken: int,
) -> tuple[nn.GroupNorm, Statistics]:
    """The first norm in forward order that is not known, and its statistics over all windows, each without its overlaps."""
    found: list[tuple[nn.GroupNorm, Tensor]] = []  # sums and sums of squares (2, B, G) of each window
    count, span = 0, spans[0]

    def gather(norm: nn.GroupNorm, inputs: tuple[Tensor], output: Tensor) -> None:
        nonlocal count
        if norm in known:
            return
        rate = inputs[0].shape[2] // (span.last - span.first)  # places of a latent frame there
        core = inputs[0].narrow(2, (span.start - span.first) * rate, (span.stop - span.start) * rate)
        rows = core.float().unflatten(1, (norm.num_groups, -1)).flatten(2)
        count += rows.shape[2]
        found.append((norm, torch.stack([rows.sum(2, dtype=torch.float64), rows.square().sum(2, dtype=torch.float64)])))
        raise Reached

    with hooked(norms, gather):
        for span in spans:
            with contextlib.suppress(Reached):
                run(x.narrow(2, span.first * taken, (span.last - span.first) * taken))
    mean, square = torch.stack([sums for _, sums in found]).sum(0) / count
    return found[0][0], (mean, square - mean.square())
