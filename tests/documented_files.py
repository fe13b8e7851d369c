"""The files, the hub and the packages of games that the documents' commands name, made up and small; for tests/test_docs_run.py."""

import contextlib
import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from data_fixtures import data_set, encoded, make_sample, noise_picture, sound, write_film
from documented import ROOT
from games_tree import build_tree, track
from PIL import Image

from melfusion.media.sound import write_wav

PROGRAM = """import sys, json, shutil
for line in open(sys.argv[2]) if sys.argv[1] == "--calls" else [json.dumps({"out": sys.argv[-1]})]:
    shutil.copy("song.wav", json.loads(line)["out"])
"""
TRACKS = 24  # of the reader's own; a probe needs 20
GAMES = 12  # of three tracks, one in each split
# what a suite of experiments/ is here: two rows of tiny twins
SUITE = """base: tiny
data: {path: data/suite, splits: {train: 16, val: 12, test: 12}}
judge: {weights: runs/judge/export}
synapse: {kind: concat}
image: {reading: fixed}
trainer: {media_items: 0, checkpoint_every_n_steps: 100}
evaluation: {embedders: {judge: same}}
ablation: {seeds: [0], items: 12, search_items: 12, baseline: none, guidance: [1, 3], test_judge: runs/judge/export}
"""
SUITES = ("kind", "headline", "unseen")
GAMES_SUITE = """base: tiny
data: {path: data/tracks, source: manifest}
synapse: {kind: concat}
trainer: {max_steps: 1}
"""


def files(folder: Path) -> None:
    """Everything that lies in a reader's folder before the first command."""
    rng = np.random.default_rng(0)
    for name in ("src", "configs", "Makefile"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "data" / "examples", folder / "data" / "examples")
    for name in ("sea", "snow", "forest", "rain", "picture", "cat"):
        picture(folder / f"{name}.png", rng)
    for name in ("song", "violin"):
        noise(folder / f"{name}.wav", 20, rng)
    for i in range(TRACKS):
        noise(folder / f"track{i}.wav", 11, rng)
        picture(folder / f"track{i}.png", rng)
    rows = "".join(f"track{i}.wav,track{i}.png,tune {i}\n" for i in range(TRACKS))
    for name in ("songs", "mine"):
        (folder / f"{name}.csv").write_text(f"audio,image,caption\n{rows}")
    write_film(folder / "holiday.mp4", np.full((20, 48, 64, 3), 90, np.uint8))
    (folder / "music").mkdir(), (folder / "pictures").mkdir()
    (folder / "walk.yaml").write_text(
        "- {image: sea.png, start_s: 0}\n- {image: forest.png, start_s: 5, prompt: a tune in A minor}\n"
    )
    (folder / "items.jsonl").write_text(json.dumps({"prompt": "a tune in A minor", "image": "sea.png"}) + "\n")
    (folder / "theirs.py").write_text(PROGRAM)
    (folder / "visitors.txt").write_text("ann:secret\n")
    (folder / "tests").mkdir()
    (folder / "tests" / "test_one.py").write_text("def test_one(): pass\n")
    (folder / "setup.cfg").write_text("[tool:pytest]\ntestpaths = tests\n")
    published(folder, rng)
    suites(folder / "experiments")
    games(folder)


def picture(file: Path, rng: np.random.Generator) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(file)


def noise(file: Path, seconds: float, rng: np.random.Generator, rate: int = 16000) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_wav(file, 0.1 * rng.standard_normal(int(seconds * rate)).astype(np.float32), rate)


def published(folder: Path, rng: np.random.Generator) -> None:
    """Rows of MeLBench and of Extended MusicCaps, with their sounds and pictures."""
    (folder / "melbench").mkdir()
    ids = [f"AAAAAAAAAA{i}" for i in range(4)]
    rows = "".join(f"{i}.png,{name},tune {i}\n" for i, name in enumerate(ids))
    (folder / "melbench" / "pop.csv").write_text(f"image_path,youtube_video_id,Annotation\n{rows}")
    caps = [{"captions": f"tune {i}", "location": f"{i}.wav", "img_path": [f"{i}.png"]} for i in range(4)]
    (folder / "extmusiccaps.json").write_text(json.dumps(caps))
    for i, name in enumerate(ids):
        noise(folder / "audio" / f"{name}.wav", 10, rng, 8000)
        noise(folder / "audio" / f"{i}.wav", 10, rng, 8000)
        picture(folder / "images" / "pop" / f"{i}.png", rng)


def suites(folder: Path) -> None:
    """A copy of experiments/ in which the suites that are run whole have two rows of twins."""
    shutil.copytree(ROOT / "experiments", folder, ignore=shutil.ignore_patterns("results"))
    for name in SUITES:
        shutil.rmtree(folder / name)
        (folder / name).mkdir()
        (folder / name / "_base.yaml").write_text(SUITE)
        (folder / name / "none.yaml").write_text("base: _base\nsynapse: {kind: none}\nablation: {condition: no picture}\n")
        (folder / name / "concat.yaml").write_text("base: _base\n")
    shutil.rmtree(folder / "open_games")
    (folder / "open_games").mkdir()
    (folder / "open_games" / "_base.yaml").write_text(GAMES_SUITE)
    (folder / "open_games" / "games.yaml").write_text("base: _base\n")


def games(folder: Path) -> None:
    """The packages of four games with tracks that are long enough, and shards in which each split has all games."""
    build_tree(folder / "packages")
    for i, file in enumerate(sorted((folder / "packages").rglob("*.ogg"))):
        track(file, seconds=21, seed=100 + i)
    samples = []
    for i in range(2 * 3 * GAMES):
        number, split = i // 2, ("train", "val", "test")[i // 2 % 3]
        labels = {"game": f"g{number // 3}", "track": f"t{number}", "image_id": f"p{number}", "component": f"c{number}"}
        audio = sound(0.2 * np.random.default_rng(i).standard_normal(2 * 8000))
        image = encoded(noise_picture(number))
        samples.append(make_sample(f"{i:03}", split, audio, image=image, labels=labels | {"pairing": "theme"}))
    data_set(folder / "data" / "tracks", samples)


class Hub(BaseHTTPRequestHandler):
    """A hub whose every repository holds one file, at each commit."""

    FILE, DATA = "model_index.json", b"{}"

    def file(self, body: bool = True) -> None:
        self.answer(self.DATA, {"ETag": '"1"', "X-Repo-Commit": self.commit()}, body)

    def commit(self) -> str:
        """The one that the address names."""
        return next((part for part in self.path.split("/") if len(part) == 40), "c" * 40)

    def do_HEAD(self) -> None:
        self.file(body=False)

    def do_GET(self) -> None:
        name = "/".join(self.path.split("/")[3:5])
        files = [{"rfilename": self.FILE, "type": "file", "path": self.FILE, "size": len(self.DATA), "oid": "1"}]
        told = {"id": name, "sha": self.commit(), "siblings": files, "cardData": {"license": "mit"}, "private": False}
        if self.path.startswith("/api/"):
            self.answer(json.dumps(files if "/tree/" in self.path else told).encode(), {"Content-Type": "application/json"})
        else:
            self.file()

    def answer(self, data: bytes, headers: dict[str, str], body: bool = True) -> None:
        self.send_response(200)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data if body else b"")

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def hub():
    """The address of a hub on this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
