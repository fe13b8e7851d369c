"""Long clips piece by piece: how far a network sees, and its result from overlapping windows, equal to that of the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from torch import Tensor, nn

from melfusion.errors import ConfigError
from melfusion.media.fading import crossfade

Span = tuple[int, int]  # first and last index

Sees = Callable[[Span], Span]  # places of a layer's output → the places of its input that they depend on


def reach(layers: Iterable[Sees], output: Span, frame: int) -> int:
    """Latent frames to each side that one latent frame of the result depends on.

    Args:
        layers: in forward order.  output: one latent frame, in places of the result.  frame: places of a latent frame in the input.
    """
    span = output
    for sees in reversed(list(layers)):
        span = sees(span)
    first, last = span
    return max(0, -(first // frame), last // frame)


def convolutions(network: nn.Module) -> list[Sees]:
    """The convolutions of a network that calls them in the order in which they are registered, one after another."""
    kinds: dict[type, Callable[..., Sees]] = {nn.Conv1d: _convolution, nn.ConvTranspose1d: _transposed}
    found: list[Any] = [module for module in network.modules() if type(module) in kinds]
    return [kinds[type(m)](m.kernel_size[0], m.stride[0], m.padding[0], m.dilation[0]) for m in found]


def _convolution(kernel: int, stride: int, padding: int, dilation: int) -> Sees:
    return lambda span: (span[0] * stride - padding, span[1] * stride - padding + (kernel - 1) * dilation)


def _transposed(kernel: int, stride: int, padding: int, dilation: int) -> Sees:
    return lambda span: (-((-span[0] - padding + (kernel - 1) * dilation) // stride), (span[1] + padding) // stride)


class WindowSpan(NamedTuple):
    """A window, in latent frames: it holds first to last, and start to stop are its part of the result."""

    start: int
    stop: int
    first: int
    last: int


def window_spans(frames: int, window: int, overlap: int) -> list[WindowSpan]:
    """Windows of at most `window` latent frames, which overlap by `overlap` to each side."""
    core = window - 2 * overlap
    if core < 1:
        raise ConfigError(f"A window of {window} latent frames has nothing left between overlaps of {overlap}.")
    spans = [(start, min(start + core, frames)) for start in range(0, frames, core)]
    return [WindowSpan(start, stop, max(0, start - overlap), min(frames, stop + overlap)) for start, stop in spans]


def windowed(run: Callable[[Tensor], Tensor], x: Tensor, window: int, overlap: int, frame: Span, axis: int = -1) -> Tensor:
    """`run(x)` from windows of at most `window` latent frames; they overlap by `overlap` frames to each side.

    The result is that of the whole where `overlap` is at least the network's reach. Memory holds x, the result and one window.

    Args:
        frame: places of a latent frame in x, which holds whole frames along `axis`, and in the result.
    """
    frames, (taken, made), whole = x.shape[axis] // frame[0], frame, None
    if frames <= window:
        return run(x)
    for start, stop, first, last in window_spans(frames, window, overlap):
        part = run(x.narrow(axis, first * taken, (last - first) * taken))
        if whole is None:
            shape = list(part.shape)
            shape[axis] = frames * made
            whole = part.new_empty(shape)
        core = part.narrow(axis, (start - first) * made, (stop - start) * made)
        whole.narrow(axis, start * made, (stop - start) * made).copy_(core)
    assert whole is not None
    return whole


def faded(run: Callable[[Tensor], Tensor], x: Tensor, window: int, overlap: int, frame: Span) -> Tensor:
    """`run(x)` from windows of at most `window` frames, where it is not that of the whole in the end: cross-faded over `overlap`.

    For what sees a whole sound at once, such as Griffin-Lim. Memory holds x, the result and one window.

    Args:
        frame: places of a frame in x (…, S), which holds whole frames, and in the result.
    """
    frames, (taken, made) = x.shape[-1] // frame[0], frame
    if frames <= window:
        return run(x)
    if not 0 < overlap < window:
        raise ConfigError(f"Windows of {window} frames cannot overlap by {overlap}.")
    count = -(-(frames - overlap) // (window - overlap))
    starts = [round(i * (frames - window) / (count - 1)) for i in range(count)]
    whole, stop = None, 0
    for start in starts:
        part = run(x[..., start * taken : (start + window) * taken])
        whole = part.new_empty(*part.shape[:-1], frames * made) if whole is None else whole
        both = (stop - start) * made if stop else 0
        if both:
            known = whole[..., start * made : stop * made]
            known.copy_(crossfade(known, part[..., :both]))
        whole[..., start * made + both : (start + window) * made] = part[..., both:]
        stop = start + window
    assert whole is not None
    return whole
