"""Published weights: from the hub into a folder, with a note of the commit and the licence beside them."""

from __future__ import annotations

from pathlib import Path

from melfusion.errors import WeightsError
from melfusion.files import write_json
from melfusion.models.licences import ALLOWS, PUBLISHED, SOURCE_FILE, UNKNOWN
from melfusion.models.weights import IGNORED


def fetch(source: str, folder: Path) -> str:
    """OWNER/NAME[@COMMIT] → folder, with its commit and licence in SOURCE_FILE; returns the licence. What is there stays.

    WeightsError where it cannot be had, such as without a network, or where its terms have not been accepted on the hub.
    """
    from huggingface_hub import HfApi, snapshot_download

    repository, _, revision = source.partition("@")
    try:
        info = HfApi().model_info(repository, revision=revision or None)
        snapshot_download(repository, revision=info.sha, local_dir=folder, ignore_patterns=[*IGNORED, "*.bin"])
    except Exception as error:  # the hub's client raises many kinds
        words = " ".join(str(error).split())[:160]
        raise WeightsError(
            f"{source} could not be fetched ({type(error).__name__}: {words}): see that there is a network, that you are logged in "
            f"(`hf auth login`) and have accepted its terms on the hub, or copy the repository to {folder}."
        ) from error
    card = info.card_data
    licence = str((card.get("license") if card else None) or PUBLISHED.get(repository, UNKNOWN))
    note(folder, repository, str(info.sha), licence)
    return licence


def note(folder: Path, repository: str, commit: str, licence: str) -> None:
    """Write down beside weights what they are and what their licence allows."""
    source = {"repository": repository, "commit": commit, "licence": licence, "allows": ALLOWS.get(licence)}
    write_json(folder / SOURCE_FILE, source)


def note_hub(weights: str, folder: Path, licence: str) -> None:
    """The same beside `hub:OWNER/NAME@COMMIT[:SUBFOLDER]`, in the snapshot that `folder` is or lies in."""
    named, _, sub = weights.removeprefix("hub:").partition(":")
    repository, _, commit = named.partition("@")
    note(folder.parents[len(Path(sub).parts) - 1] if sub else folder, repository, commit, licence)
