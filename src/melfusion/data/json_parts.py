"""A large JSON object read part by part, so that only one part of it is there as Python objects at a time."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any

WINDOW = 1 << 22  # bytes that are decoded at a time, and more where one part is larger

SPACE = re.compile(r"[ \t\n\r]*")

DECODER = json.JSONDecoder()


def parts(text: bytes, listed: str) -> Iterator[tuple[str, Any]]:
    """(name, value) of each member of the object. A list under the name `listed` comes as an iterator, to be used up at once.

    Raises ValueError for text that is no JSON object, and for a name that comes twice, and RecursionError for deep nesting.
    """
    source, names = JsonText(text), set()
    source.want("{")
    if not source.goes_on("}", first=True):
        return
    while True:
        name = source.value()
        if not isinstance(name, str) or name in names:
            raise ValueError(f"{name!r:.40} is no name of its own")
        names.add(name)
        source.want(":")
        yield name, source.elements() if name == listed and source.peek() == "[" else source.value()
        if not source.goes_on("}"):
            break
    if source.peek():
        raise ValueError("more text follows the object")


class JsonText:
    """Text of which a window is decoded, and a place in it."""

    def __init__(self, text: bytes):
        self.text, self.taken, self.window, self.at = memoryview(text), 0, "", 0
        self.decoder = codecs.getincrementaldecoder(json.detect_encoding(text[:8]))("surrogatepass")

    def more(self) -> bool:
        """Decode some more of the text; False at its end."""
        if self.taken == len(self.text):
            return False
        size = max(WINDOW, len(self.window) - self.at)  # twice as much, where one value is longer than the window
        chunk = self.text[self.taken : self.taken + size]
        self.taken += len(chunk)
        self.window = self.window[self.at :] + self.decoder.decode(chunk, self.taken == len(self.text))
        self.at = 0
        return True

    def peek(self) -> str:
        """The next character that is no space; empty at the end."""
        while True:
            found = SPACE.match(self.window, self.at)
            self.at = found.end() if found else self.at
            if self.at < len(self.window) or not self.more():
                return self.window[self.at : self.at + 1]

    def want(self, character: str) -> None:
        if self.peek() != character:
            raise ValueError(f"{character} is missing")
        self.at += 1

    def goes_on(self, end: str, first: bool = False) -> bool:
        """Does another member or element follow, or the end?"""
        if self.peek() == end:
            self.at += 1
            return False
        if not first:
            self.want(",")
        return True

    def value(self) -> Any:
        """The value that begins here."""
        self.peek()
        while True:
            try:
                value, end = DECODER.raw_decode(self.window, self.at)
            except json.JSONDecodeError:
                if not self.more():
                    raise
                continue
            if end < len(self.window) or not self.more():  # a number at the end of the window may go on
                self.at = end
                return value

    def elements(self) -> Iterator[Any]:
        """The elements of the list that begins here."""
        self.want("[")
        first = True
        while self.goes_on("]", first):
            first = False
            yield self.value()
