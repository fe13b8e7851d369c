"""AudioLDM's single file as a whole model: its UNet and its text compute what the original networks do."""

import audioldm_original as original
import audioldm_original_unet as parts
import building as build
import pytest
import torch
from data_fixtures import one_sentence
from weights_fixtures import error_of

from melfusion.assembly import conditioner, denoiser
from melfusion.assembly.counting import on_meta
from melfusion.assembly.export import with_parts
from melfusion.assembly.load import PARTS_FOLDER
from melfusion.errors import ConfigError
from melfusion.models.audioldm_file import audioldm_clap, audioldm_unet, audioldm_vae
from melfusion.models.frozen import digest
from melfusion.models.twins import byte_tokenizer

KIND = ("denoiser.kind=audioldm", "conditioner.kind=audioldm", "synapse.kind=none")
SIZES = ("music_vae.block_out_channels=[32,64,128]", "music_vae.latent_channels=8", "music_vae.mel_mean=0", "music_vae.mel_std=1")
AUDIO = ("audio.sample_rate_hz=16000", "audio.n_fft_samples=1024", "audio.hop_length_samples=160", "audio.n_mels=64")


@pytest.fixture(scope="module")
def state():
    return original.original_state() | {n: t for make in (parts.unet_state, parts.text_state) for n, t in made(make).items()}


def made(make):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return make()


@pytest.fixture(scope="module")
def file(state, tmp_path_factory):
    return saved(state, tmp_path_factory.mktemp("file"))


def saved(state, folder, name="audioldm-s-full.ckpt"):
    torch.save({"state_dict": state}, folder / name)
    return folder / name


@torch.no_grad()
def test_the_unet_computes_what_the_original_does(state, file):
    latents = torch.randn(2, 8, 16, 8, generator=torch.Generator().manual_seed(2))
    times, text = torch.tensor([3, 700]), torch.randn(2, 512, generator=torch.Generator().manual_seed(3))
    theirs = parts.unet(state, latents, times, text)
    ours = audioldm_unet(file)(latents, times, None, class_labels=text).sample
    assert theirs.std() > 0.01
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_text_computes_what_the_original_does(state, file):
    clap, ids = audioldm_clap(file), torch.tensor([[0, 7, 9, 2, 1, 1], [0, 5, 2, 1, 1, 1]])  # 1: padding
    vectors = clap(input_ids=ids, attention_mask=(ids != 1).long()).text_embeds
    for vector, row in zip(torch.nn.functional.normalize(vectors, dim=-1), ids, strict=True):
        torch.testing.assert_close(vector, parts.text(state, row[row != 1]), rtol=1e-4, atol=1e-5)


def test_the_average_is_read_where_there_is_one_as_audioldm_samples_with_it(state, tmp_path, caplog):
    caplog.set_level("WARNING")
    unet = {name: t for name, t in state.items() if name.startswith(parts.UNET)}
    plain, mean = (audioldm_unet(saved(state | more, tmp_path)) for more in ({}, parts.average_of(unet)))
    for one, other in zip(plain.parameters(), mean.parameters(), strict=True):
        torch.testing.assert_close(other, one + 0.01)
    assert "model.diffusion_model.* (the UNet of the last step, of which model_ema.* is the average)" in caplog.messages[-1]
    alone = {name: t for name, t in state.items() if name not in unet} | parts.average_of(unet)
    assert digest(audioldm_unet(saved(alone, tmp_path))) == digest(mean)


OUT, IN = "model.diffusion_model.output_blocks.8.2.conv.weight", "model.diffusion_model.input_blocks.3.0.op.bias"
LAST = "cond_stage_model.model.text_branch.encoder.layer.1.output.dense.bias"
MEAN = "model_ema.diffusion_modelout2bias"

