"""Systems whose use of the picture is known, for the picture test; as a program they take what a stranger's would.

    never       opens no picture
    brightness  plays one of four scenes by the mean luminance of the picture, whatever it shows
    release     another picture gives another melody, but what it shows has no part in it: as the released code's mix into the
                text does here (row context_mix of experiments/kind: the sound changes, place, time and weather stay at chance)
    bridge      plays the place that the picture's label tells, and draws time and weather by chance

They render the music of the corpus itself, in the key that the prompt names. On real tuples:

    own_track   plays the track that a picture belongs to, with noise that the seed makes
    some_track  plays a track that the picture's bytes choose by chance, with the same noise
    noise       opens no picture, and plays the noise alone
"""

import argparse
import functools
import json
import zlib
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

from melfusion.data.scenes import corpus
from melfusion.data.scenes.scene import Scene
from melfusion.evaluation.picture_test.systems import Request
from melfusion.media.sound import write_wav

SECONDS = 5.12

LEVELS = (60, 95, 130)  # of the mean luminance
BY_LEVEL = (("city", "night", "clear"), ("desert", "dusk", "rain"), ("sea", "dawn", "snow"), ("mountains", "noon", "clear"))


def never(request):
    return drawn(request.seed), request.seed


def brightness(request):
    if request.image is None:
        return drawn(request.seed), request.seed
    luminance = np.asarray(Image.open(request.image).convert("L")).mean()
    return BY_LEVEL[int(np.searchsorted(LEVELS, luminance))], request.seed


def release(request):
    melody = request.seed if request.image is None else zlib.crc32(request.image.read_bytes())
    return drawn(request.seed), melody


def bridge(request):
    place, time, weather = drawn(request.seed)
    told = None if request.image is None else places(request.image.parents[1] / "items.json").get(request.image.name)
    return (told or place, time, weather), request.seed


SYSTEMS = {f.__name__: f for f in (never, brightness, release, bridge)}


def drawn(seed):
    """Place, time and weather by chance."""
    rng = np.random.default_rng([seed, 7])
    return tuple(str(rng.choice(names)) for names in (corpus.PLACES, corpus.TIMES, corpus.WEATHERS))


@functools.cache
def places(items):
    """File name of a picture → its place, where its lower half is seen."""
    found = {}
    for item in json.loads(items.read_text())["items"]:
        for row in ("right", "lower half", "other", "as bright"):
            if row in item["pictures"]:
                found[item["pictures"][row]] = item["shows"].get(row, item["labels"])["place"]
    return found


@functools.cache
def waveform(attributes, melody, key):
    return corpus.render(Scene(melody, 1, *attributes, *key), SECONDS)


def play(kind, request):
    """Write the sound of one call."""
    attributes, melody = SYSTEMS[kind](request)
    words = f"{request.prompt} ".replace(",", " ")
    mode = "minor" if "minor" in words else "major"
    tonic = max((tonic for tonic in corpus.TONICS if f" {tonic} {mode} " in f" {words}"), key=len)
    write_wav(request.out, waveform(attributes, melody, (tonic, mode)), 16000)


def play_track(kind, request):
    """Write the sound of one call on real tuples."""
    sound = np.random.default_rng(request.seed).normal(0, 0.02, round(SECONDS * 16000)).astype(np.float32)
    if request.image is not None and kind != "noise":
        belongs = tracks(request.image.parents[1] / "items.json")
        names = sorted(set(belongs.values()))
        chosen = belongs[request.image.name] if kind == "own_track" else names[zlib.crc32(request.image.name.encode()) % len(names)]
        sound += soundfile.read(request.image.parents[1] / chosen, dtype="float32")[0][: len(sound)]
    write_wav(request.out, sound, 16000)


@functools.cache
def tracks(items):
    """File name of a picture → the track that it belongs to."""
    return {item["pictures"]["right"]: item["track"] for item in json.loads(items.read_text())["items"]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("kind")
    for name in ("image", "prompt", "seed", "out", "manifest"):
        parser.add_argument(f"--{name}")
    given = parser.parse_args()
    lines = [vars(given)] if given.manifest is None else map(json.loads, Path(given.manifest).read_text().splitlines())
    for line in lines:
        image = Path(line["image"]) if line["image"] else None
        play(given.kind, Request(image, line["prompt"], int(line["seed"]), Path(line["out"])))
