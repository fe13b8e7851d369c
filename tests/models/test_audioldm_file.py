"""AudioLDM's single file: its parts compute what the original networks do, and every other file is refused by name."""

import audioldm_original as original
import building as build
import pytest
import torch
from safetensors.torch import save_file
from weights_fixtures import error_of

from melfusion.assembly.counting import on_meta
from melfusion.assembly.export import with_parts
from melfusion.assembly.load import PARTS_FOLDER
from melfusion.models.audioldm_file import CONSTANTS, NOT_NEEDED, audioldm_vae
from melfusion.models.frozen import digest

SIZES = ("music_vae.block_out_channels=[32,64,128]", "music_vae.latent_channels=8", "music_vae.mel_mean=0", "music_vae.mel_std=1")
AUDIO = ("audio.sample_rate_hz=16000", "audio.n_fft_samples=1024", "audio.hop_length_samples=160", "audio.n_mels=64")
CLIP = ("audio.f_max_hz=8000", "audio.clip_duration_s=0.64", "synapse.kind=none")


@pytest.fixture(scope="module")
def state():
    return original.original_state()


def saved(state, folder, name="audioldm-s-full.ckpt"):
    torch.save({"state_dict": state}, folder / name)
    return folder / name


def config_of(tiny, file):
    return tiny(*SIZES, *AUDIO, *CLIP, f"music_vae.weights={file}", f"vocoder.weights={file}")


def same(ours, theirs):
    assert theirs.std() > 0.01
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["audioldm-s-full.ckpt", "any.safetensors"])
@torch.no_grad()
def test_vae_and_vocoder_compute_what_the_original_does(name, state, tiny, tmp_path):
    file = saved(state, tmp_path, name)
    if name.endswith(".safetensors"):
        save_file({n: t.contiguous() for n, t in state.items()}, file)
    codec = build.mel_codec(config_of(tiny, file)).eval()
    log_mel = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    moments = codec.music_vae.encode_moments(log_mel)
    same(moments, original.encode(state, log_mel))
    latents = codec.sample_latents(moments)
    same(latents, original.SCALE * moments[:, :8])  # scale_factor brings them to unit variance
    same(codec.music_vae.reconstruct(latents / original.SCALE), original.decode(state, latents / original.SCALE))
    whole = original.vocode(state, log_mel[:, 0])  # 32 samples longer, which nobody asked for
    same(codec.vocoder.network(log_mel), whole[:, : 64 * 160])
    assert not any(t.is_meta for t in codec.state_dict().values())


VAE, MIDDLE = "first_stage_model.decoder.up.2.block.0.conv1.weight", "first_stage_model.encoder.mid.attn_1.q.weight"
VOICE = "first_stage_model.vocoder.ups.3.bias"


def renamed(name, other):
    return lambda s: {other if n == name else n: t for n, t in s.items()}


REFUSED = {  # what is wrong → (the change, words that must be there)
    "the VAE lacks one": (lambda s: {n: t for n, t in s.items() if n != VAE}, f"it lacks '{VAE}'"),
    "the vocoder lacks one": (lambda s: {n: t for n, t in s.items() if n != VOICE}, f"it lacks '{VOICE}'"),
    "no scale": (lambda s: {n: t for n, t in s.items() if n != "scale_factor"}, "it lacks 'scale_factor'"),
    "one more in the VAE": (lambda s: s | {f"{VAE}_g": torch.zeros(2)}, f"it has '{VAE}_g', which"),
    "one more in the vocoder": (
        lambda s: s | {"first_stage_model.vocoder.mean": torch.zeros(2)},
        "'first_stage_model.vocoder.mean'",
    ),
    "one more beside all": (lambda s: s | {"clap.model.a": torch.zeros(2)}, "it has 'clap.model.a', which"),
    "one more schedule": (lambda s: s | {"betas2": torch.zeros(2)}, "it has 'betas2', which"),
    "one renamed": (
        renamed(VAE, "first_stage_model.decoder.up.3.block.0.conv1.weight"),
        f"it lacks '{VAE}'; it has 'first_stage_model.",
    ),
    "by diffusers' name": (renamed(MIDDLE, "first_stage_model.encoder.mid_block.attentions.0.to_q.weight"), "mid_block"),
    "another size": (lambda s: s | {VOICE: torch.zeros(5)}, f"'{VOICE}' is floats of (5,) and not floats of (4,)"),
    "another width": (
        lambda s: s | {"first_stage_model.encoder.conv_in.weight": torch.zeros(33, 1, 3, 3)},
        "floats of (128,) and not",
    ),
    "another kernel": (lambda s: s | {MIDDLE: torch.zeros(128, 128, 3, 3)}, f"'{MIDDLE}' is floats of (128, 1152)"),
    "a number": (lambda s: s | {"scale_factor": torch.zeros(2)}, "'scale_factor' is floats of (2,)"),
}


@pytest.mark.parametrize("form", REFUSED)
@pytest.mark.parametrize("part", ["music_vae", "vocoder"])
def test_every_other_tensor_is_named(part, form, state, tiny, tmp_path):
    change, words = REFUSED[form]
    file = saved(change(dict(state)), tmp_path)
    message = error_of(getattr(build, part), config_of(tiny, file))
    assert words in message and f"{file} is not AudioLDM's published file" in message


def test_what_is_not_needed_may_be_there_or_not_and_is_listed_with_its_reason(state, tmp_path, caplog):
    caplog.set_level("WARNING")  # what a command shows
    needed = {n: t for n, t in state.items() if n.startswith("first_stage_model.") or n == "scale_factor"}
    left = state.keys() - needed.keys()
    assert len(left) == 11 and all(name in CONSTANTS or name.startswith(tuple(NOT_NEEDED)) for name in left)
    assert digest(audioldm_vae(saved(needed, tmp_path))) == digest(audioldm_vae(saved(state, tmp_path, "other.ckpt")))
    assert caplog.text.count("left out are") == 1 and all(f"{start}* ({why})" in caplog.text for start, why in NOT_NEEDED.items())


def test_its_unet_is_another_kind_of_denoiser(state, tiny, tmp_path):
    file = saved(state, tmp_path)
    for given in (file, tmp_path):
        for kind in ("kv_mix", "none"):
            message = error_of(build.synaptic_unet, tiny(f"denoiser.weights={given}", f"synapse.kind={kind}"), 16, None)
            assert "one vector (FiLM), for which there is a kind of its own: give denoiser.kind=audioldm" in message
    assert "give the file itself as music_vae.weights" in error_of(build.music_vae, tiny(f"music_vae.weights={tmp_path}"))


def test_it_is_counted_and_exported_whole_as_folders(state, tiny, tmp_path):
    config = config_of(tiny, saved(state, tmp_path))
    assert all(p.is_meta for p in on_meta(config).codec.parameters())
    copied = with_parts(config, tmp_path / "out")
    for section in ("music_vae", "vocoder"):
        getattr(copied, section).weights = str(tmp_path / "out" / PARTS_FOLDER / section)
        assert digest(getattr(build, section)(copied)) == digest(getattr(build, section)(config))
