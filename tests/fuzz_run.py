"""`python fuzz_run.py COUNT SEED FOLDER`: that many hostile cases in one guarded process; prints what came of them as JSON.

Guards: an audit hook on everything that runs code or writes, a limit on address space, a clock for each case.
"""

import faulthandler
import json
import logging
import os
import resource
import sys
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

import fuzz_cases as cases
import numpy as np
import torch
from data_fixtures import data_set, make_sample

from melfusion.assembly.configuration import load_config
from melfusion.data.datamodule import MusicDataModule
from melfusion.data.index import write_index
from melfusion.data.reading import decode_sample
from melfusion.data.shards import ShardSet
from melfusion.data.stream import tar_samples
from melfusion.errors import BadSample, DataError, WeightsError
from melfusion.models.published import load_part, read_part, stored_schedule, tango_state

EXPECTED = (BadSample, DataError, WeightsError)
SECONDS, MEMORY_MB = 20.0, 400  # of one case, on a machine that others use too; of growth over the whole process
RUNS_CODE = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "os.forkpty",
    "subprocess.Popen",
    "pickle.find_class",
    "socket.connect",
    "webbrowser.open",
    "pty.spawn",
    "code.__new__",
    "compile",
)
CHANGES_FILES = (
    "os.remove",
    "os.rename",
    "os.mkdir",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.chmod",
    "os.truncate",
    "shutil.move",
    "shutil.rmtree",
    "shutil.copyfile",
    "tempfile.mkstemp",
)
TRUSTED = (sys.prefix, sys.base_prefix, str(Path(__file__).parents[1] / "src"), "<frozen")


