"""Every knob of melfusion with its unit and default: the schema that config.py loads YAML files into."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class AudioConfig:
    """From waveform to log-mel. Defaults are AudioLDM's (MeLFusion's released code, too)."""

    sample_rate_hz: int = 16000
    n_fft_samples: int = 1024  # FFT size and window length
    hop_length_samples: int = 160
    n_mels: int = 64
    f_min_hz: float = 0.0
    f_max_hz: float = 8000.0
    clip_duration_s: float = 10.24
    framing: str = "hifigan"  # where frame t of the log-mel is centred: hifigan (t + ½) · hop | centred t · hop, as in Tango
    level: str = "rms"  # what every clip is brought to: rms (loudness_dbfs, up to peak_dbfs) | peak (no mean, then peak_dbfs)
    loudness_dbfs: float = -20.0
    peak_dbfs: float = -1.0
    silence_dbfs: float = -55.0  # a clip whose RMS is below this is silent and is replaced
    min_duration_s: float = 1.0  # shorter audio is replaced; between this and the clip it is padded with silence


@dataclass
class PrecomputeConfig:
    """What `melfusion precompute` stores beside the samples, and where."""

    enabled: bool = False  # train from precomputed shards, building them first where they are missing
    path: str | None = None  # default: <data.path>-precomputed/<digest of what it was made from>
    batch_size: int = 32
    dtype: str = "float32"  # float32 gives the numbers of live training; float16 halves the shards


@dataclass
class DataConfig:
    source: str = "scenes"  # scenes | games | manifest: who builds `path` when it is missing
    path: str = "data/scenes"  # folder with shards and index.json, or its URL: https://…, s3://…, gs://…
    draw: bool = True  # scenes: draw them where they are missing; another data.path given as an override makes it false
    cache_dir: str = "~/.cache/melfusion"  # where shards of a URL are kept
    cache_gib: float = 50.0  # room there, over all data sets; what does not fit is read by byte range
    retries: int = 5  # of a read that fails on the network, after about 0.5, 1, 2, 4, … s
    timeout_s: float = 60.0  # in which a read over the network must begin, and each of its packets come
    min_rate_kib_s: float = 16.0  # KiB/s that a transfer must bring on average from timeout_s on; a slower one is broken off
    stream: list[str] = field(
        default_factory=list
    )  # sequential webdataset URLs (pipe:, http:) to train on; `path` then holds the validation split
    global_batch_size: int = 32  # samples per optimizer step over all devices and accumulation
    num_workers: int = 0  # loader processes per device
    crop: str = "random"  # random (drawn from seed, epoch, position; not where latents are precomputed) | start
    image_size_px: int = 512
    max_image_pixels: int = 50_000_000  # a larger picture is refused before it is decoded
    max_image_work: int = 1_000_000_000  # pixels × scans (a progressive JPEG has about 10) above which one is refused, too
    max_audio_s: float = 1200.0  # longer audio is refused before it is decoded
    max_audio_samples: int = 250_000_000  # and that of more frames × channels: 20 minutes of 96 kHz stereo have 230 million
    max_audio_rate_hz: int = 192_000
    max_audio_channels: int = 32
    max_member_mib: float = 256.0  # a larger member is never read
    max_sample_members: int = 64
    max_shard_members: int = 1_000_000
    max_json_kib: float = 1024.0  # of a sample's json, and of the header of its precomputed tensors
    max_json_depth: int = 16  # nested lists and objects
    max_index_mib: float = 1024.0
    max_bad_ratio: float = 0.2  # above this share of replaced training samples the run stops
    val_items: int = 64  # samples of the val split used at each validation
    splits: dict[str, int] = field(default_factory=lambda: {"train": 2048, "val": 128, "test": 128})  # scenes: how many
    max_scenes: int = 100_000  # scenes: more are only drawn where this says so
    corpus_seed: int = 0  # scenes: which ones; `seed` decides what a training makes of them
    leave_out: list[dict[str, str]] = field(default_factory=list)  # labels of samples never trained on: any of these, all its keys
    samples_per_shard: int = 256
    precompute: PrecomputeConfig = field(default_factory=PrecomputeConfig)


@dataclass
class MusicVAEConfig:
    weights: str | None = None  # see weights_source.py: hub:ID@REVISION | run:NAME | shipped | a folder | null = random init
    patch_size: int = 1  # the network sees patches of p×p log-mel bins as p² channels: many times fewer FLOPs at equal r
    block_out_channels: list[int] = field(default_factory=lambda: [128, 256, 512])
    layers_per_block: int = 2
    latent_channels: int = 8
    norm_num_groups: int = 32
    mid_block_attention: bool = True
    mel_mean: float = 0.0  # the autoencoder sees (log_mel - mel_mean) / mel_std
    mel_std: float = 1.0
    kl_weight: float = 1e-4
    modulation_weight: float = 0.0  # of the loss that wants each band's trembling; 0: L1 alone, which smooths it away
    trainable: str = "all"  # of the task music_vae: all | decoder | texture, on top of weights, whose latents stay what they are
    texture_steps: int = 6  # in which what the decoder smooths away is drawn, where the weights have a texture; 0: it is not
    texture_width: int = 64  # D of its blocks, where it is trained anew
    texture_blocks: int = 6
    stats_items: int = 512  # samples of the train split that latent mean and std are measured on


    @property
    def downsampling(self) -> int:
        """r: log-mel frames (and bins) per latent frame (and bin)."""
        return self.patch_size * 2 ** (len(self.block_out_channels) - 1)


@dataclass
class VocoderConfig:
    weights: str | None = None  # SpeechT5HifiGan, or a Vocos of this project; null: see kind
    kind: str = "griffin_lim"  # without weights: griffin_lim, which needs none | vocos, random init
    griffin_lim_iterations: int = 64
    mel_corrections: int = 0  # with weights: how often the sound is brought nearer to the log-mel that was asked for
    width: int = 192  # vocos: D of its ConvNeXt blocks
    blocks: int = 6
    segment_frames: int = 64  # mel frames it is trained on at a time


@dataclass
class JudgeConfig:
    """The classifier that says what is heard in a clip."""

    weights: str | None = None
    kind: str = "conv"  # conv | recurrent | pitch; weights bring their own
    width: int = 64
    embedding: int = 128
    attributes: dict[str, list[str]] = field(default_factory=dict)  # label → its classes


@dataclass
class TowersConfig:
    """The contrastive models of picture and caption, sound and caption."""

    weights: str | None = None  # null: random init; they bring the text encoder they were trained with
    width: int = 24  # channels, a multiple of 8
    embedding: int = 64  # D


@dataclass
class EvaluationConfig:
    """What `train` measures at its end: attribute accuracy with the right, a shuffled and no picture."""

    items: int = 0  # test clips after training (0: none), and of `evaluate` (0: all)
    batch_size: int = 32
    embedders: dict[str, str] = field(default_factory=dict)  # name (metrics/embedders.py) → its weights; judge: the judge's own
    clip: str | None = None  # weights of CLIP: with the embedder clap, IMSM as the paper has it
    pca_dimensions: int = 32  # at most, before Fréchet distances; 0: none, as published FAD and FD are, where N carries that
    text_judge: str | None = None  # weights of a judge that hears what captions tell
    outside_picture: str | None = None  # a picture that is no scene; null: a portrait that comes with matplotlib


@dataclass
class AblationConfig:
    """How a suite of experiments/ runs and hears its rows."""

    question: str = ""  # what the row asks, for the table
    seeds: list[int] = field(default_factory=lambda: [0])
    corpus_test: str = "fresh"  # fresh (newly drawn scenes) | split (the corpus's own test split, against its val split)
    test_seed: int = 90001  # of the newly drawn scenes
    items: int = 60  # held-out clips over all seeds; a multiple of 6 × seeds balances places but for one clip
    checkpoint_of: str | None = None  # another row whose trained model this row only tells something else
    told: str = "right picture"  # key of sounds.ROWS
    baseline: str = "text_only"  # the row that gains are relative to
    guidance: list[float] = field(default_factory=list)  # scales tried on validation scenes; none: sampling.guidance_scale
    search_items: int = 120  # validation clips of each scale
    test_judge: str | None = None  # weights of the judge that hears the table; null: the one that chose


@dataclass
class ClusterConfig:
    """A SLURM job of `melfusion submit` (configs/cluster/slurm.yaml); null leaves the choice to the site."""

    account: str | None = None
    partition: str | None = None
    qos: str | None = None
    constraint: str | None = None  # features of the nodes
    time: str = "24:00:00"  # limit of one start, [days-]hours:minutes:seconds
    nodes: int = 1
    gpus_per_node: int = 1  # and tasks per node, one each; 0: one task without a GPU
    cpus_per_gpu: int = 8  # of each task
    memory: str | None = None  # of a node: 64G
    container: str | None = None  # an image.sif, or docker://…
    container_runtime: str = "apptainer"  # apptainer | pyxis (srun --container-image)
    container_args: list[str] = field(default_factory=list)  # to `apptainer exec`, or to srun for pyxis: [--bind, /scratch]
    setup: list[str] = field(default_factory=list)  # shell lines on the first node before srun: [module load cuda]
    signal_s: int = 120  # SIGUSR1 to every task this long before the limit; SLURM may send it a minute early
    requeue: bool = True  # after preemption and at the limit the same job goes on
    extra: dict[str, Any] = field(default_factory=dict)  # other options of sbatch: {exclusive: true}; a gres then asks for the GPUs


@dataclass
class TextEncoderConfig:
    weights: str | None = None
    family: str = "bert"  # bert | t5 | clip: architecture of a random twin
    max_length: int = 77  # L: captions are cut or padded to this many tokens
    max_words: int | None = None  # captions are cut after this many words before that; null: not
    hidden_size: int = 1024  # width of a random twin


@dataclass
class ImageConfig:
    """The frozen model that looks at the picture, and how it is read."""

    model: str = "diffusion"  # diffusion (the paper) | clip (its vision transformer, to which the knobs below mean nothing)
    weights: str | None = None
    vae: bool = True  # diffuse latents of a VAE; false: diffuse pixels
    vae_block_out_channels: list[int] = field(default_factory=lambda: [128, 256, 512, 512])
    block_out_channels: list[int] = field(default_factory=lambda: [320, 640, 1280, 1280])
    layers_per_block: int = 2
    cross_attention_dim: int = 768
    attention_head_dim: list[int] = field(default_factory=lambda: [8])
    attention_blocks: list[bool] = field(default_factory=lambda: [True, True, True, False])  # per level, top first
    norm_num_groups: int = 32
    prediction_type: str = "epsilon"
    reading: str = "inverted"  # inverted (the paper) | fixed | noised (the release)
    grid_steps: int = 20  # timesteps an inverted picture is stored at, t' = 0 included
    fixed_timestep: int = 0  # reading `fixed`: the timestep the picture is inverted to and read at


@dataclass
class UNetConfig:
    weights: str | None = None
    block_out_channels: list[int] = field(default_factory=lambda: [320, 640, 1280, 1280])
    layers_per_block: int = 2
    attention_head_dim: list[int] = field(default_factory=lambda: [5, 10, 20, 20])
    attention_blocks: list[bool] = field(default_factory=lambda: [True, True, True, False])  # per level, top first
    norm_num_groups: int = 32
    gradient_checkpointing: bool = False
    compile: bool = False
    trainable: str = "auto"  # auto: decoder on top of `weights`, else all | all | decoder | cross_attn (the decoder's) | synapse


@dataclass
class SynapseConfig:
    # none | kv_mix (eq. 5-6) | kv_mix_proj | concat | decoupled | context_mix | controlnet | language_of_audio
    kind: str = "kv_mix"
    layers: list[str] = field(default_factory=lambda: ["decoder"])  # decoder | encoder | both | globs over layer names
    alpha_share: str = "block"  # all | block | layer | head
    alpha_init: float = 0.5
    match: str = "pool"  # how N image tokens become M: pool (raster order) | pool_2d
    image_tokens: int = 64  # concat: M; the mixing kinds use the text length L
    match_scale: bool = False  # kv_mix: bring image K and V to the RMS of the music's


@dataclass
class DiffusionConfig:
    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: str = "scaled_linear"
    prediction_type: str = "epsilon"  # epsilon (eq. 7) | v_prediction
    loss_space: str = "output"  # output: the error of what is predicted (eq. 7) | v: the same error as one of v
    min_snr_gamma: float | None = None  # 5 in the release; null: no weighting
    pure_noise_share: float = 0.0  # of samples seen as pure noise at the last timestep, as in sampling; with loss_space v
    text_drop_prob: float = 0.1  # text alone
    image_drop_prob: float = 0.1  # picture alone
    both_drop_prob: float = 0.1


@dataclass
class OptimConfig:
    lr: float = 1e-4
    alpha_lr: float = 1e-5  # absolute; the paper's best
    weight_decay: float = 0.01
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    warmup_steps: int = 100
    schedule: str = "constant"  # constant | cosine, after the warm-up
    grad_clip_norm: float = 1.0
    ema_decay: float = 0.999  # of the conditioned model, parts have none; 0 switches it off


@dataclass
class TrainerConfig:
    max_steps: int = 100_000  # optimizer steps
    accelerator: str = "auto"
    devices: str = "auto"
    num_nodes: int = 1
    strategy: str = "auto"
    # auto (bf16-mixed on cuda, 32-true elsewhere) | 32-true | bf16-mixed | 16-mixed (GPUs) | bf16-true: bf16-mixed, with text
    # encoder and image model kept in bfloat16, at half their memory
    precision: str = "auto"
    accumulate: int = 1  # micro-batches per optimizer step
    micro_batch_size: int | None = None  # at most so many samples at once on a device; accumulate follows, however many there are
    val_every_n_steps: int = 1000
    checkpoint_every_n_steps: int = 1000
    keep_last: int = 2  # newest checkpoints that stay; at least 2, so that a damaged one loses little
    keep_best: int = 1  # checkpoints of the lowest val/loss that stay beside them
    async_checkpoints: bool = False  # write in a thread, at the cost of a copy of the trained state in host memory
    log_every_n_steps: int = 10
    media_every_n_steps: int = 5000
    media_items: int = 8
    progress_bar: bool = True
    threads: int = 0  # CPU threads of torch; 0 leaves torch's choice


@dataclass
class GuardConfig:
    """When a training step is skipped, told of, or undone (guards.py)."""

    max_bad_steps: int = 10  # in a row with a non-finite input, loss or gradient; then the run stops
    spike_factor: float = 10.0  # a loss this many robust standard deviations above the median of the last 100 is a spike; 0: off
    rollback_after: int = 0  # spikes in a row after which the last checkpoint before them is taken up again; 0: never


@dataclass
class SamplingConfig:
    sampler: str = "dpm"  # ddim | dpm (DPM-Solver++, 2M)
    num_inference_steps: int = 25
    guidance_scale: float = 3.0  # s_T
    image_guidance_scale: float | None = None  # s_I; null: the same as guidance_scale (two passes)
    negative_prompt: str = ""


@dataclass
class Config:
    name: str | None = None  # of the run directory; default: the configs' stems
    task: str = "melfusion"  # melfusion | music_vae | vocoder | image_diffusion | judge | towers
    seed: int = 0
    runs_dir: str = "runs"
    stages: list[str] = field(default_factory=list)  # configs laid over this one and trained first where missing
    audio: AudioConfig = field(default_factory=AudioConfig)
    data: DataConfig = field(default_factory=DataConfig)
    music_vae: MusicVAEConfig = field(default_factory=MusicVAEConfig)
    vocoder: VocoderConfig = field(default_factory=VocoderConfig)
    text_encoder: TextEncoderConfig = field(default_factory=TextEncoderConfig)
    image: ImageConfig = field(default_factory=ImageConfig)
    unet: UNetConfig = field(default_factory=UNetConfig)
    synapse: SynapseConfig = field(default_factory=SynapseConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    guards: GuardConfig = field(default_factory=GuardConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    towers: TowersConfig = field(default_factory=TowersConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    ablation: AblationConfig = field(default_factory=AblationConfig)


# Allowed words of the string keys. Those that a registry has stand here too, since a registry's file imports torch, and a
# misspelt word should not wait for that; a test holds both against each other.
CHOICES = {
    "task": ("melfusion", "music_vae", "vocoder", "image_diffusion", "judge", "towers"),
    "audio.framing": ("hifigan", "centred"),
    "audio.level": ("rms", "peak"),
    "music_vae.trainable": ("all", "decoder", "texture"),
    "vocoder.kind": ("griffin_lim", "vocos"),
    "data.source": ("scenes", "games", "manifest"),
    "data.crop": ("random", "start"),
    "data.precompute.dtype": ("float32", "float16"),
    "text_encoder.family": ("bert", "t5", "clip"),
    "image.model": ("diffusion", "clip"),
    "image.prediction_type": ("epsilon", "v_prediction"),
    "image.reading": ("inverted", "fixed", "noised"),
    "synapse.alpha_share": ("all", "block", "layer", "head"),
    "unet.trainable": ("auto", "all", "decoder", "cross_attn", "synapse"),
    "diffusion.loss_space": ("output", "v"),
    "diffusion.prediction_type": ("epsilon", "v_prediction"),
    "optim.schedule": ("constant", "cosine"),
    "trainer.accelerator": ("auto", "cpu", "gpu", "cuda", "mps"),
    "trainer.precision": ("auto", "32-true", "bf16-mixed", "16-mixed", "bf16-true", "32"),
    "synapse.kind": ("none", "kv_mix", "kv_mix_proj", "concat", "decoupled", "context_mix", "controlnet", "language_of_audio"),
    "synapse.match": ("pool", "pool_2d"),
    "sampling.sampler": ("ddim", "dpm"),
    "judge.kind": ("conv", "recurrent", "pitch"),
    "ablation.told": ("right picture", "shuffled picture", "no picture", "outside picture", "picture alone"),
    "ablation.corpus_test": ("fresh", "split"),
}
REFUSED = {  # words that one may expect → why they are none, and what to write instead
    "trainer.precision": {
        "16-true": "float16 holds neither AdamW's small steps nor small gradients: give 16-mixed, or bf16-true for less memory",
        "64-true": "the mel front end, losses and what is precomputed are float32: give 32-true",
        "64": "the mel front end, losses and what is precomputed are float32: give 32-true",
    },
}
