"""Write shards from your own files, or from MeLBench, MusicCaps, EMID, OSSL-v2, MUImage or V2M.

data/README.md describes the manifests. What cannot be used stands in OUT/missing.csv. Without a manifest the shards that are in
OUT are indexed again.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from melfusion.verbs.options import option


@dataclass
class Options:
    manifest: str | None = option(
        None, "manifest files (CSV, JSON, JSON lines, parquet, lists of ids), comma-separated, globs allowed", variable="MANIFEST"
    )
    audio_dir: str | None = option(None, "folder that the manifest's audio paths start from", variable="AUDIO_DIR")
    image_dir: str | None = option(None, "folder that the manifest's picture paths start from", variable="IMAGE_DIR")
    out: str | None = option(None, "the folder to write the shards to", variable="OUT", required=True)
    split_ratios: str | None = option(
        None,
        "shares of train, val and test, such as 80/10/10, of samples without a split; null: those of the format",
        variable="SPLIT_RATIOS",
    )
    seed: int = option(0, "seed of the splits", variable="SEED", least=0)
    duration_s: float | None = option(None, "length of excerpts, s; null: that of the format", variable="DURATION_S", least=0.1)
    samples_per_shard: int = option(256, "samples in a shard", variable="SAMPLES_PER_SHARD", least=1)
    frames: int = option(1, "pictures of each clip that a film gives, from the middles of equal parts", variable="FRAMES", least=1)
    cut: bool = option(False, "cut whole tracks into excerpts, one after another", variable="CUT")


MORE = None
SECTIONS = ()
EXAMPLES = (
    "melfusion shards manifest=mine.csv audio_dir=music image_dir=pictures out=data/own",
    "melfusion shards manifest='tracks/*.jsonl' out=data/own cut=true duration_s=10.24 split_ratios=80/10/10",
)


def run(options: Options, more: list[str]) -> None:
    """Write the shards, and print how many samples there are."""
    from melfusion.data.manifest.build import build_from_manifest

    print(build_from_manifest(**dataclasses.asdict(options)))
