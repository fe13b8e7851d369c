"""Checks that need more than one section of a configuration. No heavy imports."""

from __future__ import annotations

from typing import Any

from melfusion.assembly.parts import PARTS, STAGES
from melfusion.assembly.schema import CHOICES, KINDS, REFUSED, Config, to_dict
from melfusion.config.check import flatten, nearest
from melfusion.data.sources import check_size
from melfusion.errors import ConfigError
from melfusion.files import one_line, one_name

POSITIVE = (
    "audio.hop_length_samples",
    "audio.sample_rate_hz",
    "audio.clip_duration_s",
    "data.global_batch_size",
    "trainer.accumulate",
    "trainer.max_steps",
    "trainer.val_every_n_steps",
    "data.samples_per_shard",
    "data.val_items",
    "sampling.num_inference_steps",
    "trainer.checkpoint_every_n_steps",
    "trainer.log_every_n_steps",
    "trainer.media_every_n_steps",
    "trainer.keep_last",
    "guards.max_bad_steps",
    "data.precompute.batch_size",
    "evaluation.batch_size",
    "music_vae.texture_width",
    "music_vae.texture_blocks",
)

NOT_NEGATIVE = (
    "seed",
    "denoiser.lora_rank",
    "data.corpus_seed",
    "data.num_workers",
    "data.retries",
    "data.cache_gib",
    "trainer.keep_best",
    "guards.spike_factor",
    "guards.rollback_after",
    "music_vae.texture_steps",
)


def check(config: Config) -> None:
    """Words from fixed lists, names that stay in their folders, sizes that must divide; raises ConfigError."""
    flat = flatten(to_dict(config))
    check_words(flat)
    check_names(config)
    check_limits(config)
    check_numbers(flat)
    check_stages(config)
    check_parts(config)
    check_diffusion(config)
    check_data(config)
    check_batches(config)
    check_kinds(config)


def check_numbers(flat: dict[str, Any]) -> None:
    for key in (*POSITIVE, *(key for key in flat if key.startswith("data.max_"))):
        if not flat[key] > 0:
            raise ConfigError(f"{key}={flat[key]!r} must be greater than 0.")
    for key in NOT_NEGATIVE:
        if not flat[key] >= 0:
            raise ConfigError(f"{key}={flat[key]!r} must be at least 0.")


def check_stages(config: Config) -> None:
    if unknown := [stage for stage in config.stages if stage not in STAGES]:
        raise ConfigError(f"stages names {unknown[0]!r}{nearest(unknown[0], STAGES)}; stages are {', '.join(STAGES)}.")
    if config.image.kind != "diffusion" and "image_diffusion" in config.stages:
        raise ConfigError(f"image.kind={config.image.kind} is not what the stage image_diffusion trains: leave it out of stages.")


def check_parts(config: Config) -> None:
    if len(config.optim.betas) != 2:
        raise ConfigError(f"optim.betas={config.optim.betas} must be two numbers.")
    if (words := config.text_encoder.max_words) is not None and words < 1:
        raise ConfigError(f"text_encoder.max_words={words} leaves no word of a caption: give 1 or more, or null for all.")


def check_diffusion(config: Config) -> None:
    d = config.diffusion
    if min(drops := (d.text_drop_prob, d.image_drop_prob, d.both_drop_prob)) < 0 or sum(drops) > 1:
        raise ConfigError(f"diffusion.*_drop_prob are {drops}: each must be at least 0 and their sum at most 1.")


def check_data(config: Config) -> None:
    stored = config.data.precompute
    if stored.crops < 1:
        raise ConfigError(f"data.precompute.crops={stored.crops} stores no clip: give 1 or more.")
    if stored.enabled and (config.data.crop == "random") != (stored.crops > 1):
        raise ConfigError(
            f"data.crop={config.data.crop} does not fit data.precompute.crops={stored.crops}: give data.crop=random for several "
            "crops of each clip, and data.crop=start for one, or data.precompute.enabled=false."
        )
    if (hours := config.data.hours) is not None and not hours > 0:
        raise ConfigError(f"data.hours={hours} leaves no music to train on: give more, or null for all.")
    for key in ("leave_out", "hours"):
        if config.data.stream and getattr(config.data, key):
            raise ConfigError(f"data.{key} has no effect on data.stream: leave one of them out.")


def check_batches(config: Config) -> None:
    trainer = config.trainer
    if trainer.precision == "16-mixed" and trainer.accelerator == "cpu":
        raise ConfigError("trainer.precision=16-mixed needs a GPU, not trainer.accelerator=cpu: give bf16-mixed or 32-true.")
    if (most := trainer.micro_batch_size) is not None and (most < 1 or trainer.accumulate > 1):
        raise ConfigError(
            f"trainer.micro_batch_size={most} must be 1 or more, or null beside trainer.accumulate={trainer.accumulate}, "
            "which also says how a step is cut."
        )
    if config.data.global_batch_size % trainer.accumulate:
        raise ConfigError(
            f"data.global_batch_size={config.data.global_batch_size} is not a multiple of trainer.accumulate={trainer.accumulate}."
        )


def check_kinds(config: Config) -> None:
    """What each kind says of the whole configuration."""
    for section in KINDS:
        if why := getattr(config, section).misfit(config):
            raise ConfigError(why)


def check_words(flat: dict[str, Any]) -> None:
    """Each key that has a list of words holds one of them; a kind of synapse does not have all keys."""
    for key, words in ({"task": PARTS} | CHOICES).items():
        if key not in flat:
            continue
        if why := REFUSED.get(key, {}).get(flat[key]):
            raise ConfigError(f"{key}={flat[key]} is not offered, since {why}.")
        if flat[key] not in words:
            raise ConfigError(f"{key}={flat[key]!r} is not one of {', '.join(words)}{nearest(str(flat[key]), words)}.")


def check_names(config: Config) -> None:
    """The run's name and folder; raises ConfigError."""
    if config.name is not None:
        one_name("name", config.name)
    if not config.runs_dir:
        raise ConfigError("runs_dir is empty: name a folder, such as runs_dir=runs.")
    one_line("runs_dir", config.runs_dir)
    for name in config.stages:
        one_name("stages", name)


def check_limits(config: Config) -> None:
    """More steps than the schedule has, and corpora that are too large; raises ConfigError."""
    steps, most = config.sampling.num_inference_steps, config.diffusion.num_train_timesteps
    if steps > most:
        raise ConfigError(f"sampling.num_inference_steps={steps} must be at most diffusion.num_train_timesteps={most}.")
    if (few := min(config.data.splits.values(), default=0)) < 0:
        raise ConfigError(f"data.splits holds {few}: a number of scenes is at least 0.")
    check_size("data.splits", sum(config.data.splits.values()), config.data)
    if config.ablation.corpus_test == "fresh":  # now, and not when all rows are trained
        check_size("ablation.items", 2 * config.ablation.items, config.data)
