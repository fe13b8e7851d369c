"""Batches from shards: shapes, the inputs people really have, replacement in place, ranks, workers, caches."""

import contextlib
import dataclasses
import re
from types import SimpleNamespace

import building as build
import numpy as np
import pytest
import torch
from data_fixtures import data_set, encoded, make_sample, noise_picture, one_sentence, sound, tone
from PIL import Image
from safetensors.torch import save

from melfusion import randomness
from melfusion.__main__ import VERBS
from melfusion.data import order
from melfusion.data.datamodule import MusicDataModule
from melfusion.data.shards import ShardSet, picture_ext
from melfusion.errors import ConfigError, DataError
from melfusion.media.pictures import read_image
from melfusion.training.precompute import ensure_precomputed, precompute

SHAPES = {"noise": (4, 16, 4), "vae_noise": (4, 16, 4)}
PICTURE = encoded(noise_picture())


def whole_split(made, split, batch_size):
    """All of a split once, in index order."""
    dataset = made.dataset(split)
    return made._loader(dataset, order.EvalBatches(len(dataset), batch_size))


@pytest.fixture
def module(tiny):
    """module(path, overrides…, world=…) → MusicDataModule as the trainer of that rank sees it."""

    def make(path, *overrides, rank=0, world=1, step=0, accumulate=1, **kwargs):
        config = tiny(f"data.path={path}", *overrides)
        made = MusicDataModule(config.data, config.audio, config.seed, accumulate, SHAPES, **kwargs)
        made.trainer = SimpleNamespace(global_rank=rank, world_size=world, global_step=step)
        return made

    return make


def take(loader, n):
    return [batch for batch, _ in zip(loader, range(n), strict=False)]


def rows(batches):
    """Batches → position → (key, waveform, image, noise) bytes."""
    found = {}
    for b in batches:
        tensors = (b.waveform, b.image, b.draws["noise"], b.draws["timestep"])
        found |= {int(p): (b.keys[i], *(t[i].numpy().tobytes() for t in tensors)) for i, p in enumerate(b.position)}
    return found


# --- batches --------------------------------------------------------------------------------------------------------


def test_a_batch_has_the_stated_shapes_and_types(tiny_corpus, module):
    batch = next(iter(module(tiny_corpus).train_dataloader()))
    floats = {"has_image": (4,), "waveform": (4, 8192), "image": (4, 3, 16, 16)}
    for name, shape in floats.items():
        assert getattr(batch, name).shape == shape and getattr(batch, name).dtype == torch.float32
    assert {name: tuple(t.shape) for name, t in batch.draws.items()} == {
        "timestep": (4,),
        "drop": (4,),
        "noise": (4, 4, 16, 4),
        "vae_noise": (4, 4, 16, 4),
    }
    assert {t.dtype for t in batch.draws.values()} == {torch.float32}
    assert batch.position.dtype == torch.int64 and batch.position.tolist() == [0, 1, 2, 3]
    assert len(batch) == len(batch.keys) == len(batch.captions) == len(batch.labels) == 4 and batch.replaced == []
    assert batch.image.min() >= -1 and batch.image.max() <= 1 and batch.has_image.tolist() == [1] * 4
    rms = batch.waveform.square().mean(1).sqrt()
    torch.testing.assert_close(rms, torch.full((4,), 0.1), rtol=1e-3, atol=0)  # -20 dBFS
    assert [label["i"] for label in batch.labels] == [int(caption.split()[-1]) for caption in batch.captions]


def test_training_follows_the_order_of_order_py(tiny_corpus, module):
    made = module(tiny_corpus)
    batches = take(made.train_dataloader(), 9)  # over the end of the first epoch of 16
    wanted = [f"s{order.sample_index(0, p, 16):03d}" for p in range(36)]
    assert [key for batch in batches for key in batch.keys] == wanted
    assert sorted(wanted[:16]) == [f"s{i:03d}" for i in range(16)]
    noise = randomness.draws(0, 30, SHAPES)["noise"]
    np.testing.assert_array_equal(batches[7].draws["noise"][2].numpy(), noise)


