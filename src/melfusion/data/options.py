"""Options of data sets and precomputed shards."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class PrecomputeConfig:
    """What `melfusion precompute` stores beside the samples, and where."""

    enabled: bool = False  # train from precomputed shards, building them first where they are missing
    path: str | None = None  # default: <data.path>-precomputed/<digest of what it was made from>
    batch_size: int = 32  # samples at once
    crops: int = 1  # stored of each clip, evenly from its start on; with more than one, data.crop=random draws among them
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
    crop: str = "random"  # random (drawn from seed, epoch, position; of precomputed latents among their crops) | start
    image_size_px: int = 512  # height and width of the square that the model gets, px
    max_image_pixels: int = 50_000_000  # a larger picture is refused before it is decoded
    max_image_work: int = 1_000_000_000  # pixels × scans (a progressive JPEG has about 10) above which one is refused, too
    max_audio_s: float = 1200.0  # longer audio is refused before it is decoded
    max_audio_samples: int = 250_000_000  # and that of more frames × channels: 20 minutes of 96 kHz stereo have 230 million
    max_audio_rate_hz: int = 192_000  # audio of a higher sample rate is refused, Hz
    max_audio_channels: int = 32  # audio of more channels is refused
    max_member_mib: float = 256.0  # a larger member is never read
    max_sample_members: int = 64  # a sample of more files is refused
    max_shard_members: int = 1_000_000  # a shard of more files is refused
    max_json_kib: float = 1024.0  # of a sample's json, and of the header of its precomputed tensors
    max_json_depth: int = 16  # nested lists and objects
    max_index_mib: float = 1024.0  # a larger index.json is refused, MiB
    max_bad_ratio: float = 0.2  # above this share of replaced training samples the run stops
    val_items: int = 64  # samples of the val split used at each validation
    splits: dict[str, int] = field(default_factory=lambda: {"train": 2048, "val": 128, "test": 128})  # scenes: how many
    max_scenes: int = 100_000  # scenes: more are only drawn where this says so
    corpus_seed: int = 0  # scenes: which ones; `seed` decides what a training makes of them
    leave_out: list[dict[str, str]] = field(default_factory=list)  # labels of samples never trained on: any of these, all its keys
    hours: float | None = None  # train on so many hours of clips alone, of whole tracks; null: on all
    samples_per_shard: int = 256  # samples in a shard that is written
    precompute: PrecomputeConfig = field(default_factory=PrecomputeConfig)
