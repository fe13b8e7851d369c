"""Options of training, evaluation and the lab."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class EvaluationConfig:
    """What `train` measures at its end: attribute accuracy with the right, a shuffled and no picture."""

    items: int = 0  # test clips after training (0: none) and of `evaluate` (0: all)
    batch_size: int = 32  # clips at once
    embedders: dict[str, str] = field(default_factory=dict)  # name (listeners/embedders.py) → its weights; judge: the judge's own
    clip: str | None = None  # weights of CLIP: with the embedder clap, IMSM as the paper has it
    pca_dimensions: int = 32  # at most, before Fréchet distances; 0: none, as published FAD and FD are, where N carries that
    text_judge: str | None = None  # weights of a judge that predicts what captions say
    outside_picture: str | None = None  # a picture that is no scene; null: a portrait that comes with matplotlib


@dataclass
class AblationConfig:
    """How a suite of experiments/ trains, generates and scores its rows."""

    question: str = ""  # what the row asks, for the table
    seeds: list[int] = field(default_factory=lambda: [0])  # each row is trained once under each
    corpus_test: str = "fresh"  # fresh (newly drawn scenes) | split (the corpus's own test split, against its val split)
    test_seed: int = 90001  # of the newly drawn scenes
    items: int = 60  # held-out clips over all seeds; a multiple of 6 × seeds balances places but for one clip
    checkpoint_of: str | None = None  # another row whose trained model this row uses under another condition
    condition: str = "right picture"  # which picture and caption the model is conditioned on: key of evaluation's CONDITIONS
    baseline: str = "text_only"  # the row that gains are relative to
    guidance: list[float] = field(default_factory=list)  # scales tried on validation scenes; none: sampling.guidance_scale
    search_items: int = 120  # validation clips of each scale
    test_judge: str | None = None  # weights of the judge that scores the table; null: the one that chose the guidance


@dataclass
class TrainerConfig:
    max_steps: int = 100_000  # optimizer steps
    accelerator: str = "auto"  # auto | cpu | gpu | cuda | mps
    devices: str = "auto"  # devices on each machine: a number, a list such as 0,1, or auto
    num_nodes: int = 1  # machines
    strategy: str = "auto"  # auto | ddp | fsdp2 (what trains is divided among the devices) | another of Lightning's
    # auto (bf16-mixed on cuda, and on a single CPU that is measured to be faster with it; else 32-true) | 32-true | bf16-mixed |
    # 16-mixed (GPUs) | bf16-true: bf16-mixed, with text encoder and image model kept in bfloat16, at half their memory
    precision: str = "auto"
    accumulate: int = 1  # micro-batches per optimizer step
    micro_batch_size: int | None = None  # at most so many samples at once on a device; accumulate follows, however many there are
    val_every_n_steps: int = 1000  # optimizer steps between two validations
    checkpoint_every_n_steps: int = 1000  # optimizer steps between two checkpoints
    keep_last: int = 2  # newest checkpoints that stay; at least 2, so that a damaged one loses little
    keep_best: int = 1  # checkpoints of the lowest val/loss that stay beside them
    async_checkpoints: bool = False  # write in a thread, at the cost of a copy of the trained state in host memory
    log_every_n_steps: int = 10  # optimizer steps between two log lines
    media_every_n_steps: int = 5000  # optimizer steps between two rounds of sample clips
    media_items: int = 8  # sample clips in a round; 0: none
    media_patches: int = 4  # patches of a side in the map of where a sample clip's picture acted; 0: no maps
    media_mib_per_day: int = 200  # what TensorBoard's files of a run may grow in 24 hours; media beyond it are left out
    progress_bar: bool = True  # show one
    threads: int = 0  # CPU threads of torch; 0 leaves torch's choice


@dataclass
class GuardConfig:
    """When a training step is skipped, reported, or undone (training/guard.py)."""

    max_bad_steps: int = 10  # in a row with a non-finite input, loss or gradient; then the run stops
    spike_factor: float = 10.0  # a loss this many robust standard deviations above the median of the last 100 is a spike; 0: off
    rollback_after: int = 0  # spikes in a row after which the last checkpoint before them is taken up again; 0: never
