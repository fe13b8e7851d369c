"""Config → parts: real layouts on disk, made of tiny random models; what does not fit is one sentence; no network."""

import os
import shutil
import socket

import building as build
import pytest
import torch
from data_fixtures import one_sentence
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, T5EncoderModel
from weights_fixtures import SCHEDULER, TANGO_AUDIO, clip_text, error_of, music_unet, stable_diffusion, t5_text, tango

from melfusion.assembly.configuration import load_config
from melfusion.errors import ConfigError, WeightsError
from melfusion.models import twins
from melfusion.models.diffusion.options import DiffusionConfig
from melfusion.models.diffusion.process import alphas_cumprod
from melfusion.models.frozen import digest


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)


def edit_safetensors(file, change):
    state = load_file(file)
    change(state)
    save_file(state, file, metadata={"format": "pt"})


# --- Stable Diffusion -----------------------------------------------------------------------------------------------


def test_a_pipeline_folder_gives_all_it_holds(tiny, tmp_path):
    unet, vae, text, tokenizer = stable_diffusion(tmp_path)
    extractor = build.image_features(tiny(f"image.weights={tmp_path}", "image.prediction_type=epsilon"))
    assert digest(extractor.unet) == digest(unet) and digest(extractor.vae) == digest(vae)
    ids = tokenizer([""], padding="max_length", max_length=7, return_tensors="pt").input_ids
    assert torch.equal(extractor.empty_prompt, text(ids).last_hidden_state.detach())
    assert extractor.empty_prompt.shape == (1, 7, 16) and extractor.empty_prompt.abs().max() > 0.1
    assert extractor.prediction_type == "v_prediction"
    betas = torch.linspace(0.001, 0.02, 500)
    torch.testing.assert_close(extractor.alpha_bar, torch.cumprod(1 - betas, 0))
    assert extractor.grid.tolist() == [0, 125, 250, 375]  # of its own 500 timesteps


def test_pictures_become_scaled_latents_of_the_pipelines_vae(tiny, tmp_path):
    _, vae, _, _ = stable_diffusion(tmp_path)
    extractor = build.image_features(tiny(f"image.weights={tmp_path}"))
    image = torch.rand(2, 3, 16, 16) * 2 - 1
    wanted = vae.encode(image).latent_dist.mean * 0.18215
    assert torch.equal(extractor.to_latents(image), wanted.detach()) and wanted.shape == (2, 4, 8, 8)
    system = build.system(tiny(f"image.weights={tmp_path}", "image.reading=noised"))
    assert build.noise_shapes(tiny(), system)["image_noise"] == (4, 8, 8)


def test_a_scheduler_that_names_no_prediction_type_means_epsilon(tiny, tmp_path):
    stable_diffusion(tmp_path, {k: v for k, v in SCHEDULER.items() if k != "prediction_type"})
    assert build.image_features(tiny(f"image.weights={tmp_path}")).prediction_type == "epsilon"


def test_a_pipeline_without_text_encoder_has_a_zero_prompt(tiny, tmp_path):
    stable_diffusion(tmp_path)
    shutil.rmtree(tmp_path / "text_encoder")
    prompt = build.image_features(tiny(f"image.weights={tmp_path}")).empty_prompt
    assert prompt.shape == (1, 1, 16) and not prompt.any()


def test_a_pipeline_without_its_unet_is_one_sentence(tiny, tmp_path):
    stable_diffusion(tmp_path)
    shutil.rmtree(tmp_path / "unet")
    assert str(tmp_path / "unet") in error_of(build.image_features, tiny(f"image.weights={tmp_path}"))


@pytest.mark.parametrize("part", ["scheduler", "tokenizer"])
def test_a_pipeline_without_a_small_part_is_one_sentence(part, tiny, tmp_path):
    stable_diffusion(tmp_path)
    shutil.rmtree(tmp_path / part)
    assert part in error_of(build.image_features, tiny(f"image.weights={tmp_path}"))


