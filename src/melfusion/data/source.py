"""What a source of samples declares: its name, how its shards are built, and how shards that are there are checked.

A new source is one class like `scenes/source.py`, one line in `sources.SOURCES`, and one YAML file. These files import nothing
heavy, so that a configuration is checked fast; what builds is imported within `samples` and `info`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from melfusion.data.options import DataConfig
from melfusion.errors import DataError
from melfusion.media.options import AudioConfig

if TYPE_CHECKING:
    from melfusion.data.shards import Sample, ShardSet


class CorpusOptions(Protocol):
    """The part of a configuration that says which data set is meant."""

    @property
    def data(self) -> DataConfig: ...

    @property
    def audio(self) -> AudioConfig: ...


@dataclass(frozen=True)
class Corpus:
    """The plainest CorpusOptions."""

    data: DataConfig
    audio: AudioConfig


class Source:
    """Where the samples of a data set come from; each kind is a subclass.

    Attributes:
        name: the word of `data.source`, and of `info.source` in the index of each set that it builds.
        command: what a user types to build a set; `{path}` stands for data.path.
        drawn: are samples made on this machine from `data.corpus_seed`? Then a missing set may be built unasked, and any number
            of new samples can be drawn.
    """

    name: str
    command: str
    drawn: bool = False

    def samples(self, config: CorpusOptions, inputs: Path | None) -> Iterable[Sample]:
        """The samples of `config.data.path`, in the order in which they are written.

        inputs: a folder of files that the user already has (for games: unpacked packages); None: fetch or draw them.
        Raises DataError where this source needs what a configuration does not say.
        """
        raise DataError(f"A set of data.source={self.name} is not built from a configuration: use `{self.command}`.")

    def count(self, config: CorpusOptions) -> int | None:
        """How many samples `samples` will give, for the progress bar; None: that is not known before."""
        return None

    def seconds(self, config: CorpusOptions) -> float:
        """About how long `samples` takes on this machine; 0: that is not known before."""
        return 0.0

    def info(self, config: CorpusOptions) -> dict[str, Any]:
        """What the index says of the whole set, beside the source."""
        return {}

    def check_size(self, key: str, n: int, data: DataConfig) -> None:
        """ConfigError where `key` asks for more samples than this source should make."""

    def differs(self, there: ShardSet, config: CorpusOptions) -> str:
        """In words, why the set that is there is not the one that the configuration means; empty where it is."""
        return ""
