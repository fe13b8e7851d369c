"""Files of torch.save → networks: each published or wrapped form whole, all else one sentence, no random number left."""

import json
import zipfile

import building as build
import pytest
import torch
from data_fixtures import one_sentence
from metric_fixtures import vggish_state
from safetensors.torch import load_file, save_file
from weights_fixtures import TANGO_AUDIO, error_of, music_unet, t5_text, tango

from melfusion.assembly.load import export_system, load_system
from melfusion.errors import CheckpointError
from melfusion.listeners.embedders import embedder
from melfusion.media.options import AudioConfig
from melfusion.models.frozen import digest

TEXT = {"text_encoder.shared.weight": torch.zeros(3)}
FILE = "pytorch_model_main.bin"


def prefixed(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


def half(state):
    return {name: tensor.half() for name, tensor in state.items()}


WHOLE = {
    "published": lambda s: prefixed(s, "unet.") | TEXT,
    "bare": lambda s: s,
    "DataParallel": lambda s: prefixed(prefixed(s, "unet.") | TEXT, "module."),
    "DataParallel of the UNet": lambda s: prefixed(s, "unet.module.") | TEXT,
    "bare DataParallel": lambda s: prefixed(s, "module."),
    "compiled": lambda s: prefixed(s, "_orig_mod."),
    "nested": lambda s: {"epoch": 3, "state_dict": prefixed(s, "unet.")},
    "nested otherwise": lambda s: {"model": s},
    "float16": lambda s: prefixed(half(s), "unet."),
}


@pytest.mark.parametrize("form", WHOLE)
def test_each_form_of_tangos_file_is_loaded_whole(form, tiny, tmp_path):
    config = tiny(f"denoiser.weights={tmp_path}", "synapse.kind=none", *TANGO_AUDIO)
    published = music_unet(config)
    torch.save(WHOLE[form](published.state_dict()), tmp_path / FILE)
    if form == "float16":
        published.load_state_dict(half(published.state_dict()))
    unet = build.synaptic_unet(config, 16, None).unet
    assert digest(unet) == digest(published) and {p.dtype for p in unet.parameters()} == {torch.float32}


REFUSED = {  # form → words that must be there: what was found, what was wanted
    "empty": (lambda s: {}, "an empty dict"),
    "list": (lambda s: [s], "type list, where tensors by name are wanted"),
    "tensor": (lambda s: s["conv_in.weight"], "type Tensor, where"),
    "nested empty": (lambda s: {"state_dict": {}}, "an empty dict"),
    "nested twice": (lambda s: {"state_dict": {"model": s}}, "type OrderedDict under 'model'"),
    "text alone": (lambda s: TEXT, "'unet.conv_in.weight' or a 'conv_in.weight', but 'text_encoder.shared.weight'"),
    "another prefix": (lambda s: prefixed(s, "net."), "'net.conv_in.weight'"),
    "maps around it": (lambda s: prefixed(s, "unet.") | {"group_in.0.weight": torch.zeros(2)}, "'group_in.0.weight'"),
    "two wrappers": (lambda s: prefixed(s, "unet.") | prefixed(s, "module.unet."), "'module.unet.conv_in.weight'"),
    "no tensor": (lambda s: prefixed(s, "unet.") | {"step": 3}, "type int under 'step'"),
    "lacks one": (lambda s: prefixed({n: t for n, t in s.items() if n != "conv_in.bias"}, "unet."), "lacks 'conv_in.bias'"),
    "one more": (lambda s: s | {"more": torch.zeros(1)}, "it has 'more'"),
    "another size": (lambda s: s | {"conv_in.bias": torch.zeros(5)}, "floats of (5,) and not floats of (8,)"),
    "integers": (lambda s: s | {"conv_in.bias": torch.zeros(8, dtype=torch.int8)}, "int8 of (8,) and not"),
}


@pytest.mark.parametrize("form", REFUSED)
def test_all_else_is_one_sentence_with_what_was_found_and_wanted(form, tiny, tmp_path):
    config = tiny(f"denoiser.weights={tmp_path}", "synapse.kind=none", *TANGO_AUDIO)
    change, words = REFUSED[form]
    torch.save(change(music_unet(config).state_dict()), tmp_path / FILE)
    message = error_of(build.synaptic_unet, config, 16, None)
    assert words in message and str(tmp_path) in message


def test_the_file_is_mapped_and_the_network_is_no_view_of_it(tiny, tmp_path, monkeypatch, caplog):
    config = tiny(f"denoiser.weights={tmp_path}", "synapse.kind=none", *TANGO_AUDIO)
    tango(tmp_path, music_unet(config))
    before, load, mapped = (tmp_path / FILE).read_bytes(), torch.load, []
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: [mapped.append(kwargs["mmap"]), load(*args, **kwargs)][1])
    unet = build.synaptic_unet(config, 16, None).unet
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.add_(1)
    assert mapped == [True] and (tmp_path / FILE).read_bytes() == before
    assert [text for text in caplog.messages if "left out are" not in text] == []  # nothing of how it was read


