"""The towers: their loss, that they learn what belongs together, what is stored of them, and how captions are read."""

import json
import math
from dataclasses import replace

import building as build
import pytest
import torch
from data_fixtures import data_set, make_sample, one_sentence
from safetensors.torch import load_file

from melfusion.assembly.configuration import load_config
from melfusion.data.collate import collate
from melfusion.data.datamodule import MusicDataModule
from melfusion.errors import WeightsError
from melfusion.listeners.towers import PAIRS, Towers, info_nce
from melfusion.models.weights import resolve
from melfusion.training.precompute import precompute, provenance

CAPTIONS = ["a music box by the sea", "drums in the city", "a flute in a forest", "strings on a mountain"]


@pytest.fixture
def built():
    config = load_config("towers,tiny", ["text_encoder.max_length=40"])  # the twin's tokens are bytes
    return config, build.part(config)


@pytest.fixture
def toy(built, make_batch):
    """Four clips, each a tone, a bright quarter of the picture and a caption of its own."""
    config, towers = built
    batch = make_batch(config, towers)
    t = torch.arange(batch.waveform.shape[1]) / config.audio.sample_rate_hz
    batch.waveform = torch.stack([0.3 * torch.sin(2 * torch.pi * f * t) for f in (250, 600, 1300, 2800)])
    quarters = torch.eye(4).reshape(4, 1, 2, 2).repeat_interleave(8, 2).repeat_interleave(8, 3)
    batch.image = 0.01 * batch.image + quarters
    batch.full_captions = list(CAPTIONS)
    return towers, batch


def cosines(towers, batch):
    with torch.no_grad():
        found = towers.eval().pairs(batch, towers.log_mel(batch.waveform))
    return {pair: ours @ text.T for pair, (ours, text) in found.items()}


def test_the_loss_is_that_of_a_hand_computation():
    a, b = torch.eye(2), torch.tensor([[0.6, 0.8], [0.8, -0.6]])
    # cosines [[.6, .8], [.8, -.6]] at scale 10: rows are picture → captions, columns caption → pictures, symmetric here
    rows = -(6 - math.log(math.exp(6) + math.exp(8))), -(-6 - math.log(math.exp(8) + math.exp(-6)))
    assert info_nce(a, b, 10.0).item() == pytest.approx(sum(rows) / 2, rel=1e-5)
    b = torch.tensor([[0.6, 0.8], [1.0, 0.0]])  # cosines [[.6, 1], [.8, 0]]: the two ways differ
    pictures = [math.log(math.exp(0.6) + math.e) - 0.6, math.log(math.exp(0.8) + 1)]
    captions = [math.log(math.exp(0.6) + math.exp(0.8)) - 0.6, math.log(math.e + 1)]
    assert info_nce(a, b, 1.0).item() == pytest.approx(sum(pictures + captions) / 4, rel=1e-5)


def test_a_step_is_the_mean_of_both_pairs_at_their_own_temperatures(toy):
    towers, batch = toy
    batch.draws["augment"].zero_()
    with torch.no_grad():
        towers.log_scales["audio"].fill_(1.0)
        towers.log_scales["image"].fill_(math.log(1e6))  # no sharper than 0.01
    assert towers.temperatures() == pytest.approx({"image": 0.01, "audio": math.exp(-1)})
    found = cosines(towers, batch)
    wanted = sum(info_nce(c, torch.eye(4), s) for c, s in ((found["audio"], math.e), (found["image"], 100.0))) / 2
    torch.testing.assert_close(towers.training_step(batch, 0), wanted)


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_they_learn_what_belongs_together(toy):
    towers, batch = toy
    made = towers.train().configure_optimizers()["optimizer"]
    for group in made.param_groups:
        group["lr"] = 1e-2
    for _ in range(40):
        made.zero_grad()
        towers.training_step(batch, 0).backward()
        made.step()
    for pair, found in cosines(towers, batch).items():
        assert (found.argmax(1) == torch.arange(4)).all(), pair
        assert found.diagonal().min() > found.masked_fill(torch.eye(4, dtype=bool), -1).max() + 0.1, pair