def test_validation_shows_the_same_items_in_index_order(tiny_corpus, module):
    made = module(tiny_corpus, "data.val_items=5")
    batches = list(made.val_dataloader())
    assert [b.keys for b in batches] == [["s016", "s017", "s018", "s019"], ["s020"]]
    assert rows(batches) == rows(list(made.val_dataloader()))
    everything = list(whole_split(made, "test", 3))
    assert [b.keys for b in everything] == [["s022", "s023", "s024"], ["s025"]]


def test_crops_are_drawn_by_position_in_training_only(tmp_path, module):
    ramp = np.linspace(-0.5, 0.5, 40000) * np.sign(np.sin(np.arange(40000)))
    path = data_set(tmp_path, [make_sample(s, split=s, audio=sound(ramp)) for s in ("train", "val")])

    def waveforms(made, loader, n=3):
        return [b.waveform[0] for b in take(loader(made), n)]

    train = MusicDataModule.train_dataloader
    first, second, third = waveforms(module(path, "data.global_batch_size=1"), train)
    assert not torch.equal(first, second) and not torch.equal(second, third)
    again = waveforms(module(path, "data.global_batch_size=1"), train)
    assert torch.equal(first, again[0]) and torch.equal(third, again[2])
    fixed = waveforms(module(path, "data.global_batch_size=1", "data.crop=start"), train)
    assert torch.equal(fixed[0], fixed[1])
    assert torch.equal(waveforms(module(path), MusicDataModule.val_dataloader, 1)[0], fixed[0])


def test_one_of_several_pictures_is_drawn_by_position_in_training_only(tmp_path, module):
    pictures = [encoded(noise_picture(seed)) for seed in range(3)]
    more = {picture_ext(2, "png"): pictures[2], picture_ext(1, "png"): pictures[1], "1.txt": b"", "x.png": b""}
    samples = [dataclasses.replace(make_sample(s, s, image=pictures[0]), extra=more) for s in ("train", "val")]
    path = data_set(tmp_path, samples)
    pixels = [torch.as_tensor(read_image(one, module(path).data.image_size_px)) for one in pictures]

    def seen(made, loader, n=40):
        return [next(k for k, x in enumerate(pixels) if torch.equal(x, b.image[0])) for b in take(loader(made), n)]

    one = module(path, "data.global_batch_size=1")
    drawn = seen(one, MusicDataModule.train_dataloader)
    assert {drawn.count(k) > 5 for k in range(3)} == {True}
    assert drawn == seen(one, MusicDataModule.train_dataloader) == [int(3 * drawn_at(p)) for p in range(40)]
    assert drawn[20:] == seen(module(path, "data.global_batch_size=1", step=20), MusicDataModule.train_dataloader, 20)
    assert seen(one, MusicDataModule.val_dataloader, 1) == [0]
    entry = one.dataset("val").entries[0]
    assert one.dataset("val").reader.picture(entry) == pictures[0]


def drawn_at(position):
    return randomness.generator(0, "picture", 0, position).random()


@pytest.mark.parametrize("workers", [0, 1, 2, 4])
def test_two_ranks_joined_are_one(workers, tiny_corpus, module):
    one = rows(take(module(tiny_corpus).train_dataloader(), 5))
    two = {}
    for rank in range(2):
        made = module(tiny_corpus, f"data.num_workers={workers}", rank=rank, world=2)
        assert made.micro_batch_size() == 2
        two |= rows(take(made.train_dataloader(), 5))
    assert one == two and sorted(one) == list(range(20))


