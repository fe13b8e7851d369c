"""What media show beside clips: where pictures acted, what a judge predicts; and how much of it a day may bring."""

import dataclasses
import os

import building as build
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_jobs import Run

from melfusion import PREEMPTED
from melfusion.batch import MusicBatch
from melfusion.media.options import AudioConfig
from melfusion.models.frozen import freeze
from melfusion.training.media_budget import DAY_S, MIB, MediaBudget, written_in_a_day
from melfusion.training.media_more import ListeningRows
from melfusion.training.scalars import OF_THE_MACHINE

MEDIA = ("trainer.media_items=2", "trainer.media_every_n_steps=3", "trainer.media_patches=2", "synapse.kind=concat")


@pytest.fixture
def judged(monkeypatch):
    """Runs with a judge that was never trained, of the numbers that stand in the labels of the small corpus."""

    def rows(config):
        judge = dataclasses.replace(config.judge, attributes={"i": list(range(16, 22))})
        config = dataclasses.replace(config, judge=judge)
        with build.seeded(3):
            return ListeningRows(config, [freeze(build.judge(config))])

    monkeypatch.setattr(ListeningRows, "of", rows)


def numbers(run):
    return {(line["step"], tag): v for line in run.lines() for tag, v in line.items() if tag not in ("epoch", *OF_THE_MACHINE)}


def images(run):
    board = EventAccumulator(str(run.path / "tensorboard"), {"images": 0}).Reload()
    return {tag: [event.step for event in board.Images(tag)] for tag in board.Tags()["images"]}


@pytest.mark.slow  # three more lives of a run; that media touch no number of it, test_preemption.py sees as well
def test_an_interrupted_run_shows_what_a_whole_one_shows(judged, tiny_corpus, tmp_path):
    whole, parts = Run(tmp_path / "whole", tiny_corpus), Run(tmp_path / "parts", tiny_corpus)
    assert whole(*MEDIA, steps=5, val=2, every=100) == 0
    assert parts(*MEDIA, "trainer.keep_best=0", steps=5, val=2, every=100, plant=["sigterm@3"]) == PREEMPTED
    assert parts.file(4).is_file() and not parts.file(5).exists()  # between two rounds of media
    assert parts(*MEDIA, steps=5, val=2, every=100) == 0
    assert numbers(parts) == numbers(whole) and parts.state(5) == whole.state(5)
    attended = {tag for _, tag in numbers(whole) if tag.startswith("synapse/attention/")}
    logged = {(step, tag.rpartition("/")[0]) for step, tag in numbers(whole) if tag.startswith("listening/")}
    assert attended and all(0 < value < 1 for (_, tag), value in numbers(whole).items() if tag in attended)
    assert logged == {(step, f"listening/{row} picture") for step in (3, 5) for row in ("right", "shuffled")}
    shown = images(whole)
    assert shown["item0/where_the_picture_acted"] == shown["item1/where_the_picture_acted"] == [3, 5]
    assert shown["synapse/attention_map"] == [3, 5] and "synapse/alpha_map" not in shown


def test_media_beyond_a_days_share_are_left_out_and_scalars_are_not(judged, tiny_corpus, tmp_path, caplog):
    run = Run(tmp_path, tiny_corpus)
    assert run(*MEDIA, "trainer.media_mib_per_day=0", steps=2, val=2) == 0
    assert "item0/spectrograms" not in images(run) and "item0/where_the_picture_acted" not in images(run)
    assert not list(run.path.glob("samples/*")) and {2} == {step for step, tag in numbers(run) if tag.startswith("listening/")}
    assert sum("media are left out" in line for line in caplog.messages) == 1


def test_a_days_share_is_counted_from_the_files(tmp_path, caplog):
    def write(began, changed, size):
        file = tmp_path / f"events.out.tfevents.{began}.host.1.0"
        file.write_bytes(b"x" * size)
        os.utime(file, (changed, changed))

    now = 10 * DAY_S
    write(int(now - 5 * DAY_S), now - 4 * DAY_S, 700)  # of a life before this day
    write(int(now - DAY_S / 2), now - DAY_S / 4, 100)  # of one within it
    write(int(now - 2 * DAY_S), now, 1000)  # half of its time lies within
    (tmp_path / "hparams.txt").write_bytes(b"x" * 999)
    assert written_in_a_day(tmp_path, now) == pytest.approx(600)
    assert MediaBudget(tmp_path / "none", 1).room() and written_in_a_day(tmp_path / "none", now) == 0
    (tmp_path / "events.out.tfevents.9999999999.host.1.0").write_bytes(b"x" * MIB)
    budget = MediaBudget(tmp_path, 1)
    assert [budget.room(), budget.room(), MediaBudget(tmp_path, 2).room()] == [False, False, True]
    assert len(caplog.messages) == 1 and "trainer.media_mib_per_day=1" in caplog.text


class FirstSample:
    """A judge that predicts for each clip the class that its first sample numbers."""

    attributes, device = {"place": ["sea", "wood", "town"]}, "cpu"

    def predict(self, waveform):
        return [{"place": self.attributes["place"][int(clip[1] > 0) + int(clip[2] > 0)]} for clip in waveform]


def test_the_shares_are_of_labelled_items_and_the_shuffled_row_has_the_others_pictures(tiny):
    clips = torch.tensor([[-1.0, -1, -1], [-1, 1, -1], [-1, 1, 1], [-1, 1, 1]])
    labels = [{"place": "sea"}, {"place": "wood"}, {"place": "sea"}, {"place": "elsewhere"}]
    pictures = torch.arange(4.0).reshape(4, 1, 1, 1).expand(4, 3, 2, 2)
    batch = MusicBatch(list("abcd"), [""] * 4, torch.arange(4), torch.tensor([1.0, 1, 1, 0]), image=pictures, labels=labels)
    asked = []

    def generate(image, has_image):
        asked.append((image[:, 0, 0, 0].tolist(), has_image.tolist()))
        return clips.flip(0)

    rows = ListeningRows(tiny(), [FirstSample()])
    rows.audio = AudioConfig()
    said = rows(batch, clips, generate)
    assert said == {"listening/right picture/place": pytest.approx(2 / 3), "listening/shuffled picture/place": 0.0}
    assert asked == [([2, 3, 0, 1], [1, 0, 1, 1])]
    batch.labels = [{}] * 4
    assert rows(batch, clips, generate) == {}  # nothing is generated where there is no label
    assert len(asked) == 1