def test_the_two_spaces_are_separate_and_vectors_have_length_one(toy):
    towers, batch = toy
    texts = towers.text_of_image(CAPTIONS), towers.text_of_audio(CAPTIONS)
    assert not torch.allclose(*texts)
    for vectors in (*texts, towers.image(batch.image), towers.audio(batch.waveform)):
        assert vectors.shape == (4, 8)
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(4))
    larger = torch.nn.functional.interpolate(batch.image, scale_factor=4)
    assert (towers.image(larger) * towers.image(batch.image)).sum(1).min() > 0.95  # pictures of any size


def test_a_sentence_is_the_mean_of_its_tokens_without_padding_and_is_read_once(toy, monkeypatch):
    towers, _ = toy
    embeds, mask = towers.text_encoder(["a b", "a longer one"]).said().values()
    wanted = torch.stack([e[m].mean(0) for e, m in zip(embeds, mask, strict=True)])
    torch.testing.assert_close(towers.sentences(["a b", "a longer one"]), wanted)
    asked = []
    forward = type(towers.text_encoder).forward
    monkeypatch.setattr(type(towers.text_encoder), "forward", lambda self, c: asked.append(c) or forward(self, c))
    many = towers.sentences(["new", "a b", "new", *(f"caption {i}" for i in range(40))])
    assert sum(asked, []) == ["new", *(f"caption {i}" for i in range(40))] and max(len(c) for c in asked) <= 32
    assert torch.equal(many[0], many[2]) and torch.equal(many[1], towers.sentences(["a b"])[0])
    torch.testing.assert_close(many[10], towers.sentences(["caption 7"])[0])


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_a_batch_of_one_and_clips_without_a_picture_train(built, make_batch):
    config, towers = built
    assert towers.training_step(make_batch(config, towers, n=1), 0).item() == pytest.approx(0, abs=1e-6)
    batch = make_batch(config, towers)
    batch.has_image[1:3] = 0
    with_two = towers.pairs(batch, towers.log_mel(batch.waveform))
    assert {pair: len(ours) for pair, (ours, _) in with_two.items()} == {"audio": 4, "image": 2}
    torch.testing.assert_close(with_two["image"][0][1], towers.image(batch.image)[3])
    torch.testing.assert_close(with_two["image"][1][1], towers.text_of_image([batch.full_captions[3]])[0])
    deaf = make_batch(config, towers, images=False)
    towers.training_step(deaf, 0).backward()
    towers.validation_step(deaf, 0)
    assert all(p.grad is None for p in towers.image_tower.parameters())


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
def test_validation_counts_own_captions_and_equal_ones_as_found(toy, monkeypatch):
    towers, batch = toy
    found = {"audio": torch.tensor([[1.0, 0.2], [0.5, 0.3]]), "image": torch.tensor([[0.3, 0.3], [0.3, 0.3]])}
    monkeypatch.setattr(Towers, "pairs", lambda self, *args: {pair: (c, torch.eye(2)) for pair, c in found.items()})
    towers.validation_step(batch, 0)
    assert {pair: towers.retrieval[pair].compute().item() for pair in PAIRS} == {"audio": 0.5, "image": 1.0}