@pytest.mark.parametrize("form", ["older", "packed again"])
def test_what_cannot_be_mapped_is_read_with_a_word_about_it(form, tiny, tmp_path, caplog):
    config = tiny(f"denoiser.weights={tmp_path}", "synapse.kind=none", *TANGO_AUDIO)
    published = music_unet(config)
    torch.save(published.state_dict(), tmp_path / FILE, _use_new_zipfile_serialization=form != "older")
    if form == "packed again":
        with zipfile.ZipFile(tmp_path / FILE) as archive:
            entries = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
        with zipfile.ZipFile(tmp_path / FILE, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in entries:
                archive.writestr(name, data)
    assert digest(build.synaptic_unet(config, 16, None).unet) == digest(published)
    assert "every process reads all of it" in caplog.text


def test_the_parts_after_it_draw_the_same_numbers_as_without_weights(tiny, tmp_path):
    config = tiny(f"denoiser.weights={tmp_path}", "vocoder.kind=vocos", *TANGO_AUDIO)
    tango(tmp_path, music_unet(config))
    loaded, drawn = build.system(config), build.system(tiny("vocoder.kind=vocos"))
    for part in ("codec", "conditioner", "image_encoder"):
        assert digest(getattr(loaded, part)) == digest(getattr(drawn, part)), part


# --- the other places where weights are filtered ----------------------------------------------------------------------


def test_an_embedders_file_may_be_wrapped(tmp_path):
    state = vggish_state()
    torch.save({"state_dict": prefixed(state, "module.")}, tmp_path / "a.pth")
    network = embedder("vggish", str(tmp_path), AudioConfig()).network
    assert all(torch.equal(network.state_dict()[name], t) for name, t in state.items())


@pytest.mark.parametrize(("content", "words"), [({}, "an empty dict"), ({"a.b": torch.zeros(1)}, "'a.b'")])
@pytest.mark.parametrize("name", ["vggish", "panns"])
def test_an_embedders_other_file_is_refused_by_what_it_holds(name, content, words, tmp_path):
    torch.save(content, tmp_path / "a.pth")
    message = error_of(embedder, name, str(tmp_path), AudioConfig())
    assert words in message and name in message


def test_weights_that_the_configuration_does_not_describe_are_refused(tiny, tmp_path):
    config = tiny(f"denoiser.weights={tmp_path}", "synapse.kind=none", *TANGO_AUDIO)
    music_unet(config).save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    save_file(load_file(file) | {"class_embedding.weight": torch.zeros(2)}, file, metadata={"format": "pt"})
    assert "'class_embedding.weight'" in error_of(build.synaptic_unet, config, 16, None)


def test_what_a_larger_model_holds_beside_a_text_encoder_is_named_once_it_is_unknown(tiny, tmp_path, caplog):
    published = t5_text(tmp_path)
    file = tmp_path / "model.safetensors"
    for name in ("decoder.final_layer_norm.weight", "lm_head.weight"):
        save_file(load_file(file) | {name: torch.zeros(2)}, file, metadata={"format": "pt"})
    config = tiny(f"text_encoder.weights={tmp_path}")
    assert digest(build.text_encoder(config).network) == digest(published) and "is not used" not in caplog.text
    save_file(load_file(file) | {"stranger.weight": torch.zeros(2)}, file, metadata={"format": "pt"})
    build.text_encoder(config)
    assert "holds more than a T5EncoderModel, which is not used: 'stranger.weight'" in caplog.text


@pytest.mark.parametrize(
    "change",
    [
        lambda t: {},
        lambda t: t | {"mel_mean": None},
        lambda t: t | {"latent_std": 1.0},
        lambda t: t | {"latent_mean": [float("nan")] * 4},
        lambda t: [t],
    ],
)
def test_a_music_vaes_statistics_are_read_whole(change, tiny, tmp_path):
    config = tiny("task=music_vae")
    build.export_part(build.part(config), config, tmp_path)
    file = tmp_path / "melfusion.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    assert str(file) in error_of(build.music_vae, tiny(f"music_vae.weights={tmp_path}"))


def test_an_exported_system_without_one_of_its_tensors_is_one_sentence(tiny, tmp_path):
    config = tiny()
    export_system(build.system(config), config, tmp_path)
    load_system(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors.pop("denoiser.unet.conv_in.bias")
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load_system(tmp_path)
    assert "denoiser.unet.conv_in.bias" in one_sentence(caught.value)


def test_an_average_that_lacks_a_tensor_is_not_mixed_with_the_last_step(tiny, tmp_path):
    config = tiny()
    system = build.system(config)
    stored = {"state_dict": system.state_dict(), "ema": {n: p.detach() for n, p in system.named_parameters() if p.requires_grad}}
    system.on_save_checkpoint(stored)
    torch.save(stored, tmp_path / "a.ckpt")
    load_system(tmp_path / "a.ckpt")
    del stored["ema"]["denoiser.unet.conv_in.bias"]
    torch.save(stored, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError) as caught:
        load_system(tmp_path / "a.ckpt")
    assert "denoiser.unet.conv_in.bias" in one_sentence(caught.value)
    load_system(tmp_path / "a.ckpt", ema=False)
