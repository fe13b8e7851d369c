"""The released code's defects, planted again one by one: each must make a test fail (slow: a pytest run per defect)."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# defect → (text that stands once in the package, what is planted in its place, the test that must fail)
DEFECTS = {
    "1 the picture is not used at inference": (
        "shown = torch.ones(len(captions)) if has_image is None else has_image",
        "shown = torch.zeros(len(captions))",
        "test_another_picture_changes_the_music_and_the_same_gives_the_same_bytes",
    ),
    "1 random latents at inference": (
        'noise = self.draw("noise", seeds, shape)',
        "noise = torch.randn(len(seeds), *shape)",
        "test_another_picture_changes_the_music_and_the_same_gives_the_same_bytes",
    ),
    "2 noise instead of inversion": (
        "path.append(ddim_step(at, epsilon, a, a_to))",
        "path.append(torch.randn_like(at))",
        "test_inversion_and_back_reconstructs_with_an_analytic_denoiser",
    ),
    "3 averages over the batch before the square": (
        "(model_output.float() - wanted.float()).square()",
        "(model_output.float() - wanted.float()).mean(0, keepdim=True).expand_as(wanted).square()",
        "test_opposite_errors_of_two_samples_do_not_cancel",
    ),
    "4 pixels in [-1, 509]": (
        "pixels /= np.float32(127.5)",
        "pixels *= np.float32(2)",
        "test_pixels_lie_between_minus_one_and_one_and_use_it",
    ),
    "4 unscaled image latents": (
        ".latent_dist.mean.float() * self.vae.config.scaling_factor",
        ".latent_dist.mean.float()",
        "test_latents_are_the_vaes_mean_times_its_scaling_factor",
    ),
    "5 every layer gets one layer's feature": (
        "self.sight.now[0][self.layer]",
        "next(iter(self.sight.now[0].values()))",
        "test_every_layer_reads_its_own_feature",
    ),
    "6 the weight of ε for v": (
        'snr if prediction_type == "epsilon" else snr + 1',
        "snr",
        "test_min_snr_weights_are_those_of_each_prediction_type",
    ),
    "7 dropped text is zeros in training": (
        "kept = conditioning.where(keep_text, self.null(conditioning))",
        "null = self.null(conditioning)\n        null.text_embeds = torch.zeros_like(null.text_embeds)\n"
        "        kept = conditioning.where(keep_text, null)",
        "test_dropped_text_is_the_encoded_empty_string_and_what_sampling_uses",
    ),
    "7 no drop-out": (
        "return ~drop_text, ~drop_image",
        "return torch.ones_like(drop_text), torch.ones_like(drop_image)",
        "test_drops_cover_every_branch_at_the_asked_rates",
    ),
    "8 copies to the host": (
        "halves.__setitem__(name, output)",
        "halves.__setitem__(name, output.cpu())",
        "test_reading_copies_nothing_to_the_host",
    ),
    "8 the frozen branch builds a graph": (
        "    @torch.no_grad()\n    def features(\n",
        "    def features(\n",
        "test_features_hold_no_autograd_graph",
    ),
    "9 resume starts again": (
        "start = self.consumed + self.rank * self.micro",
        "start = self.rank * self.micro",
        "test_resume_continues_the_same_curve_to_the_bit",
    ),
    "10 files are overwritten": (
        "while name in taken:",
        "while False:",
        "test_several_clips_get_files_of_their_own_and_nothing_is_overwritten",
    ),
}


def holding(folder: Path, text: str) -> list[Path]:
    """The Python files of a folder with this text, each as often as it stands there."""
    return [file for file in sorted(folder.rglob("*.py")) for _ in range(file.read_text().count(text)) if file != Path(__file__)]


@pytest.mark.parametrize("defect", DEFECTS)
def test_each_defect_has_its_place_and_its_test(defect):
    there, planted, test = DEFECTS[defect]
    assert len(holding(ROOT / "src", there)) == 1 and planted != there, f"plant {defect!r} elsewhere: {there!r}"
    assert len(holding(ROOT / "tests", f"def {test}(")) == 1, f"{test} is no test"


@pytest.mark.slow  # each is a test run of its own, in a copy of the package
@pytest.mark.parametrize("defect", DEFECTS)
def test_a_planted_defect_is_caught(defect, tmp_path):
    there, planted, test = DEFECTS[defect]
    shutil.copytree(ROOT / "src", tmp_path / "src", symlinks=False)
    shutil.copytree(ROOT / "tests", tmp_path / "tests")
    shutil.copy(ROOT / "setup.cfg", tmp_path)
    file = holding(tmp_path / "src", there)[0]
    file.write_text(file.read_text().replace(there, planted))
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "src")}
    where = holding(tmp_path / "tests", f"def {test}(")[0].relative_to(tmp_path)
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", f"{where}::{test}"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 1 and f"FAILED {where}" in done.stdout, done.stdout[-1500:]
