"""The loss with other pictures minus that with the right one: which pictures, the same noise, and means over tracks and games."""

import building as build
import numpy as np
import pytest
from data_fixtures import data_set, encoded, make_sample, noise_picture, sound

from melfusion.__main__ import main
from melfusion.data.datamodule import MusicDataModule
from melfusion.errors import DataError
from melfusion.lab.picture_loss import losses, others, picture_loss, table, told
from melfusion.training.run import train

LABELS = [
    {"game": f"g{i // 4}", "track": f"t{i // 2}", "image_id": f"p{i // 2}", "held_out": i >= 8} for i in range(12)
]  # three games of two tracks of two clips


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    rng = np.random.default_rng(0)
    samples = [
        make_sample(
            f"{split}{i}", split, sound(0.2 * rng.standard_normal(2 * 8000)), image=encoded(noise_picture(i // 2)), labels=LABELS[i]
        )
        for split in ("train", "val")
        for i in range(12)
    ]
    return data_set(tmp_path_factory.mktemp("set"), samples)


def test_whose_picture_a_clip_is_given():
    for seed in range(20):
        found = others(LABELS, seed)
        for i, (far, near) in enumerate(zip(found["another game's"], found["its game's"], strict=True)):
            assert LABELS[far]["game"] != LABELS[i]["game"]
            assert LABELS[near]["game"] == LABELS[i]["game"] and LABELS[near]["track"] != LABELS[i]["track"]
    alone = others([{"game": "a", "track": "t", "image_id": "p"}, {"game": "b", "track": "u", "image_id": "q"}], 0)
    assert alone == {"another game's": [1, 0], "its game's": [None, None]}


def test_the_same_picture_costs_nothing_and_another_is_seen(tiny, folder):
    config = tiny(f"data.path={folder}", "data.source=manifest", "synapse.kind=concat")
    system = build.system(config).eval()
    dataset = MusicDataModule(config.data, config.audio, config.seed, noise_shapes=build.noise_shapes(config, system)).dataset(
        "val"
    )
    twin = [i + 1 if i % 2 == 0 else i - 1 for i in range(12)]  # the other clip of the same track, with the same picture
    found = losses(system, dataset, {"twin": twin, "far": [(i + 4) % 12 for i in range(12)], "no one": [None] * 12}, 5)
    assert np.array_equal(found["twin"], found["right"]) and np.isnan(found["no one"]).all()
    assert (found["far"] != found["right"]).all() and (found["none"] != found["right"]).all()
    again = losses(system, dataset, {}, 12)  # whatever else is in the batch
    np.testing.assert_allclose(again["right"], found["right"], rtol=1e-4)


def test_each_track_and_each_game_counts_once():
    differences = np.array([1.0, 1.0, 3.0, 3.0, 0.0, 0.0, 0.0, 4.0, np.nan, 9.0, 9.0, 9.0])
    found = told(differences, np.arange(12) < 9, LABELS)
    assert found["clips"] == 8 and found["tracks"]["n"] == 4 and found["tracks"]["mean"] == pytest.approx((1 + 3 + 0 + 2) / 4)
    assert found["games"]["n"] == 2 and found["games"]["mean"] == pytest.approx(1.5)


def test_the_verb_reads_a_run(tiny, folder, tmp_path, capsys):
    train(tiny(f"data.path={folder}", "data.source=manifest", f"runs_dir={tmp_path}", "name=a", "trainer.max_steps=1"))
    assert main(["picture-loss", f"ckpt={tmp_path}/a", "n=12"]) == 0
    said = capsys.readouterr().out
    assert "| another game's picture, held-out games | 4 |" in said and "| none picture, all | 12 |" in said
    assert (tmp_path / "a/picture_loss/picture_loss.json").is_file()


def test_a_set_of_one_game_is_one_sentence(tiny, tiny_corpus):
    config = tiny(f"data.path={tiny_corpus}")
    with pytest.raises(DataError, match="of one game"):
        picture_loss(config, build.system(config).eval(), "val", 4)


def test_a_table_of_nothing_has_its_cells():
    assert table({"rows": {"x": {"clips": 0}}}).endswith("| x | 0 | - | - |")
