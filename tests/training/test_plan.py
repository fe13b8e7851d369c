"""What a run says of its stages before it starts: from timed batches, without a trace in what is trained."""

import building as build
import pytest
import torch

from melfusion.assembly.run import run_directory
from melfusion.data.datamodule import MusicDataModule
from melfusion.models.frozen import digest
from melfusion.training import fit
from melfusion.training.plan import SHOWN_S, first_batch, in_words, plan, plan_part, repeated
from melfusion.training.run import train
from melfusion.training.stored_samples import compute, with_stored
from melfusion.verbs.train import report


@pytest.fixture
def planned(tiny, tiny_corpus):
    """(config, system, data) of a run of 100 steps on precomputed shards, with two clips to evaluate."""
    config = tiny(
        f"data.path={tiny_corpus}",
        "data.source=manifest",
        "data.precompute.enabled=true",
        "data.crop=start",
        "image.reading=fixed",
        "trainer.max_steps=100",
        "evaluation.items=2",
    )
    system = build.system(config)
    return config, system, MusicDataModule(config.data, config.audio, config.seed, noise_shapes=build.noise_shapes(config, system))


def test_each_stage_takes_time_and_nothing_moves(planned):
    config, system, data = planned
    before = digest(system.denoiser)
    stages = plan(config, system, data)
    assert list(stages) == ["precompute", "training", "evaluation"] and all(s > 0 for s in stages.values())
    assert digest(system.denoiser) == before and all(p.grad is None for p in system.parameters())
    config.trainer.max_steps = 1000
    assert plan(config, system, data)["training"] > 2 * stages["training"]


def test_what_tensorboard_shows_is_planned_too(planned):
    config, system, data = planned
    config.trainer.media_items, config.trainer.media_every_n_steps, config.trainer.max_steps = 0, 10, 1
    without = plan(config, system, data)["training"]
    config.trainer.media_items = 100
    assert plan(config, system, data)["training"] > without + 100 * SHOWN_S


def test_a_part_is_planned_too(tiny, tiny_corpus):
    config = tiny(f"data.path={tiny_corpus}", "task=music_vae")
    part = build.part(config)
    data = MusicDataModule(config.data, config.audio, config.seed, noise_shapes=build.noise_shapes(config, part))
    assert plan_part(config, part, data)["training"] > 0


def test_the_timed_batch_is_what_training_reads(planned):
    config, system, data = planned
    batch = first_batch(data, config)
    few = batch.first(2)
    assert few.keys == batch.keys[:2] and len(few.waveform) == 2
    stored = with_stored(batch, {name: repeated(t, len(batch)) for name, t in compute(system, few).items()})
    assert stored.waveform is None and len(stored.latent_moments) == len(batch)
    assert torch.equal(stored.latent_moments[0], stored.latent_moments[2])
    assert set(stored.visual_features) == set(system.denoiser.synapse.specs)


def test_words():
    assert in_words({"training": 40}) == "training 40 s"
    assert in_words({"precompute": 200, "training": 9000}) == "precompute 3 min, training 2.5 h; about 2.6 h in all"


def test_what_was_planned_stands_beside_what_was_taken(tiny, tiny_corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fit, "plan", lambda *args: {"training": 50.4, "evaluation": 7.0})
    monkeypatch.setattr(fit, "_fit", lambda *args: {"step": 100})
    config = tiny(f"data.path={tiny_corpus}", "data.source=manifest", f"runs_dir={tmp_path}", "trainer.max_steps=100")
    results = train(config, lambda *args: None)
    assert results["planned"] == {"training": 50.4, "evaluation": 7.0} and "training" in results["seconds"]
    assert run_directory(config).results()["planned"] == results["planned"]
    report(config, results | {"seconds": {"corpus": 20.0, "training": 60.0}})
    said = capsys.readouterr().out
    assert "plan: training 50 s, evaluation 7 s" in said and "time: corpus 20 s (25%), training 60 s (75%, planned 50 s)\n" in said