def test_written_towers_come_back_with_their_text_encoder_and_refuse_other_audio(toy, built, tmp_path):
    towers, batch = toy
    config, _ = built
    build.export_part(towers, config, tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert set(stored) == {name for name, p in towers.named_parameters() if p.requires_grad}
    # a configuration of other captions and sizes: towers bring their own
    again = build.towers(
        load_config(
            "tiny", [f"towers.weights={tmp_path}", "text_encoder.max_length=5", "towers.width=16", "text_encoder.hidden_size=32"]
        )
    )
    assert again.text_encoder.max_length == 40
    for pair in ("text_of_image", "text_of_audio"):
        assert torch.equal(getattr(again, pair)(CAPTIONS), getattr(towers, pair)(CAPTIONS))
    assert torch.equal(again.image(batch.image), towers.image(batch.image))
    assert torch.equal(again.audio(batch.waveform), towers.audio(batch.waveform))
    with pytest.raises(WeightsError, match="audio.n_mels=16, but it is 8") as error:
        build.towers(load_config("tiny", [f"towers.weights={tmp_path}", "audio.n_mels=8"]))
    assert one_sentence(error.value)


@pytest.mark.parametrize("sizes", [{"width": None}, {"embedding": -1}, {"text_encoder": {"nope": 1}}])
def test_sizes_that_no_towers_can_have_are_one_sentence(sizes, built, tmp_path):
    config, towers = built
    build.export_part(towers, config, tmp_path)
    tree = json.loads((tmp_path / "part.json").read_text())
    (tmp_path / "part.json").write_text(json.dumps(tree | {"sizes": tree["sizes"] | sizes}))
    with pytest.raises(WeightsError, match="part.json has sizes that no network can have") as error:
        build.towers(load_config("tiny", [f"towers.weights={tmp_path}"]))
    assert one_sentence(error.value)


def test_a_text_encoder_that_is_not_there_is_named_itself(built, tmp_path):
    config, towers = built
    build.export_part(towers, config, tmp_path)
    file = tmp_path / "part.json"
    tree = json.loads(file.read_text())
    tree["sizes"]["text_encoder"]["weights"] = str(tmp_path / "gone")
    file.write_text(json.dumps(tree))
    with pytest.raises(WeightsError) as error:
        build.towers(load_config("tiny", [f"towers.weights={tmp_path}"]))
    assert str(tmp_path / "gone") in one_sentence(error.value) and "sizes" not in str(error.value)


# --- the captions that tell everything ------------------------------------------------------------------------------


def test_full_captions_travel_from_the_shards_and_fall_back_to_the_caption(tiny, tmp_path):
    samples = [make_sample("a", full_caption="a, and all else"), make_sample("b"), make_sample("c", full_caption=None)]
    folder = data_set(tmp_path / "data", samples)
    config = tiny()
    dataset = MusicDataModule(replace(config.data, path=str(folder)), config.audio).dataset("train")
    batch = collate([dataset[i] for i in range(3)])
    assert batch.full_captions == ["a, and all else", "tune b", "tune c"] and batch.captions == ["tune a", "tune b", "tune c"]


def test_full_captions_survive_precomputing(tiny, tmp_path):
    folder = data_set(tmp_path / "data", [make_sample("a", full_caption="a, and all else"), make_sample("b")])
    config = tiny(f"data.path={folder}", f"data.precompute.path={tmp_path / 'pre'}")
    system = build.system(config)
    data = replace(config.data, path=str(precompute(config, system)), crop="start")
    dataset = MusicDataModule(data, config.audio, provenance=provenance(config, system)).dataset("train")
    assert collate([dataset[i] for i in range(2)]).full_captions == ["a, and all else", "tune b"]


def test_what_was_precomputed_names_how_many_words_were_read(tiny, tmp_path):
    folder = data_set(tmp_path / "data", [make_sample("a")])
    made = {
        words: provenance(c, build.system(c))
        for words in ("null", 3)
        for c in [tiny(f"data.path={folder}", f"text_encoder.max_words={words}")]
    }
    assert made[3] == made["null"] | {"max_words": 3}


def test_items_that_bring_no_full_caption_give_their_caption(built, make_batch):
    config, towers = built
    assert make_batch(config, towers, n=2).full_captions == ["tune 0", "tune 1"]


def test_the_shipped_towers_tell_scenes_apart():
    sizes = json.loads((resolve("shipped", "towers") / "part.json").read_text())["sizes"]
    assert sizes["text_encoder"]["weights"] == "all-MiniLM-L6-v2"
    towers = build.towers(load_config("scenes"))
    caption = "a moderate piece in G major played on {}, 96 beats per minute, steady, with kick and snare drums: {} at dawn"
    sea, city = caption.format("music box", "the sea"), caption.format("saxophone", "a city")
    for text in (towers.text_of_image, towers.text_of_audio):
        near, far = text([sea, sea.replace("a moderate piece", "moderate music")]), text([sea, city])
        assert near[0] @ near[1] > far[0] @ far[1] + 0.2