REFUSED = {  # what is wrong → (the change, words that must be there)
    "the UNet lacks one": (lambda s: {n: t for n, t in s.items() if n != OUT}, f"it lacks '{OUT}'"),
    "the text lacks one": (lambda s: {n: t for n, t in s.items() if n != LAST}, f"it lacks '{LAST}'"),
    "one more in the UNet": (lambda s: s | {f"{OUT}_g": torch.zeros(2)}, f"it has '{OUT}_g', which"),
    "one more in the text": (lambda s: s | {f"{LAST}_g": torch.zeros(2)}, f"it has '{LAST}_g', which"),
    "another size": (lambda s: s | {IN: torch.zeros(5)}, f"'{IN}' is floats of (5,) and not floats of (32,)"),
    "half an average": (lambda s: s | {MEAN: torch.zeros(8)}, "it lacks 'model_ema.diffusion_model"),
}


@pytest.mark.parametrize("form", REFUSED)
@pytest.mark.parametrize("read", [audioldm_vae, audioldm_unet, audioldm_clap])
def test_every_other_tensor_is_named_whatever_part_is_asked_for(read, form, state, tmp_path):
    change, words = REFUSED[form]
    assert words in error_of(read, saved(change(dict(state)), tmp_path))


def config_of(tiny, file, folder):
    byte_tokenizer().save_pretrained(folder)
    weights = [f"{part}.weights={file}" for part in ("music_vae", "vocoder", "denoiser", "conditioner")]
    more = (f"conditioner.tokenizer={folder}", "audio.f_max_hz=8000", "audio.clip_duration_s=0.64", "conditioner.max_length=20")
    return tiny(*KIND, *SIZES, *AUDIO, *weights, *more)


@torch.no_grad()
def test_the_file_alone_makes_sound_and_a_folder_of_its_parts_makes_the_same(state, tiny, tmp_path):
    spoken = state | {f"{parts.TEXT}branch.embeddings.word_embeddings.weight": torch.randn(300, parts.WIDTH)}  # all bytes
    config = config_of(tiny, saved(spoken, tmp_path), tmp_path / "tokenizer")
    system = build.system(config).eval()
    sound = system.vocode(system.generate(["rain"], None, num_inference_steps=2, seeds=[3]))
    assert sound.shape == (1, 10240) and sound.std() > 0
    copied = with_parts(config, tmp_path / "out")
    assert copied.conditioner.tokenizer is None
    for section in ("music_vae", "vocoder", "denoiser", "conditioner"):
        getattr(copied, section).weights = str(tmp_path / "out" / PARTS_FOLDER / section)
    again = build.system(copied).eval()
    assert torch.equal(again.vocode(again.generate(["rain"], None, num_inference_steps=2, seeds=[3])), sound)


def test_it_is_counted_without_its_weights(file, tiny, tmp_path):
    system = on_meta(config_of(tiny, file, tmp_path / "tokenizer"))
    assert all(p.is_meta for p in system.parameters())


def test_what_the_file_does_not_hold_is_asked_for(file, tiny):
    config = tiny(*KIND, f"conditioner.weights={file}")
    assert f"{file} holds no tokenizer: give the folder of roberta-base's" in error_of(conditioner.audioldm, config)
    config = tiny(*KIND, *SIZES, "conditioner.width=512", f"denoiser.weights={file}", "sampling.sampler=published")
    with pytest.raises(ConfigError, match="needs scheduler/scheduler_config.json") as error:
        build.system(config)
    one_sentence(error.value)


def test_a_folder_of_its_unet_is_known_from_other_unets(file, tiny, tmp_path):
    audioldm_unet(file).save_pretrained(tmp_path / "film")
    config = tiny(*KIND, "music_vae.latent_channels=8", f"denoiser.weights={tmp_path / 'film'}")
    assert digest(denoiser.audioldm(config, 512, None).unet) == digest(audioldm_unet(file))
    other = tiny("synapse.kind=none", f"denoiser.weights={tmp_path / 'film'}")
    assert "give denoiser.kind=audioldm conditioner.kind=audioldm" in error_of(denoiser.synaptic_unet, other, 16, None)
    denoiser.synaptic_unet(tiny("synapse.kind=none"), 16, None).unet.save_pretrained(tmp_path / "plain")
    config.denoiser.weights = str(tmp_path / "plain")
    words = error_of(denoiser.audioldm, config, 512, None)
    assert "AudioLDM's UNet (a UNet2DConditionModel with class_embed_type=simple_projection) is wanted" in words
