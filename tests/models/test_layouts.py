"""Published layouts that are near misses: one sentence says what is there, what is wanted and what to do."""

import copy
import json
import shutil

import building as build
import pytest
import torch
from data_fixtures import one_sentence
from diffusers import AutoencoderKL
from metric_fixtures import clap_twin
from safetensors.torch import save_file
from weights_fixtures import stable_diffusion, t5_text

from melfusion.assembly.configuration import load_config
from melfusion.errors import WeightsError
from melfusion.listeners.embedders import embedder
from melfusion.models.frozen import digest

TINY = load_config("tiny", ["synapse.kind=none"])
ONE = torch.zeros(1)
LDM = {f"{name}.weight": ONE for name in ("model.diffusion_model.a", "first_stage_model.b", "cond_stage_model.c")}
AUDIOLDM = LDM | {"first_stage_model.vocoder.a": ONE, "cond_stage_model.model.text_branch.a": ONE}
STABLE = LDM | {"cond_stage_model.transformer.text_model.a": ONE}
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{64 * '4'}\nsize 3132668804\n"


@pytest.fixture(scope="module")
def sd(tmp_path_factory):
    """A whole pipeline with its model_index.json, not to be written to."""
    folder = tmp_path_factory.mktemp("sd")
    stable_diffusion(folder)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    return folder


def refusal(part, weights):
    """What building this part from these weights says."""
    config = copy.deepcopy(TINY)
    getattr(config, part).weights = str(weights)
    make = {"denoiser": lambda: build.synaptic_unet(config, 16, None), "image": lambda: build.image_features(config)}
    with pytest.raises(WeightsError) as caught:
        make.get(part, lambda: getattr(build, part)(config))()
    message = one_sentence(caught.value)
    assert "connect" not in message and "huggingface.co" not in message and "torch.nn" not in message
    return message


def save(state, file):
    if file.suffix == ".safetensors":
        save_file({n: t.clone() for n, t in state.items()}, file)
    else:
        torch.save({"state_dict": state}, file)
    return file


def config_json(folder, **tree):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(tree))
    return folder


# --- one file for everything ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "name", "what", "cure"),
    [
        (AUDIOLDM, "a.ckpt", "a single-file AudioLDM checkpoint", "hub:cvssp/audioldm-s-full-v2"),
        (LDM, "audioldm-s-full.ckpt", "a single-file AudioLDM checkpoint", "hub:cvssp/audioldm-s-full-v2"),
        ({"cond_stage_models.0.a": ONE}, "b.pth", "a single-file AudioLDM 2 checkpoint", "configs/melfusion.yaml"),
        (STABLE, "v1-5-pruned.ckpt", "a single-file Stable Diffusion checkpoint", "from_single_file(FILE).save_pretrained(FOLDER)"),
        (STABLE, "v1-5-pruned.safetensors", "a single-file Stable Diffusion checkpoint", "from_single_file(FILE)"),
        (LDM, "c.safetensors", "a single-file checkpoint of a latent diffusion model", "from_single_file(FILE)"),
    ],
)
@pytest.mark.parametrize("given", ["file", "folder"])
def test_a_single_file_checkpoint(given, state, name, what, cure, tmp_path):
    file = save(state, tmp_path / name)
    audioldm = what == "a single-file AudioLDM checkpoint"
    for part in ("music_vae", "image", "denoiser", "text_encoder", "judge"):
        message = refusal(part, file if given == "file" else tmp_path)
        if audioldm and (part, given) == ("music_vae", "file"):  # which is read, and lacks all tensors but two
            assert "is not AudioLDM's published file: it lacks '" in message
            continue
        assert what in message and "is wanted: " in message
        said = "one vector (FiLM)" if audioldm and part == "denoiser" else cure
        assert said in message or (part, given) == ("judge", "folder")


def test_other_files_in_place_of_a_folder(sd, tmp_path):
    assert f"give the folder {sd / 'vae'}" in refusal("music_vae", sd / "vae" / "diffusion_pytorch_model.safetensors")
    torch.save({"unet.conv_in.weight": ONE}, tmp_path / "pytorch_model_main.bin")
    message = refusal("denoiser", tmp_path / "pytorch_model_main.bin")
    assert "is no folder but Tango's file, and a UNet2DConditionModel is wanted: give its folder" in message
    torch.save({"state_dict": {"unet.unet.conv_in.weight": ONE}, "optimizer_states": []}, tmp_path / "step.ckpt")
    assert "a checkpoint of a training run, and" in refusal("denoiser", tmp_path / "step.ckpt")


