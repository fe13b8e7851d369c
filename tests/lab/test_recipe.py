"""The embedded default, whole: `make train` must measurably learn to use pictures. Slow: about ten minutes."""

import json
import subprocess
import sys

import pytest


@pytest.mark.slow  # a whole training of the default configuration
def test_make_train_learns_that_the_picture_matters(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "melfusion", "train", f"runs_dir={tmp_path}/runs", f"data.path={tmp_path}/scenes", "data.draw=true"],
        capture_output=True,
        text=True,
        timeout=3600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    scores = json.loads((tmp_path / "runs/scenes/scores.json").read_text())
    place, gain = scores["rows"]["right picture"]["attributes"]["place"], scores["gain"]["place"]
    assert place["n"] >= 60 and place["low"] >= 2 * scores["chance"]["place"]
    assert gain["mean"] > gain["interval"]
    for words in ("── corpus", "── precompute", "── training", "── evaluation", "time: ", "Next:", "Clips: "):
        assert words in done.stdout
    again = subprocess.run(
        [sys.executable, "-m", "melfusion", "train", f"runs_dir={tmp_path}/runs", f"data.path={tmp_path}/scenes", "data.draw=true"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert again.returncode == 0 and "is finished" in again.stdout and "Next:" in again.stdout