@pytest.mark.parametrize("vae", [True, False])
def test_the_exported_stand_in_comes_back(vae, tiny, tmp_path):
    config = tiny(
        "task=image_diffusion",
        f"image.vae={vae}",
        "image.vae_block_out_channels=[8, 8]",
        "image.prediction_type=v_prediction",
        "diffusion.beta_end=0.02",
    )
    part = build.part(config)
    build.export_part(part, config, tmp_path / "mine" / "export")
    back = build.image_features(tiny("image.weights=run:mine", f"runs_dir={tmp_path}"))
    assert digest(back) == digest(part) and back.prediction_type == "v_prediction" and (back.vae is not None) == vae
    assert torch.equal(back.alpha_bar, alphas_cumprod(DiffusionConfig(beta_end=0.02)))


# --- music UNet -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sub", ["", "unet"])
def test_a_diffusers_folder_gives_the_music_unet(sub, tiny, tmp_path):
    config = tiny(f"denoiser.weights={tmp_path}", "denoiser.gradient_checkpointing=true")
    published = music_unet(config)
    published.save_pretrained(tmp_path / sub)
    system = build.system(config)
    assert digest(system.denoiser.unet) == digest(published) and system.denoiser.unet.is_gradient_checkpointing


def test_tangos_file_gives_the_music_unet_and_tells_what_is_left_out(tiny, tmp_path, caplog):
    config = tiny(f"denoiser.weights={tmp_path}", *TANGO_AUDIO)
    published = music_unet(config)
    tango(tmp_path, published)
    assert digest(build.system(config).denoiser.unet) == digest(published)
    assert "left out are 1 tensors text_encoder.* (frozen FLAN-T5" in caplog.text
    message = error_of(build.system, tiny(f"denoiser.weights={tmp_path}"))
    assert "was trained for audio.framing=centred, but it is hifigan here" in message


def test_tangos_file_of_the_published_architecture_gives_the_music_unet(tiny, tmp_path):
    """configs/diffusion_model_config.json of declare-lab/tango sets both."""
    config = tiny(f"denoiser.weights={tmp_path}", *TANGO_AUDIO)
    published = music_unet(config, use_linear_projection=True, upcast_attention=True)
    tango(tmp_path, published)
    unet = build.system(config).denoiser.unet
    assert digest(unet) == digest(published) and unet.config.upcast_attention


@pytest.mark.parametrize("change", [lambda s: s.pop("unet.conv_in.bias"), lambda s: s.update({"unet.more": torch.zeros(1)})])
def test_tangos_file_is_loaded_strictly(change, tiny, tmp_path):
    config = tiny(f"denoiser.weights={tmp_path}", *TANGO_AUDIO)
    tango(tmp_path, music_unet(config), change)
    with pytest.raises(RuntimeError, match="conv_in.bias|more"):
        build.system(config)


@pytest.mark.parametrize("change", [lambda s: s.pop("unet.conv_in.bias"), None])
def test_a_wrong_tango_file_is_one_sentence(change, tiny, tmp_path):
    config = tiny(f"denoiser.weights={tmp_path}", *TANGO_AUDIO)
    tango(tmp_path, music_unet(config), change or (lambda state: None))
    if change is None:
        (tmp_path / "pytorch_model_main.bin").write_bytes(b"junk")
    assert str(tmp_path) in error_of(build.system, config)


def test_tangos_file_runs_no_code(tiny, tmp_path):
    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "sprung"),))

    config = tiny(f"denoiser.weights={tmp_path}", *TANGO_AUDIO)
    tango(tmp_path, music_unet(config), lambda state: state.update({"unet.trap": Trap()}))
    with pytest.raises(Exception, match="[Ww]eights"):
        build.system(config)
    assert not (tmp_path / "sprung").exists()


def test_a_unet_for_other_text_is_one_sentence(tiny, tmp_path):
    music_unet(tiny(), cross_attention_dim=24).save_pretrained(tmp_path)
    message = error_of(build.system, tiny(f"denoiser.weights={tmp_path}"))
    assert str(tmp_path) in message and "width 24" in message and "gives 16" in message


