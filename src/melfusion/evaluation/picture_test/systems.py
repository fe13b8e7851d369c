"""Who is tested: a command for each call, a command for all calls, a function of Python, or a model of this project."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from melfusion.assembly.schema import Config
from melfusion.errors import ConfigError
from melfusion.files import write_whole
from melfusion.media.file_kinds import read_picture
from melfusion.media.sound import levelled, write_wav
from melfusion.models.system import MeLFusion

PLACEHOLDER = re.compile(r"\{(image|prompt|seed|out|manifest)\}")

LONGEST_REASON = 200  # characters


@dataclass(frozen=True)
class Request:
    """One call: a picture's file or None, a prompt, a seed, and the wav file that is to be written."""

    image: Path | None
    prompt: str
    seed: int
    out: Path


# Makes the files of all requests. Batch by batch it gives each request back with "" or the reason why its file is not made
Answers = Iterator[list[tuple[Request, str]]]
System = Callable[[list[Request]], Answers]


def one_by_one(make: Callable[[Request], None]) -> System:
    """A function that makes one file → a system; an exception is the reason of a call that failed."""

    def system(requests: list[Request]) -> Answers:
        for request in requests:
            try:
                make(request)
                reason = ""
            except Exception as error:  # a stranger's code raises anything
                reason = _short(f"{type(error).__name__}: {error}")
            yield [(request, reason)]

    return system


class Command:
    """A stranger's program, started once for each call, or once for all of them where it takes `{manifest}`. No shell is used.

    Args:
        command: split as a shell would; each placeholder is replaced within its argument.
        limit_s: the longest time of a call, in seconds; a program that takes a manifest has as many times that.
        no_picture: what stands for `{image}` where there is none.
    """

    def __init__(self, command: str, limit_s: float = 600.0, no_picture: str = ""):
        self.arguments, self.limit_s, self.no_picture = _split(command), limit_s, no_picture
        named = {name for argument in self.arguments for name in PLACEHOLDER.findall(argument)}
        self.at_once = "manifest" in named
        if self.at_once and len(named) > 1:
            raise ConfigError("command= holds {manifest} and others: give it alone, or leave it out.")
        if not self.at_once and not {"image", "out"} <= named:
            raise ConfigError(
                "command= must hold {image} and {out}, and {prompt} and {seed} where the program takes them, or {manifest} in "
                f"place of all; it holds {', '.join(sorted(named)) or 'none of them'}."
            )
        if shutil.which(self.arguments[0]) is None:
            raise ConfigError(f"command= starts {self.arguments[0]!r}, which is no program here: give its path, or install it.")

    def __call__(self, requests: list[Request]) -> Answers:
        if not self.at_once:
            for request in requests:
                yield [(request, self._start(self._values(request), self.limit_s))]
        elif requests:
            manifest = requests[0].out.parent / "manifest.jsonl"
            write_whole(manifest, manifest_of(requests))
            reason = self._start({"manifest": str(manifest)}, self.limit_s * len(requests))
            yield [(r, "" if r.out.is_file() else reason or "the program wrote no such file") for r in requests]

    def _values(self, request: Request) -> dict[str, str]:
        image = self.no_picture if request.image is None else str(request.image)
        return {"image": image, "prompt": request.prompt, "seed": str(request.seed), "out": str(request.out)}

    def _start(self, values: dict[str, str], limit_s: float) -> str:
        """Run it once; returns "" or why it failed. Its whole session ends with it."""
        arguments = [PLACEHOLDER.sub(lambda found: values[found[1]], argument) for argument in self.arguments]
        with tempfile.TemporaryFile() as said:
            try:
                process = subprocess.Popen(
                    arguments, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
                )
            except OSError as error:
                raise ConfigError(f"command= cannot be started ({error.strerror}): correct {self.arguments[0]}.") from None
            try:
                code = process.wait(limit_s)
            except subprocess.TimeoutExpired:
                return f"longer than {limit_s:g} s"
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            return "" if code == 0 else _short(f"exit code {code}: {_last_line(said)}")


def manifest_of(requests: Iterable[Request], base: Path | None = None) -> str:
    """One JSON line a call: image (null for none), prompt, seed, out; its paths are relative to `base`, if that is given."""

    def path(file: Path | None) -> str | None:
        return None if file is None else str(file if base is None else file.relative_to(base))

    lines = ({"image": path(r.image), "prompt": r.prompt, "seed": r.seed, "out": path(r.out)} for r in requests)
    return "".join(json.dumps(line) + "\n" for line in lines)


class OwnModel:
    """A model of this project: batches of calls, each with its own noise."""

    def __init__(self, system: MeLFusion, config: Config):
        self.system, self.config = system, config

    @torch.no_grad()
    def __call__(self, requests: list[Request]) -> Answers:
        s, size = self.config.sampling, self.config.evaluation.batch_size
        for start in range(0, len(requests), size):
            some = requests[start : start + size]
            decoded = self.system.generate(
                [request.prompt for request in some],
                torch.stack([self._pixels(request.image) for request in some]).to(self.system.device),
                [request.seed for request in some],
                s.num_inference_steps,
                s.guidance_scale,
                s.image_guidance_scale,
                s.negative_prompt,
                torch.tensor([float(request.image is not None) for request in some], device=self.system.device),
            )
            clips = levelled(self.system.vocode(decoded).cpu(), self.config.audio)
            for request, clip in zip(some, clips, strict=True):
                write_wav(request.out, clip, self.config.audio.sample_rate_hz)
            yield [(request, "") for request in some]

    def _pixels(self, image: Path | None) -> Tensor:
        """(3, H, W) in [-1, 1]; zeros for none, which no one looks at."""
        d = self.config.data
        if image is None:
            return torch.zeros(3, d.image_size_px, d.image_size_px)
        return torch.from_numpy(read_picture("image", image, d.image_size_px, d.max_image_pixels, d.max_image_work))


def _split(command: str) -> list[str]:
    try:
        if arguments := shlex.split(command):
            return arguments
        raise ValueError("it is empty")
    except ValueError as error:
        raise ConfigError(f"command={command!r} cannot be split into arguments ({error}): correct its quotes.") from None


def _last_line(said: IO[bytes]) -> str:
    said.seek(max(0, said.seek(0, os.SEEK_END) - 4096))
    lines = said.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def _short(reason: str) -> str:
    return " ".join(reason.split())[:LONGEST_REASON]
