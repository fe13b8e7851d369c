"""Leaks: none in the scenes, both that are planted are caught, and what must be found is found."""

import pytest
import torch
from synapse_fixtures import randn

from melfusion.batch import Prompt
from melfusion.data.scenes import corpus as scenes
from melfusion.evaluation.leakage import BY_CAPTION, BY_PICTURE, Inputs, bags, classify, leakage
from melfusion.media.pictures import read_image


def encoder(captions):
    """A text encoder that knows each word by a fixed random vector: (N, 16, 48) and the mask."""
    vectors = [[randn(1, 48, seed=sum(map(ord, word)))[0] for word in caption.split()] for caption in captions]
    embeds, mask = torch.zeros(len(captions), 16, 48), torch.zeros(len(captions), 16, dtype=torch.bool)
    for i, words in enumerate(vectors):
        embeds[i, : len(words)], mask[i, : len(words)] = torch.stack(words), True
    return Prompt(embeds, mask)


@pytest.fixture(scope="module")
def drawn():
    """240 scenes to learn from and 204 to test on, without their music."""

    def inputs(numbers):
        import io

        made = [scenes.describe(5, i) for i in numbers]
        pictures = []
        for scene in made:
            scenes.draw(scene, 48).save(file := io.BytesIO(), "png")
            pictures.append(torch.from_numpy(read_image(file.getvalue(), 32)))
        labels = [{name: getattr(scene, name) for name in BY_PICTURE + BY_CAPTION} for scene in made]
        return Inputs([scenes.caption(scene) for scene in made], torch.stack(pictures), labels)

    return inputs(range(240)), inputs(range(10_000, 10_204))


def by_name(found):
    return {(row["source"], row["features"], row["attribute"]): row for row in found}


def test_the_scenes_leak_nothing_and_what_must_be_found_is_found(drawn):
    found = leakage(*drawn, encoder, image_embedder=lambda pictures: pictures[:, :, ::4, ::4].flatten(1))
    assert len(found) == 4 * 5 and {row["n"] for row in found} == {204} and {row["n_train"] for row in found} == {240}
    wrong = [(row["source"], row["features"], row["attribute"]) for row in found if not row["holds"]]
    assert wrong == []
    rows = by_name(found)
    assert rows["picture", "pixels", "place"]["accuracy"] > 0.4 and rows["caption", "words", "tonic"]["accuracy"] > 0.9
    assert rows["caption", "words", "place"]["chance"] == pytest.approx(1 / 6)


def test_a_caption_that_hints_at_the_weather_is_caught(drawn):
    def hint(side):
        wet = [i for i, label in enumerate(side.labels) if label["weather"] == "rain"]
        captions = [f"{c} softly" if i in wet and i % 2 else c for i, c in enumerate(side.captions)]  # half of the rainy ones
        return side._replace(captions=captions)

    wrong = {(r["features"], r["attribute"]) for r in leakage(*map(hint, drawn), encoder) if not r["holds"]}
    assert wrong == {("words", "weather"), ("text encoder", "weather")}


def test_a_picture_that_shows_the_mode_is_caught_and_a_blind_picture_too(drawn):
    def mark(side):
        pictures = side.pictures.clone()
        minor = [i for i, label in enumerate(side.labels) if label["mode"] == "minor"]
        pictures[minor, :, 0, 0] += 0.2  # one pixel
        return side._replace(pictures=pictures)

    wrong = {(r["features"], r["attribute"]) for r in leakage(*map(mark, drawn), encoder) if not r["holds"]}
    assert ("pixels", "mode") in wrong and {source for source, _ in wrong} == {"pixels"}
    blind = [side._replace(pictures=torch.zeros_like(side.pictures)) for side in drawn]
    missed = {(r["features"], r["attribute"]) for r in leakage(*blind, encoder) if not r["holds"]}
    assert missed == {("pixels", name) for name in BY_PICTURE}


def test_the_classifier_is_the_ridge_worked_out_with_each_clip_left_out():
    x, y = randn(60, 90, seed=1), torch.arange(60) % 3
    x[:, 0] += 2 * (y == 1)
    x[:, 1] += 2 * (y == 2)
    test, classes = randn(300, 90, seed=2), torch.arange(300) % 3
    test[:, 0] += 2 * (classes == 1)
    test[:, 1] += 2 * (classes == 2)
    right = (classify(x, y, test) == classes).double().mean()
    assert right > 0.45  # more features than clips, and still above chance
    assert (classify(x[:, :2], y, test[:, :2]) == classes).double().mean() > 0.65  # and better without the idle ones


def test_words_are_those_of_the_training_captions():
    train, test = bags(["a tune in C# minor", "a tune, a song"], ["a song of rain"])
    assert train.sum(1).tolist() == [5, 4] and test.sum(1).tolist() == [2]