def test_a_unet_for_other_latents_is_one_sentence(tiny, tmp_path):
    music_unet(tiny(), in_channels=8, out_channels=8).save_pretrained(tmp_path / "unet")
    assert "channels" in error_of(build.system, tiny(f"denoiser.weights={tmp_path}"))


def test_the_latent_shape_is_that_of_the_vae_that_is_loaded(tiny, tmp_path):
    build.export_part(build.part(tiny("task=music_vae", "music_vae.latent_channels=6")), tiny("task=music_vae"), tmp_path)
    with pytest.raises(WeightsError, match="has 6 latent channels, but music_vae.latent_channels=4") as caught:
        build.system(tiny(f"music_vae.weights={tmp_path}"))
    assert one_sentence(caught.value)
    system = build.system(tiny(f"music_vae.weights={tmp_path}", "music_vae.latent_channels=6"))
    assert system.latent_shape()[0] == system.codec.music_vae.autoencoder.config.latent_channels == 6


@pytest.mark.parametrize(("kind", "count"), [("unet", 2), ("ace_step", 2), ("stable_audio", 2)])
def test_a_synapse_listens_in_the_backbones_own_layers_where_none_are_named(tiny, kind, count):
    specs = build.system(tiny(f"denoiser.kind={kind}", "synapse.kind=concat")).denoiser.synapse.specs.values()
    side = "decoder" if kind == "unet" else "block"
    assert {spec.block.rstrip("0123456789") for spec in specs} == {side} and len({spec.block for spec in specs}) == count


@pytest.mark.parametrize(
    "override", ["synapse.layers=[nothing]", "image.block_out_channels=[8, 32]", "image.attention_blocks=[true, false]"]
)
def test_a_synapse_that_does_not_fit_is_an_error_that_main_prints(override, tiny):
    with pytest.raises(ConfigError) as caught:
        build.system(tiny(override))
    assert one_sentence(caught.value)


# --- text encoders --------------------------------------------------------------------------------------------------