def test_workers_accumulation_and_resume_change_nothing(tiny_corpus, module):
    one = rows(take(module(tiny_corpus).train_dataloader(), 5))
    assert rows(take(module(tiny_corpus, "data.num_workers=2").train_dataloader(), 5)) == one
    assert rows(take(module(tiny_corpus, accumulate=4).train_dataloader(), 20)) == one
    resumed = rows(take(module(tiny_corpus, step=3).train_dataloader(), 2))
    assert sorted(resumed) == list(range(12, 20)) and resumed == {p: one[p] for p in range(12, 20)}
    halves = [rows(take(module(tiny_corpus, step=3, rank=r, world=2).train_dataloader(), 2)) for r in range(2)]
    assert halves[0] | halves[1] == resumed


def test_validation_on_two_ranks_covers_each_item_once(tiny_corpus, module):
    halves = [
        [k for b in module(tiny_corpus, "data.val_items=5", rank=r, world=2).val_dataloader() for k in b.keys] for r in range(2)
    ]
    assert sorted(halves[0] + halves[1]) == [f"s{i:03d}" for i in range(16, 21)]


def test_a_batch_moves_and_keeps_its_parts(tiny_corpus, module):
    batch = next(iter(module(tiny_corpus).train_dataloader()))
    moved = batch.to(torch.float64)
    assert moved.waveform.dtype == moved.draws["noise"].dtype == torch.float64 and moved.keys == batch.keys
    assert batch.waveform.dtype == torch.float32


# --- inputs that must work ------------------------------------------------------------------------------------------


def read_one(module, tmp_path, sample):
    made = module(data_set(tmp_path, [sample]), "data.global_batch_size=1")
    batch = next(iter(made.train_dataloader()))
    assert batch.keys == [sample.key] and batch.replaced == []
    return batch


@pytest.mark.parametrize("meta", [{"caption": None}, {"caption": ""}, {"caption": 0}])
def test_no_caption_is_the_empty_caption(meta, tmp_path, module):
    assert read_one(module, tmp_path, make_sample(**meta)).captions == [""]
    bare = make_sample()
    del bare.meta["caption"]
    assert read_one(module, tmp_path / "bare", bare).captions == [""]


def test_no_picture_is_zeros_without_a_vote(tmp_path, module):
    batch = read_one(module, tmp_path, make_sample())
    assert batch.has_image.tolist() == [0] and torch.equal(batch.image, torch.zeros(1, 3, 16, 16))
    mixed = data_set(tmp_path / "mixed", [make_sample("a"), make_sample("b", image=PICTURE)])
    batch = next(iter(whole_split(module(mixed), "train", 2)))
    assert batch.has_image.tolist() == [0, 1]
    np.testing.assert_array_equal(batch.image[1].numpy(), read_image(PICTURE, 16))
    assert not batch.image[0].any()


def ramp_16_bit():
    return Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16) * 257)


