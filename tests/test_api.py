"""docs/api.md is what the docstrings say now, and docs/example.py runs."""

import os
import runpy
import subprocess

import documented as doc
import numpy as np
import pytest
import soundfile
from forking import python
from PIL import Image


def test_the_page_of_the_python_interface_is_not_stale():
    made = runpy.run_path(str(doc.ROOT / "docs" / "make_api.py"))["page"]()
    assert (doc.ROOT / "docs" / "api.md").read_text() == made, "run `python docs/make_api.py`"
    for name in ("melfusion.load", "Pipeline.__call__", "MusicCodec.encode", "VisualSynapse.mix", "frechet_distance"):
        assert f"`{name}`" in made


@pytest.mark.slow  # a process that imports everything, and a clip of the shipped model
def test_the_example_writes_a_sound_and_a_plot(tmp_path):
    (tmp_path / "data").symlink_to(doc.ROOT / "data")
    example = doc.ROOT / "docs" / "example.py"
    subprocess.run([python(), str(example)], cwd=tmp_path, check=True, env=dict(os.environ, MPLBACKEND="Agg"))
    sound, rate = soundfile.read(tmp_path / "example.wav")
    assert rate == 16000 and len(sound) == 5.12 * rate and np.abs(sound).max() > 0.1
    plot = np.asarray(Image.open(tmp_path / "example.png").convert("RGB"))
    assert plot.shape[1] > 1000 and all(half.std() > 20 for half in np.array_split(plot, 2, axis=1))
