"""Every published score comes out of `load_listeners` and `evaluate`, from random twins in their published layouts."""

import json

import pytest
import torch
from metric_fixtures import clap_twin, hiss, panns_state, vggish_state, write_clip
from synapse_fixtures import randn
from torch import nn

from melfusion.evaluation.paired import Partners
from melfusion.evaluation.scores import evaluate, load_listeners
from melfusion.evaluation.scoring import Listeners, Predictions
from melfusion.evaluation.sets import own
from melfusion.evaluation.tables import table
from melfusion.media.sound import write_wav
from melfusion.metrics.imsm import imsm


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """name → twin of the published weights; removed afterwards, being large."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("vggish", "panns", "clap", "clip")}
    torch.save(vggish_state(), folders["vggish"] / "vggish.pth")
    torch.save({"model": panns_state()}, folders["panns"] / "panns.pth")
    clap_twin(folders["clap"])
    write_clip(folders["clip"], 32)
    yield {name: str(folder) for name, folder in folders.items()}
    for name in ("vggish", "panns"):
        next(folders[name].glob("*.pth")).unlink()


@pytest.mark.slow  # networks of the published sizes, all at once; each has fast tests of its own
def test_every_score_of_the_paper_is_measured_with_its_network_and_its_floor(published, tiny, tiny_corpus, tmp_path):
    embedders = {name: weights for name, weights in published.items() if name != "clip"}
    config = tiny(
        f"data.path={tiny_corpus}",
        f"evaluation.embedders={json.dumps(embedders)}",
        f"evaluation.clip={published['clip']}",
        "evaluation.batch_size=8",
    )
    compared = own(config, 4)
    for i, entry in enumerate(compared.items.entries):
        write_wav(str(tmp_path / f"{entry.key}.wav"), hiss(1.0, 8000, seed=i, clips=1)[0], 8000)
    scores = evaluate(config, load_listeners(config), compared.items, compared, {"given": tmp_path})
    row, real = scores["rows"]["given"], scores["rows"]["real"]
    assert row["paired"].keys() == {"kl", "clap_score", "imsm", "imsm_released"} and "kl" not in real["paired"]
    assert all("mean" in score and score["n"] == 4 for score in row["paired"].values())
    assert row["paired"]["kl"]["mean"] > 0 and 0 <= row["paired"]["imsm"]["mean"] <= 1
    for name in embedders:
        assert "mean" in row["distances"][name]["kad"] and "mean" in real["distances"][name]["kad"]
        assert "why_not" in row["distances"][name]["fad"]  # four clips carry no covariance
    about = scores["about"]
    assert about["embedders"].keys() == set(embedders) and about["embedders"]["panns"]["sample_rate_hz"] == 16000
    assert set(about["networks"]) == {*embedders, "clip"} and about["against"] == "the val split" and about["loudness_dbfs"] == -20
    shown = table(scores)
    assert "| distance by panns | FD |" in shown and "KL (PANNs)" in shown and "AudioSet's 527 tags" in shown
    assert "± nan" not in shown and "± inf" not in shown and "| nan" not in shown


class Plain(nn.Module):
    """Towers that take numbers for what they embed."""

    def temperatures(self):
        return {"image": 0.05, "audio": 0.05}

    def image(self, pixels):
        return pixels[:, :, 0, 0]

    def text_of_image(self, captions):
        return torch.stack([torch.tensor([float(x) for x in c.split()]) for c in captions])

    text_of_audio = text_of_image


def predictions(x):
    return Predictions([f"k{i}" for i in range(len(x))], {}, {}, {"audio": x})


@pytest.fixture
def partners():
    """40 items whose picture, caption and music are one vector."""
    points = randn(40, 6, seed=1)
    captions = [" ".join(f"{v:.6f}" for v in point) for point in points.tolist()]
    return Partners(
        Listeners(None, towers=Plain()), predictions(points), captions, lambda i: points[i][:, None, None], [True] * 40
    ), points


def test_mismatched_pairs_score_lower_beyond_the_interval(partners):
    made, points = partners
    right, wrong = (made.score(predictions(x))["imsm_scenes"] for x in (points, points.roll(1, 0)))
    assert right["mean"] > 0.95 and right["mean"] - right["interval"] > wrong["mean"] + wrong["interval"]
    assert wrong["mean"] == pytest.approx(0.5, abs=0.15)
    made.listeners.towers.temperatures = lambda: {"image": 5.0, "audio": 5.0}
    assert made.score(predictions(points.roll(1, 0)))["imsm_scenes"]["mean"] == imsm(*[points] * 3, points.roll(1, 0), (5.0, 5.0))


def test_a_row_with_fewer_or_reordered_clips_meets_its_own_partners(partners):
    made, points = partners
    part = predictions(points).only([f"k{i}" for i in (7, 3, 30, 2, 11)])
    found = made.score(part)["imsm_scenes"]
    assert found["n"] == 5 and found["mean"] == 1.0
    assert made.score(Predictions(["strange"], {}, {}, {"audio": points[:1]})) == {}


def test_items_without_a_picture_are_left_out_of_imsm(partners):
    made, points = partners
    made.pictured[5:] = False
    found = made.score(predictions(torch.cat([points[:5], points[5:].roll(1, 0)])))["imsm_scenes"]
    assert found["n"] == 5 and found["mean"] == 1.0
    made.pictured[:] = False
    assert made.score(predictions(points))["imsm_scenes"] == {"why_not": "no item has a picture."}