PICTURES = {
    "clear RGBA": (encoded(Image.new("RGBA", (9, 9), (0, 0, 0, 0))), "png", 1, 1),
    "16-bit ramp": (encoded(ramp_16_bit()), "png", -1, 1),
    "white grey, a PNG named jpg": (encoded(Image.new("L", (9, 9), 255)), "jpg", 1, 1),
    "black grey": (encoded(Image.new("L", (9, 9), 0), "JPEG"), "jpg", -1, -1),
    "WebP": (encoded(Image.new("RGB", (9, 9), "white"), "WEBP", lossless=True), "webp", 1, 1),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_pictures_of_any_mode_are_read(kind, tmp_path, module):
    picture, ext, low, high = PICTURES[kind]
    batch = read_one(module, tmp_path, make_sample(image=picture, image_ext=ext))
    assert batch.has_image.tolist() == [1] and batch.image.shape == (1, 3, 16, 16)
    assert (batch.image.min(), batch.image.max()) == (low, high)


def test_a_one_second_clip_is_padded_with_silence(tmp_path, module):
    waveform = read_one(module, tmp_path, make_sample(audio=sound(tone(1.0, 8000)))).waveform
    assert waveform.shape == (1, 8192) and not waveform[0, 8000:].any()
    assert waveform[0, :8000].square().mean().sqrt() == pytest.approx(0.1, rel=1e-3)  # loud where there is sound


def test_three_channels_at_44_khz_are_read(tmp_path, module):
    channels = np.stack([tone(1.5, 44100, 500), tone(1.5, 44100, 500, 0.1), np.zeros(66150)], axis=1)
    batch = read_one(module, tmp_path, make_sample(audio=sound(channels, 44100, "FLAC"), ext="flac"))
    assert batch.waveform.shape == (1, 8192)
    assert np.abs(np.fft.rfft(batch.waveform[0])).argmax() == 512


def test_a_caption_that_is_no_unicode_is_mended(tmp_path, module):
    sample = make_sample()
    sample.extra["json"] = b'{"caption": "rain \\ud800 falls"}'
    caption = read_one(module, tmp_path, sample).captions[0]
    assert caption.startswith("rain") and caption.encode()


# --- inputs that cannot be used -------------------------------------------------------------------------------------


def with_nan():
    waveform = tone(1.5, 8000)
    waveform[0] = np.nan
    return sound(waveform, subtype="FLOAT")


BAD = {
    "unreadable audio": {"audio": b"junk"},
    "no audio": {"audio": b""},
    "audio holds NaN or infinity": {"audio": with_nan()},
    "audio longer than data.max_audio_s=5 s": {"audio": sound(tone(5.1, 8000))},
    "audio shorter than audio.min_duration_s=1 s": {"audio": sound(tone(0.3, 8000))},
    "silence (RMS below audio.silence_dbfs=-55 dBFS)": {"audio": sound(np.zeros(12000))},
    "empty image": {"image": b""},
    "unreadable image": {"image": PICTURE[:50]},
    "image larger than data.max_image_pixels=400": {"image": encoded(Image.new("L", (21, 20)))},
    "unreadable json": {"extra": {"json": b'{"caption": '}},
    "json is not an object": {"extra": {"json": b"[1]"}},
    "unreadable latents.safetensors": {"extra": {"latents.safetensors": b"\x10" + b"\0" * 7 + b"not a header...."}},
}


def bad_sample(reason, key="bad", **kwargs):
    given = dict(BAD[reason])
    extra = given.pop("extra", {})
    sample = make_sample(key, **given, **kwargs)
    sample.extra |= extra
    return sample


LIMITS = ("data.max_audio_s=5", "data.max_image_pixels=400")


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_sample_is_replaced_in_its_place_and_counted(reason, tmp_path, module):
    samples = [make_sample(key, image=PICTURE) for key in "abcdef"]
    good = module(data_set(tmp_path / "good", samples), *LIMITS)
    samples[2] = bad_sample(reason)
    made = module(data_set(tmp_path / "bad", samples), *LIMITS)
    wanted, got = (m.dataset("train", training=True) for m in (good, made))
    replaced = 0
    for position in range(12):
        item, other = wanted[position], got[position]
        if item["key"] != "c":
            assert other["key"] == item["key"] and other["replaced"] == []
            np.testing.assert_array_equal(other["waveform"], item["waveform"])
        else:
            replaced += 1
            assert other["key"] in set("abdef")
            assert set(other["replaced"]) == {("train-000000.tar:bad", reason)}
            assert got[position]["key"] == other["key"]  # the same stand-in every time
        np.testing.assert_array_equal(other["draws"]["noise"], item["draws"]["noise"])
    assert replaced == 2  # once an epoch
    batch = next(iter(whole_split(made, "train", 6)))
    assert [k for i, k in enumerate(batch.keys) if i != 2] == list("abdef") and batch.keys[2] in set("abdef")
    assert made.on_after_batch_transfer(batch, 0) is batch
    assert set(made.replaced) == {reason} and made.replaced[reason] == len(batch.replaced) >= 1


def test_a_missing_json_is_replaced(tmp_path, module):
    class Bare(type(make_sample())):
        def members(self):
            return {"wav": self.audio}

    samples = [make_sample("a"), Bare("b", sound(tone(2, 8000)), "wav", None, "png", {})]
    batch = next(iter(whole_split(module(data_set(tmp_path, samples)), "train", 2)))
    assert batch.keys == ["a", "a"] and {reason for _, reason in batch.replaced} == {"no json"}


def test_stand_ins_are_the_same_on_every_rank_and_with_workers(tmp_path, module):
    samples = [bad_sample("unreadable audio", key) if key in "cf" else make_sample(key) for key in "abcdefgh"]
    path = data_set(tmp_path, samples)
    one = take(module(path).train_dataloader(), 6)
    counted = module(path, "data.num_workers=2", "data.max_bad_ratio=0.9")
    for batch in take(counted.train_dataloader(), 6):
        counted.on_after_batch_transfer(batch, 0)
    total = sum(len(b.replaced) for b in one)
    assert counted.replaced == {"unreadable audio": total} and total >= 6 and counted.replacements.seen == 24
    two = [rows(take(module(path, rank=r, world=2).train_dataloader(), 6)) for r in range(2)]
    assert two[0] | two[1] == rows(one)


def run_through(made, n=40):
    for batch in take(made.train_dataloader(), n):
        made.on_after_batch_transfer(batch, 0)


def test_too_many_bad_samples_stop_the_run_with_a_sentence(tmp_path, module):
    samples = [bad_sample("empty image", key) if key in "ab" else make_sample(key) for key in "abcdef"]
    path = data_set(tmp_path, samples)
    run_through(module(path, "data.max_bad_ratio=0.6"))
    with pytest.raises(DataError) as caught:
        run_through(module(path, "data.max_bad_ratio=0.1"))
    message = one_sentence(caught.value)
    assert str(path) in message and "empty image" in message and "data.max_bad_ratio=0.1" in message


def test_a_few_bad_samples_at_the_start_do_not_stop_the_run(tmp_path, module):
    first = order.sample_index(0, 0, 40)
    samples = [bad_sample("empty image", f"k{i}") if i == first else make_sample(f"k{i}") for i in range(40)]
    made = module(data_set(tmp_path, samples), "data.max_bad_ratio=0.1")
    run_through(made, 10)
    assert made.replaced["empty image"] >= 1


def all_bad(tmp_path, module):
    path = data_set(tmp_path, [bad_sample("unreadable audio", key) for key in "abc"])
    with pytest.raises(DataError) as caught:
        next(iter(module(path).train_dataloader()))
    return path, one_sentence(caught.value)


def test_where_nothing_can_be_read_the_run_stops_with_a_sentence(tmp_path, module):
    path, message = all_bad(tmp_path, module)
    assert str(path) in message and "unreadable audio" in message


def test_the_commands_that_errors_name_exist(tmp_path, module):
    _, message = all_bad(tmp_path, module)
    for verb, arguments in re.findall(r"`melfusion (\S+) ?([^`]*)`", message):
        assert verb in VERBS and all("=" in argument for argument in arguments.split()), message


def test_an_empty_data_set_or_split_says_what_to_do(tmp_path, module):
    with pytest.raises(DataError) as caught:
        module(tmp_path / "none").train_dataloader()
    assert "build it first" in one_sentence(caught.value)
    path = data_set(tmp_path / "some", [make_sample()])
    with pytest.raises(DataError) as caught:
        module(path).val_dataloader()
    message = one_sentence(caught.value)
    assert "'val'" in message and str(path) in message and "rebuild" in message


def test_a_batch_that_does_not_divide_is_a_sentence(tiny_corpus, module):
    for kwargs in ({"world": 3}, {"world": 2, "accumulate": 4}):
        with pytest.raises(DataError) as caught:
            module(tiny_corpus, **kwargs).train_dataloader()
        assert "data.global_batch_size=4" in one_sentence(caught.value)


# --- precomputed members --------------------------------------------------------------------------------------------


def cached_sample(key, number, **more):
    tensors = {
        "latent_moments": torch.full((8, 16, 4), number, dtype=torch.float16),
        "text_embeds": torch.full((12, 16), number),
        "text_mask": torch.tensor([1] * 5 + [0] * 7, dtype=torch.uint8),
        "has_image": torch.tensor(number % 2),
    } | more
    sample = make_sample(key, audio=b"")
    sample.extra["latents.safetensors"] = save(tensors)
    return sample


def test_precomputed_members_stand_in_for_sound_and_picture(tmp_path, module):
    layers = ("up_blocks.0.attentions.0", "mid_block.attentions.0")
    samples = [
        cached_sample(
            str(n),
            float(n),
            **{
                f"{half}.{layer}": torch.full((8, 16), n + bias)
                for layer in layers
                for half, bias in (("key", 0.25), ("value", 0.5))
            },
        )
        for n in range(3)
    ]
    made = module(data_set(tmp_path, samples, info={"provenance": {"a": 1}}), provenance={"a": 1})
    batch = next(iter(whole_split(made, "train", 3)))
    numbers = torch.arange(3.0)
    assert batch.waveform is None and batch.image is None and batch.image_latents is None
    assert batch.latent_moments.dtype == torch.float32 and batch.text_mask.dtype == torch.bool
    assert torch.equal(batch.latent_moments, numbers[:, None, None, None].expand(3, 8, 16, 4))
    assert torch.equal(batch.text_embeds, numbers[:, None, None].expand(3, 12, 16))
    assert batch.text_mask.sum(1).tolist() == [5, 5, 5] and batch.has_image.tolist() == [0, 1, 0]
    assert set(batch.visual_features) == set(layers)
    for key, value in batch.visual_features.values():
        assert torch.equal(key, (numbers + 0.25)[:, None, None].expand(3, 8, 16))
        assert torch.equal(value, (numbers + 0.5)[:, None, None].expand(3, 8, 16))
    assert batch.captions == ["tune 0", "tune 1", "tune 2"] and batch.draws["noise"].shape == (3, 4, 16, 4)
    assert batch.to(torch.float16).visual_features[layers[0]][0].dtype == torch.float16


def test_precomputed_pictures_come_as_latents(tmp_path, module):
    samples = [cached_sample(str(n), float(n), image_latents=torch.full((4, 3, 16, 16), float(n))) for n in range(2)]
    batch = next(iter(whole_split(module(data_set(tmp_path, samples)), "train", 2)))
    assert batch.image_latents.shape == (2, 4, 3, 16, 16) and batch.visual_features is None
    assert batch.image_latents.flatten(1).mean(1).tolist() == [0, 1]


def test_another_provenance_is_refused_with_what_differs(tmp_path, module):
    stored = {"dtype": "float16", "music_vae": "1f", "grid": [0]}
    path = data_set(tmp_path, [cached_sample("a", 1.0)], info={"provenance": stored})
    module(path, provenance=dict(stored)).setup()
    with pytest.raises(DataError) as caught:
        module(path, provenance=stored | {"music_vae": "2e", "extractor": "3d"}).setup()
    message = one_sentence(caught.value)
    assert "extractor, music_vae differ" in message and str(path) in message and "precompute" in message


def test_a_raw_data_set_is_not_taken_for_a_precomputed_one(tiny_corpus, module):
    with pytest.raises(DataError, match="precompute"):
        module(tiny_corpus, provenance={"dtype": "float16"}).setup()


def test_precompute_never_writes_over_a_raw_data_set_that_the_user_names(tmp_path, tiny):
    raw = data_set(tmp_path / "raw", [make_sample(key, image=PICTURE) for key in "ab"])
    config = tiny(f"data.path={raw}", f"data.precompute.path={raw}", "data.precompute.enabled=true", "data.crop=start")
    with contextlib.suppress(DataError, ConfigError):
        ensure_precomputed(config, build.system(config))
    with pytest.raises(DataError, match="is the data set itself"):
        precompute(config, build.system(config))
    assert set(ShardSet(raw).entries("train")[0].members) == {"json", "wav", "png"}


def test_unreadable_samples_count_against_the_ratio_where_they_are_stored(tmp_path, tiny):
    bad = [make_sample(f"b{i}", audio=b"noise") for i in range(4)]
    path = data_set(tmp_path / "raw", [make_sample(f"a{i}", image=PICTURE) for i in range(6)] + bad)
    with pytest.raises(DataError, match="3 of 10 samples for train cannot be read") as caught:
        few = tiny(f"data.path={path}", "data.source=manifest", "data.precompute.batch_size=1")
        precompute(few, build.system(few))
    assert one_sentence(caught.value)
    config = tiny(f"data.path={path}", "data.source=manifest", "data.max_bad_ratio=0.5")
    assert len(ShardSet(precompute(config, build.system(config))).entries("train")) == 6


def test_a_precomputed_set_is_no_data_set_of_its_own(tmp_path, tiny, module):
    path = data_set(tmp_path / "raw", [make_sample(f"{s}{i}", split=s, image=PICTURE) for s in ("train", "val") for i in range(2)])
    config = tiny(f"data.path={path}", "data.source=manifest")
    with pytest.raises(DataError, match="holds precomputed tensors and no audio") as caught:
        module(precompute(config, build.system(config))).setup()
    assert one_sentence(caught.value)


def test_what_is_left_out_is_there_and_leaves_something(tmp_path, module):
    labels = [{"place": "sea", "year": 1999}, {"place": "city", "year": 2000}]
    path = data_set(tmp_path, [make_sample(f"a{i}", labels=label) for i, label in enumerate(labels)])

    def left(*patterns):
        return module(path, f"data.leave_out=[{', '.join(patterns)}]").dataset("train", training=True)

    assert [e.key for e in left("{place: sea}").entries] == [e.key for e in left('{year: "1999"}').entries] == ["a1"]
    for patterns, words in ((["{plase: sea}"], "names the label 'plase'"), (["{place: sea}", "{place: city}"], "leaves no sample")):
        with pytest.raises(DataError, match=words) as caught:
            left(*patterns)
        assert one_sentence(caught.value)


def test_fewer_hours_are_whole_tracks_and_a_part_of_more(tmp_path, module):
    path = data_set(tmp_path, [make_sample(f"a{i:02}", labels={"track": f"t{i // 3}"}) for i in range(24)])
    clip_h = module(path).audio.clip_duration_s / 3600

    def kept(clips, split="train", training=True):
        dataset = module(path, f"data.hours={clips * clip_h}").dataset(split, training=training)
        return [e.key for e in dataset.entries]

    few, more, every = kept(5), kept(10), kept(99)
    assert (len(few), len(more), len(every)) == (6, 12, 24) and set(few) < set(more) and few == sorted(few)
    assert all(len({key for key in few if int(key[1:]) // 3 == track}) in (0, 3) for track in range(8))
    assert few != every[:6], "chosen by a hash, not by their order"
    assert len(kept(5, training=False)) == 24, "a score sees all"


def test_validation_items_are_spread_over_the_split(tmp_path, module):
    path = data_set(tmp_path, [make_sample(f"v{i}", split="val") for i in range(9)])
    keys = [k for b in module(path, "data.val_items=3").val_dataloader() for k in b.keys]
    assert keys == ["v0", "v3", "v6"]
    assert len([k for b in module(path, "data.val_items=50").val_dataloader() for k in b.keys]) == 9