def test_a_t5_folder(tiny, tmp_path):
    published = t5_text(tmp_path)
    encoder = build.text_encoder(tiny(f"text_encoder.weights={tmp_path}"))
    assert isinstance(encoder.network, T5EncoderModel) and digest(encoder.network) == digest(published)
    ids, mask = encoder.tokenize(["rain"])
    wanted = published(input_ids=ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(encoder(["rain"]).text_embeds, wanted.detach())


def test_a_clip_folder(tiny, tmp_path):
    published = clip_text()
    published.save_pretrained(tmp_path / "model")
    twins.byte_tokenizer().save_pretrained(tmp_path / "model")
    encoder = build.text_encoder(tiny(f"text_encoder.weights={tmp_path}:model"))
    assert isinstance(encoder.network, CLIPTextModel) and digest(encoder.network) == digest(published)


@pytest.mark.parametrize("file", ["model.safetensors"])
def test_a_folder_without_weights_is_one_sentence(file, tiny, tmp_path):
    t5_text(tmp_path)
    (tmp_path / file).unlink()
    assert str(tmp_path) in error_of(build.text_encoder, tiny(f"text_encoder.weights={tmp_path}"))


@pytest.mark.parametrize(("file", "content"), [("config.json", b""), ("config.json", b"{}"), ("model.safetensors", b"junk")])
def test_a_damaged_text_folder_is_one_sentence(file, content, tiny, tmp_path):
    t5_text(tmp_path)
    (tmp_path / file).write_bytes(content)
    assert str(tmp_path) in error_of(build.text_encoder, tiny(f"text_encoder.weights={tmp_path}"))


def test_a_text_folder_without_a_tokenizer_is_one_sentence(tiny, tmp_path):
    """Silently, every caption became <unk>: the text was never used."""
    t5_text(tmp_path)
    for file in tmp_path.glob("tokenizer*"):
        file.unlink()
    assert "tokenizer" in error_of(build.text_encoder, tiny(f"text_encoder.weights={tmp_path}"))


# --- missing weights ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["denoiser", "text_encoder", "music_vae", "image"])
def test_a_folder_that_lacks_a_weight_is_refused(part, tiny, tmp_path):
    """Defect 9 of the release: strict=False loads."""
    config = tiny()
    if part == "denoiser":
        music_unet(config).save_pretrained(tmp_path)
        file, call = tmp_path / "diffusion_pytorch_model.safetensors", build.system
    elif part == "text_encoder":
        t5_text(tmp_path)
        file, call = tmp_path / "model.safetensors", build.text_encoder
    elif part == "music_vae":
        build.export_part(build.part(tiny("task=music_vae")), tiny("task=music_vae"), tmp_path)
        file, call = tmp_path / "diffusion_pytorch_model.safetensors", build.music_vae
    else:
        stable_diffusion(tmp_path)
        file, call = tmp_path / "unet" / "diffusion_pytorch_model.safetensors", build.image_features
    edit_safetensors(file, lambda state: state.pop(sorted(state)[0]))
    getattr(config, part).weights = str(tmp_path)
    assert str(tmp_path) in error_of(call, config)


# --- seeds ----------------------------------------------------------------------------------------------------------


def digests(system):
    return {name: digest(getattr(system, name)) for name in ("codec", "conditioner", "image_encoder", "denoiser")}


def test_two_builds_are_equal_to_the_bit_and_another_seed_is_not(tiny):
    torch.manual_seed(1)
    first = digests(build.system(tiny()))
    state = torch.get_rng_state()
    torch.manual_seed(2)
    second = digests(build.system(tiny()))
    assert first == second
    other = digests(build.system(tiny("seed=1")))
    assert all(first[name] != other[name] for name in first)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)  # the caller's generator is left alone


def test_a_part_is_built_like_that_of_another_process(tiny):
    for task in ("music_vae", "image_diffusion"):
        config = tiny(f"task={task}")
        assert digest(build.part(config)) == digest(build.part(config))


def test_noise_shapes_follow_what_is_read(tiny):
    latent = {"vae_noise": (4, 16, 4), "noise": (4, 16, 4)}
    assert build.noise_shapes(tiny(), build.system(tiny())) == latent
    noised = tiny("image.reading=noised")
    assert build.noise_shapes(noised, build.system(noised)) == latent | {"image_noise": (3, 16, 16)}
    text_only = tiny("synapse.kind=none", "image.reading=noised")
    assert build.noise_shapes(text_only, build.system(text_only)) == latent
    assert build.system(text_only).image_encoder is None
    vae, picture = tiny("task=music_vae"), tiny("task=image_diffusion")
    assert build.noise_shapes(vae, build.part(vae)) == {"vae_noise": (4, 16, 4)}
    assert build.noise_shapes(picture, build.part(picture)) == {"image_noise": (3, 16, 16)}


def test_the_byte_tokenizer_takes_every_byte():
    tokenizer = twins.byte_tokenizer()
    text = "".join(chr(c) for c in range(32, 300)) + "♫ 音"
    assert tokenizer.decode(tokenizer([text]).input_ids[0][:-1]) == text
    assert tokenizer([""]).input_ids == [[1]] and len(tokenizer) == 258


@pytest.mark.parametrize("weights", ["shipped", "null"])
def test_by_itself_the_decoder_trains_on_top_of_weights_and_all_of_it_without(weights):
    config = load_config("scenes", [f"denoiser.weights={weights}"])
    unet = build.synaptic_unet(config, 384, build.image_features(config)).unet
    trains = {name for name, p in unet.named_parameters() if p.requires_grad}
    assert "up_blocks.1.resnets.0.conv1.weight" in trains
    assert any(name.startswith("down_blocks") for name in trains) == (weights == "null") == ("conv_in.weight" in trains)