# --- folders ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "sub", "words"),
    [
        ("music_vae", "", "a whole pipeline (StableDiffusionPipeline), but an AutoencoderKL is wanted: add :vae"),
        ("text_encoder", "", "but a text encoder in transformers' layout is wanted: add :text_encoder"),
        ("vocoder", "", "but a SpeechT5HifiGan is wanted: configs/melfusion.yaml names"),
        ("judge", "", "but a part that melfusion trained (part.json and model.safetensors) is wanted: give shipped or run:NAME."),
        ("image", "unet", "a UNet2DConditionModel of diffusers, but the folder of a whole pipeline (unet, vae,"),
        ("image", "vae", "an AutoencoderKL of diffusers, but the folder of a whole pipeline (unet, vae,"),
        ("denoiser", "vae", "an AutoencoderKL of diffusers, but a UNet2DConditionModel is wanted"),
        ("music_vae", "unet", "a UNet2DConditionModel of diffusers, but an AutoencoderKL is wanted"),
        ("music_vae", "text_encoder", "a CLIPTextModel of transformers, but an AutoencoderKL is wanted"),
        ("vocoder", "text_encoder", "a CLIPTextModel of transformers, but a SpeechT5HifiGan is wanted"),
        ("text_encoder", "vae", "an AutoencoderKL of diffusers, but a text encoder in transformers' layout is wanted"),
        ("denoiser", "tokenizer", "a folder without config.json (it holds"),
        ("music_vae", "none", "has scheduler, text_encoder, tokenizer, unet, vae"),
    ],
)
def test_a_pipeline_or_another_part_of_it(part, sub, words, sd):
    message = refusal(part, f"{sd}:{sub}" if sub else sd)
    assert words in message and str(sd) in message
    assert part != "image" or message.endswith(f"give {sd}.")


@pytest.mark.parametrize(
    ("part", "tree", "words"),
    [
        (
            "denoiser",
            {"_class_name": "AudioLDM2UNet2DConditionModel"},
            "an AudioLDM2UNet2DConditionModel of diffusers, but a UNet2D",
        ),
        (
            "denoiser",
            {"_class_name": "UNet2DConditionModel", "class_embed_type": "simple_projection"},
            "that wants more than text (class_embed_type=simple_projection), but",
        ),
        (
            "denoiser",
            {"architectures": ["T5ForConditionalGeneration"], "model_type": "t5"},
            "T5ForConditionalGeneration of transformers",
        ),
        ("text_encoder", {"model_type": "hifigan", "architectures": ["SpeechT5HifiGan"]}, "a SpeechT5HifiGan of transformers, but"),
        ("music_vae", {}, "a folder whose config.json names no network"),
        ("music_vae", [], "a folder whose config.json names no network"),
    ],
)
def test_a_config_json_of_another_network(part, tree, words, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(tree))
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    assert words in refusal(part, tmp_path)


def test_audioldm_2s_unet_inside_its_pipeline(tmp_path):
    (tmp_path / "model_index.json").write_text("{}")
    config_json(tmp_path / "unet", _class_name="AudioLDM2UNet2DConditionModel", block_out_channels=[8, 16])
    for part in ("denoiser", "image"):
        assert "an AudioLDM2UNet2DConditionModel of diffusers" in refusal(part, tmp_path)


@pytest.mark.parametrize(
    ("mark", "words"),
    [
        ("system.json", "CKPT="),
        ("part.json", "a part that melfusion trained, but"),
        ("checkpoints", "run:NAME"),
        ("pytorch_model_main.bin", "Tango's published folder, but an AutoencoderKL is wanted: give it as denoiser.weights"),
    ],
)
def test_folders_of_this_project_and_tangos_in_the_wrong_place(mark, words, tmp_path):
    (tmp_path / mark).write_text("{}")
    assert words in refusal("music_vae", tmp_path)


@pytest.mark.parametrize("part", ["music_vae", "denoiser", "text_encoder", "vocoder", "judge", "image"])
def test_an_empty_folder_and_a_clone_without_its_large_files(part, tmp_path):
    assert "is an empty folder, but" in refusal(part, tmp_path)
    config_json(tmp_path, _class_name="AutoencoderKL")
    (tmp_path / "spiece.model").write_text(POINTER)
    assert "spiece.model is a Git LFS pointer), but" in (message := refusal(part, tmp_path)) and "git lfs pull" in message


def test_a_clone_may_lack_the_formats_that_are_not_read(tiny, tmp_path):
    t5_text(tmp_path)
    for name in ("flax_model.msgpack", "pytorch_model.bin", "tf_model.h5"):
        (tmp_path / name).write_text(POINTER)
    build.text_encoder(tiny(f"text_encoder.weights={tmp_path}"))
    (tmp_path / "model.safetensors").write_text(POINTER)
    assert "model.safetensors is a Git LFS pointer" in refusal("text_encoder", tmp_path)


