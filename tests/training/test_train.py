"""Training through the real Trainer: resume, ranks, precompute, EMA, and what a run directory shows."""

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import building as build
import pytest
import torch
from data_fixtures import data_set, encoded, make_sample, noise_picture
from forking import python
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torchmetrics import Metric

from melfusion.assembly.load import load_system
from melfusion.assembly.run import run_directory
from melfusion.data.datamodule import MusicDataModule
from melfusion.data.shards import ShardSet
from melfusion.errors import ConfigError, DataError
from melfusion.state.checkpoint_store import newest
from melfusion.training.dashboard import digest_of_shards
from melfusion.training.ema import EMA
from melfusion.training.precompute import ensure_precomputed
from melfusion.training.run import stage_config, train

# What takes half the time of a small run: pictures are not inverted, and a run is saved and validated only at its end
QUICK = ("image.reading=fixed", "trainer.checkpoint_every_n_steps=100", "trainer.val_every_n_steps=100", "trainer.media_items=0")


@pytest.fixture
def tiny_run(tiny, tiny_corpus, tmp_path):
    """tiny_run(name, overrides…) → Config of a quick run in tmp_path on the tiny corpus."""

    def config(name, *overrides):
        quick = QUICK[1:] if any(one.startswith("image.kind=") for one in overrides) else QUICK  # others have no reading
        return tiny(f"data.path={tiny_corpus}", f"runs_dir={tmp_path}", f"name={name}", *quick, *overrides)

    return config


def checkpoint(config):
    return torch.load(newest(Path(config.runs_dir, str(config.name), "checkpoints")), weights_only=True)


def lines(config):
    path = f"{config.runs_dir}/{config.name}/metrics.jsonl"
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def curve(config, key="train/loss"):
    return {m["step"]: m[key] for m in lines(config) if key in m and m["step"] > 0 or key in m and "epoch" in m}


def same_tensors(a, b):
    assert a.keys() == b.keys()
    return all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize(("accumulate", "reading"), [(1, "inverted"), (2, "fixed")])
def test_resume_continues_the_same_curve_to_the_bit(tiny_run, accumulate, reading):
    options = (f"trainer.accumulate={accumulate}", "trainer.val_every_n_steps=3", f"image.reading={reading}")
    whole = tiny_run("whole", "trainer.max_steps=7", *options)
    train(whole)
    train(tiny_run("parts", "trainer.max_steps=4", *options))
    parts = tiny_run("parts", "trainer.max_steps=7", *options)
    train(parts)
    a, b = checkpoint(whole), checkpoint(parts)
    assert same_tensors(a["state_dict"], b["state_dict"]) and same_tensors(a["ema"], b["ema"])

    def moments(stored):
        return [s["exp_avg"] for s in stored["optimizer_states"][0]["state"].values()]

    assert all(torch.equal(x, y) for x, y in zip(moments(a), moments(b), strict=True))
    assert curve(whole) == curve(parts) and len(curve(whole)) >= 7


def test_training_shows_each_sample_once_an_epoch_across_a_resume(tiny_run, monkeypatch):
    from melfusion.models.system import MeLFusion

    seen, inner = [], MeLFusion.training_step
    monkeypatch.setattr(MeLFusion, "training_step", lambda self, b, i: seen.extend(b.keys) or inner(self, b, i))
    train(tiny_run("order", "trainer.max_steps=3"))
    train(tiny_run("order", "trainer.max_steps=8"))  # 16 samples in steps of 4: two epochs
    assert sorted(seen[:16]) == sorted(seen[16:]) == [f"s{i:03d}" for i in range(16)] and seen[:16] != seen[16:]


