"""Whether others can read our shards."""

from __future__ import annotations

from pathlib import Path

from melfusion.data.shards import ShardSet

EXAMPLES = 5  # samples by which `datasets` learns what a set holds


def refusals(folder: Path) -> list[str]:
    """Sentences on the first shards that Hugging Face's `datasets` refuses: the first five samples must have the same members.

    It looks at one split only, which one depends on how it is called (huggingface/datasets, packaged_modules/webdataset/
    webdataset.py, commit 002f5f6c).
    """
    shards, found = ShardSet(folder), []
    for split in shards.counts():
        entries = shards.entries(split)
        first = [entry for entry in entries[:EXAMPLES] if entry.shard == entries[0].shard]
        if other := next((entry for entry in first if set(entry.members) != set(first[0].members)), None):
            named = (f"{entry.key} has {', '.join(sorted(entry.members))}" for entry in (first[0], other))
            found.append(
                f"{folder}/{first[0].shard}: Hugging Face's datasets may refuse this set, since of the first {EXAMPLES} samples "
                f"{' and '.join(named)}: for it give all samples a picture, equally many, and files of the same kinds."
            )
    return found
