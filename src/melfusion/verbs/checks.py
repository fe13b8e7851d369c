"""Checks that several verbs make before they import anything slow; each raises ConfigError."""

from __future__ import annotations

from pathlib import Path

from melfusion.errors import ConfigError
from melfusion.files import require_writable


def check_amount(n: int | None, most: int) -> None:
    """A number of clips that is rather a typing error is refused."""
    if (n or 1) > most:
        raise ConfigError(
            f"n={n} clips are more than limit={most}: give a smaller n, or limit={n} if you want so many; the first clips "
            "show how long all take and what room they need."
        )


def check_checkpoint(ckpt: str | None) -> None:
    """The checkpoint is there."""
    if ckpt and not Path(ckpt).exists():
        raise ConfigError(f"There is no checkpoint in {ckpt}: give CKPT=runs/<name> of a run that has saved one.")


def check_out(folder: Path, out: str | None) -> None:
    """Make the folder of the files to come, and check that it can be written."""
    try:
        require_writable(folder)
    except OSError as error:
        raise ConfigError(f"{f'out={out}' if out else folder} cannot be written ({error.strerror}): give another out=….") from None