def test_pointers_in_place_of_single_files(tmp_path):
    (tmp_path / "pytorch_model_main.bin").write_text(POINTER)
    assert "git lfs pull" in refusal("denoiser", tmp_path)
    assert "git lfs pull" in refusal("denoiser", tmp_path / "pytorch_model_main.bin")


# --- weights that are there in part, or in another type ---------------------------------------------------------------


def vae():
    torch.manual_seed(0)
    return AutoencoderKL(
        latent_channels=4,
        block_out_channels=[8, 8, 16],
        layers_per_block=1,
        norm_num_groups=4,
        in_channels=1,
        out_channels=1,
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
    )


@pytest.mark.parametrize("size", ["1GB", "20KB"], ids=["whole", "sharded"])
@pytest.mark.parametrize("kind", ["fp16", "bf16"])
def test_weights_in_half_precision_alone_are_read_exactly(kind, size, tiny, tmp_path):
    published = vae().to({"fp16": torch.float16, "bf16": torch.bfloat16}[kind])
    published.save_pretrained(tmp_path, variant=kind, max_shard_size=size)
    assert len(list(tmp_path.glob(f"*.{kind}*.safetensors"))) == (1 if size == "1GB" else 6)
    found = build.music_vae(tiny(f"music_vae.weights={tmp_path}")).autoencoder
    assert digest(found) == digest(published.float())


def test_full_precision_is_taken_where_both_are_there(tiny, tmp_path):
    published = vae()
    published.save_pretrained(tmp_path)
    vae().half().save_pretrained(tmp_path, variant="fp16")
    assert digest(build.music_vae(tiny(f"music_vae.weights={tmp_path}")).autoencoder) == digest(published)


def test_half_precision_in_transformers_layout(tiny, tmp_path):
    published = t5_text(tmp_path).half()
    (tmp_path / "model.safetensors").unlink()
    published.save_pretrained(tmp_path, variant="fp16")
    assert digest(build.text_encoder(tiny(f"text_encoder.weights={tmp_path}")).network) == digest(published.float())


def test_a_missing_shard_is_named(tmp_path):
    vae().save_pretrained(tmp_path, max_shard_size="20KB")
    first = min(tmp_path.glob("*.safetensors"))
    first.unlink()
    assert f"lacks 1 of the files of its weights, the first {first.name}" in refusal("music_vae", tmp_path)


def test_an_index_of_another_format_whose_files_were_not_fetched_does_not_matter(tiny, tmp_path):
    """As the hub's FLAN-T5-XL has it, of which no .bin is fetched."""
    t5_text(tmp_path)
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": "pytorch_model-00001-of-00002.bin"}}))
    build.text_encoder(tiny(f"text_encoder.weights={tmp_path}"))


@pytest.mark.parametrize("part", ["music_vae", "denoiser", "text_encoder"])
def test_a_configuration_without_weights(part, sd, tmp_path):
    sub = {"music_vae": "vae", "denoiser": "unet", "text_encoder": "text_encoder"}[part]
    shutil.copytree(sd / "tokenizer", tmp_path, dirs_exist_ok=True)
    shutil.copy(sd / sub / "config.json", tmp_path)
    (tmp_path / "diffusion_pytorch_model.non_ema.safetensors").write_bytes(b"")
    message = refusal(part, tmp_path)
    assert "and no weights (it holds config.json, diffusion_pytorch_model.non_ema.safetensors" in message


def test_weights_without_their_configuration(sd, tmp_path):
    shutil.copy(sd / "vae" / "diffusion_pytorch_model.safetensors", tmp_path)
    assert "a folder without config.json (it holds diffusion_pytorch_model.safetensors)" in refusal("music_vae", tmp_path)


def test_a_vision_model_is_no_text_encoder(tmp_path):
    config_json(tmp_path, model_type="clip_vision_model", architectures=["CLIPVisionModel"])
    assert "a CLIPVisionModel of transformers, but a text encoder" in refusal("text_encoder", tmp_path)


def test_a_small_file_that_is_missing_is_no_question_of_a_connection(tmp_path):
    clap_twin(tmp_path)
    for file in tmp_path.glob("*processor_config.json"):
        file.unlink()
    with pytest.raises(WeightsError, match="loadable AutoFeatureExtractor: its files are 'config.json', ") as caught:
        embedder("clap", str(tmp_path), TINY.audio)
    assert "connect" not in one_sentence(caught.value)
    config_json(tmp_path, model_type="t5", architectures=["T5Model"])
    with pytest.raises(WeightsError, match="a T5Model of transformers, but a ClapModel is wanted: give hub:laion/"):
        embedder("clap", str(tmp_path), TINY.audio)
