"""Shared by all tests: one thread, no network beyond loopback, a tiny system and batches for it."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))  # this checkout's code, whatever checkout `melfusion` runs here
os.environ["PYTHONPATH"] = sys.path[0]  # for the processes that tests start
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import pytest
import torch

torch.set_num_threads(1)

LABELS = (
    {"place": "sea", "time": "dawn", "weather": "rain", "tonic": "C", "mode": "major"},
    {"place": "city", "time": "night", "weather": "snow", "tonic": "A", "mode": "minor"},
)


@pytest.fixture
def tiny():
    """tiny(overrides…) → Config of random twins."""
    from melfusion.assembly.configuration import load_config

    return lambda *overrides: load_config("tiny", list(overrides))


@pytest.fixture
def make_batch():
    """make_batch(config, system, n=4, seed=0) → MusicBatch of random sounds, pictures and draws, as a loader gives."""
    import building as build

    from melfusion.data.collate import collate
    from melfusion.media.mel import AudioGeometry

    def make(config, system, n=4, seed=0, images=True):
        rng, items = np.random.default_rng(seed), []
        shapes, size = build.noise_shapes(config, system), config.data.image_size_px
        for i in range(n):
            draws = {"timestep": np.float32(rng.random()), "drop": np.float32(rng.random())}
            draws |= {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}
            channels = () if config.audio.channels == 1 else (config.audio.channels,)
            waveform = 0.1 * rng.standard_normal((*channels, AudioGeometry(config.audio).num_samples), dtype=np.float32)
            item = {
                "key": f"k{i}",
                "caption": f"tune {i}",
                "labels": LABELS[i % 2],
                "position": i,
                "draws": draws,
                "waveform": waveform,
                "replaced": [],
            }
            item["has_image"] = float(images)
            item["image"] = images * np.tanh(rng.standard_normal((3, size, size), dtype=np.float32))
            items.append(item)
        return collate(items)

    return make


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory):
    """Path of a small indexed data set with random sounds and pictures: 16 train, 6 val, 4 test."""
    import io

    import soundfile
    from PIL import Image

    from melfusion.data.shards import Sample
    from melfusion.data.writing import write_shards

    def sample(i, split):
        rng = np.random.default_rng(i)
        sound, picture = io.BytesIO(), io.BytesIO()
        tone = np.sin(2 * np.pi * (200 + 37 * i) * np.arange(12000) / 8000) * 0.3 + 0.01 * rng.standard_normal(12000)
        soundfile.write(sound, tone, 8000, format="FLAC")
        Image.fromarray(rng.integers(0, 255, (20, 24, 3), dtype=np.uint8)).save(picture, format="PNG")
        meta = {"caption": f"tune number {i}", "split": split, "labels": {"i": i}}
        return Sample(f"s{i:03d}", sound.getvalue(), "flac", picture.getvalue(), "png", meta)

    folder = tmp_path_factory.mktemp("corpus") / "data"
    splits = ["train"] * 16 + ["val"] * 6 + ["test"] * 4
    write_shards((sample(i, split) for i, split in enumerate(splits)), folder, samples_per_shard=5)
    return folder
