"""Licences of weights: what is known of published ones, and which of several is the strictest."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable
from pathlib import Path

UNKNOWN = "unknown"

# From the most to the least permissive, as model cards spell them; what each asks, in a few words
ALLOWS = {
    "mit": "any use; keep the notice",
    "apache-2.0": "any use; keep the notice",
    "bsd-3-clause": "any use; keep the notice",
    "cc-by-4.0": "any use; name the authors",
    "creativeml-openrail-m": "any use but those that it names as harmful; pass its terms on",
    "gemma": "any use but those that its policy forbids; pass its terms on",
    "stabilityai-ai-community": "free below a yearly revenue that it names; pass its terms on",
    "cc-by-nc-4.0": "no commercial use; name the authors",
    "cc-by-nc-sa-4.0": "no commercial use; name the authors; pass on under the same licence",
    UNKNOWN: "nothing is known of what it allows",
}

PUBLISHED = {  # repository of the hub → its licence
    "cvssp/audioldm-s-full-v2": "cc-by-nc-sa-4.0",
    "cvssp/audioldm2": "cc-by-nc-sa-4.0",
    "cvssp/audioldm2-music": "cc-by-nc-sa-4.0",
    "declare-lab/tango-full-ft-audio-music-caps": "cc-by-nc-sa-4.0",
    "google/flan-t5-large": "apache-2.0",
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "creativeml-openrail-m",
    "ACE-Step/acestep-v15-xl-turbo-diffusers": "mit",
    "stabilityai/stable-audio-open-1.0": "stabilityai-ai-community",
    "stabilityai/stable-audio-3-medium": "stabilityai-ai-community",
    "sentence-transformers/all-MiniLM-L6-v2": "apache-2.0",
    "openai/clip-vit-large-patch14": "mit",
}

SOURCE_FILE = "source.json"  # in a folder that `fetch-weights` has written: repository, commit, licence

NAMED = re.compile(r"^(?:license|licence)\s*:\s*['\"]?([\w.+-]+)", re.MULTILINE | re.IGNORECASE)
CARD_BYTES = 1 << 20


def licence_of(weights: str, folder: Path | None) -> str:
    """The licence of a part, from what `weights:` names, or the front matter of a card beside the weights."""
    if weights.startswith("shipped"):
        return "mit"
    if weights == "all-MiniLM-L6-v2":
        return PUBLISHED["sentence-transformers/all-MiniLM-L6-v2"]
    if weights.startswith("hub:") and (known := PUBLISHED.get(weights.removeprefix("hub:").partition("@")[0])):
        return known
    if folder is not None and (noted := fetched_licence(folder)):
        return noted
    for card in () if folder is None else (folder / "README.md", folder.parent / "README.md"):
        if card.is_file() and (found := NAMED.search(card.read_text("utf-8", "replace")[:CARD_BYTES])):
            return found[1].lower()
    return UNKNOWN


def fetched_licence(folder: Path) -> str | None:
    """The licence of a folder that `fetch-weights` has written, or of one inside it."""
    for place in (folder, folder.parent):
        if (file := place / SOURCE_FILE).is_file():
            with contextlib.suppress(ValueError, KeyError, OSError):
                return str(json.loads(file.read_text())["licence"])
    return None


def strictest(licences: Iterable[str]) -> str:
    """The licence that allows least; one that is not in the list counts as unknown."""
    order = list(ALLOWS)
    return max(licences, key=lambda licence: order.index(licence if licence in ALLOWS else UNKNOWN), default="mit")
