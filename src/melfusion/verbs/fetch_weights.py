"""Get the published weights that a configuration names from the hub, with their licences beside them.

Folders of `sources` are filled where they are missing; weights that are named by hub:… go into the hub's own cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from melfusion.verbs.imports import heavy_imports
from melfusion.verbs.options import configuration, option


@dataclass
class Options:
    config: str = configuration("melfusion")
    again: bool = option(False, "fetch folders that are there, too")


MORE = "Keys of the configuration may follow, such as sources={models/mine: OWNER/NAME}."
SECTIONS = ()
EXAMPLES = ("melfusion fetch-weights ace_step", "melfusion fetch-weights config=stable_audio_open again=true")


def run(options: Options, more: list[str]) -> None:
    """Prints each folder with its licence and what that allows."""
    from melfusion.assembly.configuration import load_config

    config = load_config(options.config, more)
    with heavy_imports():
        from melfusion.assembly.export import SECTIONS as parts
        from melfusion.assembly.export import used
        from melfusion.assembly.weights import weights_folder
        from melfusion.models.fetching import fetch, note_hub
        from melfusion.models.licences import ALLOWS, UNKNOWN, fetched_licence, licence_of
    for there, source in config.sources.items():
        known = None if options.again else fetched_licence(Path(there))  # noted at last: a fetch that was cut short goes on
        licence = known or fetch(source, Path(there))
        print(f"{there}: {source}, licence {licence} ({ALLOWS.get(licence, ALLOWS[UNKNOWN])}){', was there' if known else ''}")
    for part in parts:
        weights = getattr(getattr(config, part), "weights", None) or ""
        if weights.startswith("hub:") and used(config, part):
            folder = weights_folder(config, part)
            assert folder is not None
            licence = licence_of(weights, folder)
            note_hub(weights, folder, licence)
            print(f"{part}: {weights}, licence {licence} ({ALLOWS.get(licence, ALLOWS[UNKNOWN])})")
