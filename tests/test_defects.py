"""The released code's defects, planted again one by one: each must make a test fail (slow: a pytest run per defect)."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# defect → (file, text there, planted text), the test that must fail
DEFECTS = {
    "1 the picture is not used at inference": (
        "melfusion.py",
        "has_image = torch.full((n,), float(image is not None))",
        "has_image = torch.zeros(n)",
        "test_melfusion.py::test_another_picture_changes_the_music_and_the_same_gives_the_same_bytes",
    ),
    "1 random latents at inference": (
        "melfusion.py",
        'noise = self._draw("noise", seeds, self.latent_shape)',
        "noise = torch.randn(n, *self.latent_shape)",
        "test_melfusion.py::test_another_picture_changes_the_music_and_the_same_gives_the_same_bytes",
    ),
    "2 noise instead of inversion": (
        "sampler.py",
        "path.append(ddim_step(at, epsilon, a, a_to))",
        "path.append(torch.randn_like(at))",
        "test_sampler.py::test_inversion_and_back_reconstructs_with_an_analytic_denoiser",
    ),
    "3 averages over the batch before the square": (
        "diffusion.py",
        "(model_output.float() - wanted.float()).square()",
        "(model_output.float() - wanted.float()).mean(0, keepdim=True).expand_as(wanted).square()",
        "test_diffusion.py::test_opposite_errors_of_two_samples_do_not_cancel",
    ),
    "4 pixels in [-1, 509]": (
        "image.py",
        "/ 127.5 - 1.0",
        "* 2 - 1.0",
        "test_image.py::test_pixels_lie_between_minus_one_and_one_and_use_it",
    ),
    "4 unscaled image latents": (
        "image_features.py",
        ".latent_dist.mean.float() * self.vae.config.scaling_factor",
        ".latent_dist.mean.float()",
        "test_image_features.py::test_latents_are_the_vaes_mean_times_its_scaling_factor",
    ),
    "5 every layer gets one layer's feature": (
        "processor.py",
        "visual_features[self.layer]",
        "next(iter(visual_features.values()))",
        "test_unet.py::test_every_layer_reads_its_own_feature",
    ),
    "6 the weight of ε for v": (
        "diffusion.py",
        'snr if prediction_type == "epsilon" else snr + 1',
        "snr",
        "test_diffusion.py::test_min_snr_weights_are_those_of_each_prediction_type",
    ),
    "7 dropped text is zeros in training": (
        "melfusion.py",
        "kept = conditioning.where(keep_text, self.null(conditioning))",
        "null = self.null(conditioning)\n        null.text_embeds = torch.zeros_like(null.text_embeds)\n"
        "        kept = conditioning.where(keep_text, null)",
        "test_melfusion.py::test_dropped_text_is_the_encoded_empty_string_and_what_sampling_uses",
    ),
    "7 no drop-out": (
        "diffusion.py",
        "return ~drop_text, ~drop_image",
        "return torch.ones_like(drop_text), torch.ones_like(drop_image)",
        "test_diffusion.py::test_drops_cover_every_branch_at_the_asked_rates",
    ),
    "8 copies to the host": (
        "image_features.py",
        "halves.__setitem__(name, output)",
        "halves.__setitem__(name, output.cpu())",
        "test_image_features.py::test_reading_copies_nothing_to_the_host",
    ),
    "8 the frozen branch builds a graph": (
        "image_features.py",
        "    @torch.no_grad()\n    def features(self",
        "    def features(self",
        "test_image_features.py::test_features_hold_no_autograd_graph",
    ),
    "9 resume starts again": (
        "data/order.py",
        "start = self.consumed + self.rank * self.micro",
        "start = self.rank * self.micro",
        "test_train.py::test_resume_continues_the_same_curve_to_the_bit",
    ),
    "10 files are overwritten": (
        "generate.py",
        "while file.exists() or file in files:",
        "while False:",
        "test_generate.py::test_several_clips_get_files_of_their_own_and_nothing_is_overwritten",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("defect", DEFECTS)
def test_a_planted_defect_is_caught(defect, tmp_path):
    name, there, planted, test = DEFECTS[defect]
    shutil.copytree(ROOT / "src", tmp_path / "src", symlinks=False)
    shutil.copytree(ROOT / "tests", tmp_path / "tests")
    shutil.copy(ROOT / "setup.cfg", tmp_path)
    file = tmp_path / "src" / "melfusion" / name
    text = file.read_text()
    assert text.count(there) == 1, f"{name} no longer holds {there!r} once: plant the defect elsewhere"
    file.write_text(text.replace(there, planted))
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "src")}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", f"tests/{test}"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 1 and "FAILED tests/" in done.stdout, done.stdout[-1500:]