class Guard:
    """Notes whatever runs code that did not come with the packages, or writes outside `folder`."""

    def __init__(self, folder: Path):
        self.folder, self.seen, self.on = str(folder), [], False
        sys.addaudithook(self)

    def __call__(self, event: str, args: tuple) -> None:
        if not self.on:
            return
        if event == "exec":
            bad = not str(getattr(args[0], "co_filename", "?")).startswith(TRUSTED)
        elif event == "open":
            writes = any(c in (args[1] or "") for c in "wax+") or bool((args[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
            bad = writes and not str(args[0]).startswith(self.folder)
        elif event in CHANGES_FILES:
            bad = not str(args[0]).startswith(self.folder)
        elif event == "compile":
            bad = not str(args[1]).startswith(TRUSTED)
        else:
            bad = event in RUNS_CODE
        if bad:
            self.seen.append(f"{event}{args!r:.200}")


class Fuzz:
    """Targets by name: each makes one hostile input and reads it by the ways that training reads."""

    def __init__(self, folder: Path):
        self.folder, self.config = folder, load_config("tiny", [f"data.path={folder / 'set'}", "data.global_batch_size=2"])
        data = self.config.data
        data.max_image_pixels, data.max_audio_s, data.max_member_mib, data.num_workers = 5_000_000, 60.0, 8.0, 0
        self.pictures, self.sounds, self.tensors = cases.pictures(), cases.sounds(), cases.tensors()
        self.others = [*self.pictures, *self.sounds, *self.tensors, cases.plain_pickle(), b'{"caption": "a"}', cases.zipped()]
        samples = [make_sample(key, audio=self.sounds[0], image=self.pictures[0]) for key in "abc"]
        data_set(folder / "set", samples)
        self.shard, self.stored = folder / "set" / "train-000000.tar", folder / "set" / "index.json"
        self.whole, self.index = self.shard.read_bytes(), self.stored.read_bytes()

    def sample(self, **members: bytes) -> None:
        found = {"json": b'{"caption": "a"}', "wav": self.sounds[0]} | {k.replace("_", "."): v for k, v in members.items()}
        item = decode_sample("k", found, found.__getitem__, 0.3, self.config.audio, self.config.data)
        assert "cached" in item or np.isfinite(item["waveform"]).all() and np.abs(item["image"]).max() <= 1

    def picture(self, rng):
        whole = self.pictures[rng.integers(len(self.pictures))]
        self.sample(png=cases.png(rng) if rng.random() < 0.2 else cases.damaged(rng, whole, self.others))

    def sound(self, rng):
        made = (cases.wav, cases.flac)[rng.integers(2)]
        data = made(rng) if rng.random() < 0.3 else cases.damaged(rng, self.sounds[rng.integers(len(self.sounds))], self.others)
        self.sample(wav=data)

    def meta(self, rng):
        whole = b'{"caption": "a", "labels": {"b": [1, 2]}}'
        self.sample(json=cases.text(rng) if rng.random() < 0.6 else cases.damaged(rng, whole, self.others))

    def cached(self, rng):
        data = cases.header_of(rng) if rng.random() < 0.4 else cases.damaged(rng, self.tensors[0], self.others)
        self.sample(latents_safetensors=data)

    def weights(self, rng):
        data = cases.header_of(rng) if rng.random() < 0.4 else cases.damaged(rng, self.tensors[1], self.others)
        (self.folder / "model.safetensors").write_bytes(data)
        load_part(torch.nn.Linear(2, 2), self.folder)

    def part(self, rng):
        data = cases.damaged(rng, b'{"audio": {"n_mels": 4}, "sizes": {"beta_start": 0.1}}', self.others)
        (self.folder / "part.json").write_bytes(cases.text(rng) if rng.random() < 0.5 else data)
        for read in (lambda: read_part(self.folder), lambda: stored_schedule(self.folder / "part.json")):
            try:
                read()
            except WeightsError:
                continue

    def pickle(self, rng):
        data = cases.pickled(rng)
        (self.folder / "model.bin").write_bytes(data if rng.random() < 0.7 else cases.damaged(rng, data, self.others))
        tango_state(self.folder / "model.bin")

    def tar(self, rng):
        """A damaged shard under its old index, under a new one, and as a stream."""
        data = cases.tar(rng, self.whole) if rng.random() < 0.6 else cases.damaged(rng, self.whole, self.others)
        self.shard.write_bytes(data)
        self.stored.write_bytes(self.index.replace(b"%d" % len(self.whole), b"%d" % len(data)))
        for read in (self._train, lambda: (write_index(self.folder / "set"), self._train()), self._stream):
            try:
                read()
            except EXPECTED:
                continue

    def indexed(self, rng):
        self.shard.write_bytes(self.whole)
        made = cases.index(rng, json.loads(self.index)) if rng.random() < 0.7 else cases.damaged(rng, self.index, self.others)
        self.stored.write_bytes(made)
        self._train()

    def _train(self) -> None:
        module = MusicDataModule(self.config.data, self.config.audio)
        for batch, _ in zip(module.train_dataloader(), range(2), strict=False):
            module.on_after_batch_transfer(batch, 0)
        shards = ShardSet(self.folder / "set", self.config.data)
        assert all(len(shards.read(e, ext)) == e.members[ext][1] for e in shards.entries("train") for ext in e.members)

    def _stream(self) -> None:
        for key, raw in tar_samples(str(self.shard), self.config.data):
            if not isinstance(raw, BadSample):
                decode_sample(key, raw, raw.__getitem__, 0.0, self.config.audio, self.config.data)


TARGETS = ("picture", "sound", "meta", "cached", "weights", "part", "pickle", "tar", "indexed")


def peak_kib() -> int:
    """This program's largest resident size; getrusage's would be that of the process that started it, where that was larger."""
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))


def run(count: int, seed: int, folder: Path) -> dict:
    """Outcomes, and every case that broke a rule."""
    faulthandler.dump_traceback_later(120, exit=True)
    fuzz, guard, outcomes, broken = Fuzz(folder), Guard(folder), Counter(), []
    for target in TARGETS:  # imports and caches are not what is measured
        for i in range(3):
            attempt(getattr(fuzz, target), np.random.default_rng([seed + 1, i]))
    size, resident = (int(n) * resource.getpagesize() for n in Path("/proc/self/statm").read_text().split()[:2])
    before, slowest, room = resident / 1024, 0.0, size + (2 << 30)
    resource.setrlimit(resource.RLIMIT_AS, (room, resource.RLIM_INFINITY))
    guard.on = True
    for i in range(count):
        target = TARGETS[i % len(TARGETS)]
        faulthandler.dump_traceback_later(120, exit=True)
        started = time.perf_counter()
        outcome = attempt(getattr(fuzz, target), np.random.default_rng([seed, i]))
        took = time.perf_counter() - started
        slowest = max(slowest, took)
        name = outcome if isinstance(outcome, str) else type(outcome).__name__
        outcomes[f"{target}: {name}"] += 1
        if not isinstance(outcome, (str, *EXPECTED)):
            broken.append(f"case {i} ({target}): {''.join(traceback.format_exception(outcome))[-1500:]}")
        if took > SECONDS or guard.seen:
            broken.append(f"case {i} ({target}): {took:.1f} s, {guard.seen}")
            guard.seen.clear()
    grown = (peak_kib() - before) / 1024
    if grown > MEMORY_MB:
        broken.append(f"memory grew by {grown:.0f} MB")
    guard.on = False
    return {"cases": count, "outcomes": dict(outcomes), "slowest_s": round(slowest, 2), "grown_mb": round(grown), "broken": broken}


def attempt(read, rng) -> BaseException | str:
    try:
        read(rng)
    except Exception as error:  # judged by the caller
        return error
    return "read"


if __name__ == "__main__":
    faulthandler.enable()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print(json.dumps(run(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))))
