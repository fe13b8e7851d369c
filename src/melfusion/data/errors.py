"""What the data path raises where a data set, not one sample, cannot be used, and how addresses are named in words."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)(?:\S*@)?([^\s?#]*)([?#][^\s,;'\")>]+)?")
HIDDEN = "…"


class DataError(RuntimeError):
    """A data set that cannot be used: what is wrong, where, what to do. It never says a password of an address."""

    def __str__(self) -> str:
        # a loader's worker sends its error with the traceback before it; the sentence comes last
        return shown(super().__str__().strip().rpartition(f"{__name__}.DataError: ")[2])


def shown(text: object, address: str = "") -> str:
    """Text as it may be printed: addresses in it without user, password and query (which may hold a key).

    address: one whose user and password are hidden wherever the text has them, since clients also quote parts of it.
    """
    words = ADDRESS.sub(lambda found: found[1] + found[2] + (f"?{HIDDEN}" if found[3] else ""), str(text))
    for secret in secrets(address):
        words = words.replace(secret, HIDDEN)
    return words


def secrets(address: str) -> list[str]:
    """User and password of an address, and the password alone, as it is written and as it is meant; [] where it has none."""
    try:
        user, at, _ = urlsplit(address).netloc.rpartition("@")
    except ValueError:  # it is no address at all
        return []
    password = user.partition(":")[2]
    return [word for word in dict.fromkeys((user, unquote(user), password, unquote(password))) if at and len(word) > 1]