@pytest.mark.slow  # as test_torchrun_trains_what_one_process_trains of tests/cluster/test_slurm.py
@pytest.mark.parametrize("world", [2, 4])
def test_several_processes_equal_one_on_the_joint_batch(tiny_run, world):
    configs = {
        n: tiny_run(
            f"world{n}",
            "trainer.max_steps=3",
            "trainer.strategy=" + ("ddp" if n > 1 else "auto"),
            f"trainer.devices='{n}'",
            "optim.grad_clip_norm=0",
            "trainer.val_every_n_steps=3",
        )
        for n in (1, world)
    }
    for n, c in configs.items():
        arguments = [
            f"{k}={v}"
            for k, v in {
                "data.path": c.data.path,
                "runs_dir": c.runs_dir,
                "name": c.name,
                "trainer.media_items": 0,
                "data.val_items": world + 1,  # the first rank's batch holds two items, those of the others one
                "trainer.max_steps": 3,
                "trainer.strategy": c.trainer.strategy,
                "trainer.devices": n,
                "optim.grad_clip_norm": 0,
                "trainer.val_every_n_steps": 3,
            }.items()
        ]
        # the other ranks are started by Lightning's own launcher
        done = subprocess.run(
            [python(), "-m", "melfusion", "train", "tiny", *arguments], capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr[-2000:]
    one, several = (checkpoint(configs[n]) for n in (1, world))
    for key, value in one["state_dict"].items():
        torch.testing.assert_close(several["state_dict"][key], value, rtol=1e-4, atol=2e-5)
    for key, value in one["ema"].items():
        torch.testing.assert_close(several["ema"][key], value, rtol=1e-4, atol=2e-5)
    val = [json.loads(Path(c.runs_dir, c.name, "results.json").read_text()) for c in configs.values()]
    for name in ("val/loss", "val/loss_other_picture"):
        assert val[0][name] == pytest.approx(val[1][name], rel=1e-4)


READINGS = [f"image.reading={reading}" for reading in ("inverted", "fixed", "noised")]


SLOW = pytest.mark.slow  # the other readings in these precisions: no code of their own, and a quarter of a minute each


@pytest.mark.parametrize(
    ("kind", "precision", "option"),
    [
        ("kv_mix", "32-true", READINGS[0]),
        ("concat", "bf16-mixed", READINGS[2]),
        *(pytest.param("kv_mix", "32-true", reading, marks=SLOW) for reading in READINGS[1:]),
        *(pytest.param("concat", "bf16-mixed", reading, marks=SLOW) for reading in READINGS[:2]),
        ("concat", "bf16-true", READINGS[1]),
        ("concat", "32-true", "image.kind=clip"),
        ("controlnet", "32-true", "synapse.match=pool_2d"),
    ],
)
def test_precomputed_training_gives_the_numbers_of_live_training(tiny_run, tmp_path, kind, precision, option):
    options = (f"synapse.kind={kind}", option, "data.crop=start", "trainer.max_steps=3", f"trainer.precision={precision}")
    rel = 2e-5 if precision == "32-true" else 1e-3  # what is stored as float32 was rounded elsewhere in bfloat16
    live = tiny_run("live", *options)
    cached = tiny_run("cached", *options, "data.precompute.enabled=true", f"data.precompute.path={tmp_path}/cache")
    train(live)
    train(cached)
    for step, loss in curve(live).items():
        assert curve(cached)[step] == pytest.approx(loss, rel=rel)
    assert lines(live)[-1]["val/loss"] == pytest.approx(lines(cached)[-1]["val/loss"], rel=rel)


def validated(system, config, accumulate=1, world=1, **kwargs):
    """Tag → value that one validation logs, its items cut into batches so and shared by so many ranks."""
    logged = {}
    system.log = lambda name, value, **_: logged.update({name: value})
    shapes = build.noise_shapes(config, system)
    module = MusicDataModule(config.data, config.audio, config.seed, accumulate, shapes, partners=True, **kwargs)
    module.setup()
    with torch.no_grad():
        for rank in range(world):
            module.trainer = SimpleNamespace(global_rank=rank, world_size=world, training=False)
            for number, batch in enumerate(module.val_dataloader()):
                system.validation_step(batch, number)
        system.on_validation_epoch_end()
    scores = {name: float(value.compute() if isinstance(value, Metric) else value) for name, value in logged.items()}
    system.val_loss.reset()
    return scores


@pytest.mark.parametrize(("reading", "kind"), [("inverted", "kv_mix"), ("fixed", "concat")])
def test_another_items_picture_does_not_depend_on_the_batch(tiny_run, tmp_path, reading, kind):
    config = tiny_run("live", f"image.reading={reading}", f"synapse.kind={kind}", "data.val_items=6", "data.crop=start")
    config.data.precompute.path = f"{tmp_path}/cache"
    system = build.system(config).eval()
    found = [validated(system, config, *cut) for cut in ((1, 1), (2, 1), (4, 1), (1, 2), (2, 2))]
    config.data.path, made_with = (str(x) if isinstance(x, Path) else x for x in ensure_precomputed(config, system))
    found.append(validated(system, config, 4, provenance=made_with))
    assert any(name.startswith("synapse/attention/") for name in found[0]) == (kind == "concat")
    for scores in found:
        assert scores == pytest.approx(found[0], rel=1e-5, abs=1e-6)
        assert scores["val/picture_gain"] == pytest.approx(scores["val/loss_other_picture"] - scores["val/loss"], abs=1e-6)


def test_without_another_picture_nothing_is_said_of_one(tiny_run, tmp_path):
    for name, image in (("unseen", None), ("alike", encoded(noise_picture()))):
        path = data_set(tmp_path / name, [make_sample(f"v{i}", "val", image=image) for i in range(4)])
        config = tiny_run(name, f"data.path={path}", "data.source=manifest")
        assert validated(build.system(config).eval(), config).keys() == {"val/loss"}
    config = tiny_run("alone", "data.val_items=1")
    assert validated(build.system(config).eval(), config).keys() == {"val/loss"}


def test_precomputed_shards_of_other_parts_are_refused(tiny_run, tmp_path):
    cache = ("data.precompute.enabled=true", f"data.precompute.path={tmp_path}/cache", "data.crop=start")
    train(tiny_run("first", *cache))
    with pytest.raises(RuntimeError, match="precomputed from other parts.*music_vae"):
        train(tiny_run("second", "seed=5", *cache))


def test_ema_follows_the_formula_and_only_what_trains(tiny_run):
    config = tiny_run("ema", "trainer.max_steps=2", "denoiser.trainable=cross_attn", "optim.ema_decay=0.5")
    train(config)
    stored = checkpoint(config)
    assert stored["ema"] and all(".attn2." in name or "synapse" in name for name in stored["ema"])
    start = {n: p.detach().clone() for n, p in build.system(config).named_parameters() if p.requires_grad}
    assert start.keys() == stored["ema"].keys()
    assert not [k for k in stored["state_dict"] if ".attn2." not in k and "synapse" not in k]  # no untrained weights
    load_system(f"{config.runs_dir}/ema")
    train(tiny_run("ema", "trainer.max_steps=3", "denoiser.trainable=cross_attn", "optim.ema_decay=0.5"))
    ema, live = EMA(0.5), build.system(config)
    ema.shadow = {n: p.clone() for n, p in start.items()}
    with torch.no_grad():
        for p in live.parameters():
            if p.requires_grad:
                p.add_(1.0)
    ema.update(live, 1)
    name, before = next(iter(start.items()))
    torch.testing.assert_close(ema.shadow[name], before + 1 - min(0.5, 2 / 11))


def test_generation_uses_the_ema_weights(tiny_run):
    config = tiny_run("ema2", "trainer.max_steps=3")
    train(config)
    averaged, _ = load_system(f"{config.runs_dir}/ema2")
    live, _ = load_system(f"{config.runs_dir}/ema2", ema=False)
    stored = checkpoint(config)
    name = next(iter(stored["ema"]))
    assert torch.equal(averaged.get_parameter(name), stored["ema"][name])
    assert torch.equal(live.get_parameter(name), stored["state_dict"][name])
    assert not torch.equal(averaged.get_parameter(name), live.get_parameter(name))


def test_a_finished_run_returns_its_results_and_another_configuration_is_refused(tiny_run, monkeypatch):
    config = tiny_run("done")
    first = train(config)
    monkeypatch.setattr(build, "system", lambda *a: pytest.fail("a finished run was started again"))
    assert train(config) == first
    with pytest.raises(ConfigError, match=r"synapse.kind: 'kv_mix' there, 'concat' now"):
        train(tiny_run("done", "synapse.kind=concat"))


def test_tensorboard_and_jsonl_show_the_run(tiny_run):
    config = tiny_run(
        "board",
        "trainer.media_items=2",
        "trainer.media_every_n_steps=2",
        "trainer.max_steps=4",
        "trainer.val_every_n_steps=2",
        "synapse.alpha_share=block",
    )
    train(config)
    board = EventAccumulator(f"{config.runs_dir}/board/tensorboard", {"images": 0, "audio": 0}).Reload()
    scalars, tags = set(board.Tags()["scalars"]), board.Tags()
    assert {
        "train/loss",
        "val/loss",
        "train/grad_norm",
        "lr/group0",
        "train/samples_per_s",
        "synapse/alpha/decoder1",
        "synapse/alpha/decoder2",
        "data/wait_share",
        "memory/process_peak_gib",
    } <= scalars
    assert any(t.startswith("train/loss_by_timestep/") for t in scalars)
    assert {"item0/picture", "item0/reference_spectrogram", "item1/spectrograms"} <= set(tags["images"])
    assert {"item0/reference", "item1/generated"} <= set(tags["audio"])
    assert [e.step for e in board.Images("item0/spectrograms")] == [2, 4] == [e.step for e in board.Images("synapse/alpha_map")]
    assert "item0/caption/text_summary" in tags["tensors"]
    page = board.Tensors("run/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "alpha_share: block" in page and digest_of_shards(ShardSet(config.data.path, config.data)) in page
    assert board.PluginTagToContent("custom_scalars")
    assert "_hparams_/session_start_info" in board.PluginTagToContent("hparams")
    steps = [m["step"] for m in lines(config) if "train/samples_per_s" in m]
    assert steps[0] == 1
    assert len(list(Path(config.runs_dir, "board", "samples").glob("*.wav"))) == 4


def test_mixed_precision_trains(tiny_run):
    config = tiny_run("bf16", "trainer.precision=bf16-mixed", "synapse.kind=kv_mix_proj", "synapse.alpha_share=head")
    train(config)
    state = checkpoint(config)["state_dict"]
    assert all(t.dtype == torch.float32 and torch.isfinite(t).all() for t in state.values())


def test_parts_train_and_their_exports_are_found(tiny_run, tmp_path):
    for task in ("music_vae", "image_diffusion"):
        train(tiny_run(task, f"task={task}"))
    config = tiny_run("whole", "music_vae.weights=run:music_vae", "image.weights=run:image_diffusion")
    system = build.system(config)
    trained = torch.load(newest(tmp_path / "music_vae/checkpoints"), weights_only=True)["state_dict"]
    name = "autoencoder.encoder.conv_in.weight"
    assert torch.equal(system.codec.music_vae.state_dict()[name], trained[name])
    assert not torch.equal(system.codec.music_vae.latent_std, torch.ones(4))
    assert train(config)["step"] == 2


def test_a_text_only_model_exports_its_average_for_those_that_start_from_it(tiny_run):
    config = tiny_run("text", "synapse.kind=none")
    train(config)
    started = build.system(tiny_run("next", "denoiser.weights=run:text")).denoiser.unet.state_dict()
    average = {name.removeprefix("denoiser.unet."): tensor for name, tensor in checkpoint(config)["ema"].items()}
    assert average and all(torch.equal(started[name], tensor) for name, tensor in average.items())


def test_an_image_model_is_not_trained_where_there_is_no_picture(tiny_run, tmp_path):
    picture = encoded(noise_picture())
    given = (("train", picture), ("val", None))
    samples = [make_sample(f"{split}{i}", split, image=image) for split, image in given for i in range(4)]
    where = f"data.path={data_set(tmp_path / 'set', samples)}"
    with pytest.raises(DataError, match="no sample for val has a picture"):
        train(tiny_run("image", "task=image_diffusion", where, "data.source=manifest"))


def test_a_longer_run_follows_the_longer_cosine(tiny_run):
    cosine = ("optim.schedule=cosine", "optim.warmup_steps=1", "data.precompute.enabled=false")
    train(tiny_run("short", "trainer.max_steps=3", *cosine))
    longer = tiny_run("short", "trainer.max_steps=8", *cosine)
    train(longer)
    rates = curve(longer, "lr/group0")
    assert rates[5] > 1e-4 and rates[8] < rates[5]


def test_experiments_that_differ_elsewhere_share_a_stage(tiny_run):
    own = ("music_vae.weights=run:shared", "stages=[music_vae]")
    base, other = (stage_config(tiny_run("a", *own, o), "music_vae") for o in ("seed=0", "synapse.kind=concat"))
    run_directory(base).prepare()
    run_directory(other).compare()
    with pytest.raises(ConfigError, match="audio.n_mels"):
        run_directory(stage_config(tiny_run("c", *own, "audio.n_mels=32"), "music_vae")).compare()


def test_latent_statistics_come_from_the_whole_split(tiny_run, tiny_corpus):
    config = tiny_run("stats", "task=music_vae", "music_vae.stats_items=4")
    data = MusicDataModule(config.data, config.audio, 0, 1, {})
    assert [k for b in data.spread_dataloader("train", 4) for k in b.keys] == ["s000", "s004", "s008", "s012"]


def test_training_from_a_url_gives_the_numbers_of_the_folder(tiny_run, tiny_corpus, tmp_path):
    import fsspec

    store = fsspec.filesystem("memory")
    store.put(f"{tiny_corpus}/", "/shelf/music/", recursive=True)
    local, far = tiny_run("local"), tiny_run("far", "data.path=memory://shelf/music", f"data.cache_dir={tmp_path}/cache")
    train(local)
    train(far)
    assert same_tensors(checkpoint(local)["state_dict"], checkpoint(far)["state_dict"])
    assert list((tmp_path / "cache").rglob("train-*.tar"))
