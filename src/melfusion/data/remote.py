"""Remote files, whole or by byte range: http(s) by itself, every other kind of address through fsspec.

Every transfer is bounded as a whole, headers included: after `data.timeout_s`, and at every later moment, it must have brought
`data.min_rate_kib_s` on average. N bytes take at most 2 × timeout_s + N / rate, however slowly a server drips.
"""

from __future__ import annotations

import base64
import functools
import http.client
import io
import ssl
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import IO, Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit
from urllib.request import HTTPHandler, HTTPSHandler, OpenerDirector, Request, build_opener

from melfusion.errors import DataError

PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "hf": "huggingface_hub"}

CHUNK = 1 << 20  # bytes asked of an object store at a time


class TimeBudget:
    """How slow one transfer may be; only the time spent in waiting for bytes counts."""

    def __init__(self, timeout_s: float, rate_kib_s: float):
        self.timeout_s, self.rate, self.spent_s, self.got = timeout_s, rate_kib_s * 1024, 0.0, 0

    def took(self, seconds: float, size: int) -> None:
        """TimeoutError where so many further bytes, after so long, are too few."""
        self.spent_s, self.got = self.spent_s + seconds, self.got + size
        if self.spent_s > self.timeout_s + self.got / self.rate:
            raise TimeoutError(f"{self.got} bytes came in {self.spent_s:.0f} s, below data.min_rate_kib_s={self.rate / 1024:g}")


class PacedStream(io.RawIOBase):
    """A socket's stream under a TimeBudget."""

    def __init__(self, raw: io.RawIOBase, pace: TimeBudget):
        self.raw, self.pace = raw, pace

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        started = time.monotonic()
        size = self.raw.readinto(buffer)
        self.pace.took(time.monotonic() - started, size or 0)
        return size

    def close(self) -> None:
        self.raw.close()
        super().close()


class PacedResponse(http.client.HTTPResponse):
    """An answer whose status line, headers and body come under one TimeBudget."""

    def __init__(self, pace: TimeBudget, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.fp = io.BufferedReader(PacedStream(self.fp.detach(), pace))


@functools.cache  # certificates are read once
def opener(timeout_s: float, rate_kib_s: float) -> OpenerDirector:
    """urllib's opener, with its proxies and redirects, each of whose answers comes under a TimeBudget."""

    def connect(kind: type, *args: Any, **kwargs: Any) -> http.client.HTTPConnection:
        made = kind(*args, **kwargs)
        made.response_class = lambda *a, **k: PacedResponse(TimeBudget(timeout_s, rate_kib_s), *a, **k)
        return made

    trusted = ssl.create_default_context()

    class Plain(HTTPHandler):
        def http_open(self, request: Request) -> Any:
            return self.do_open(partial(connect, http.client.HTTPConnection), request)

    class Secure(HTTPSHandler):
        def https_open(self, request: Request) -> Any:
            return self.do_open(partial(connect, http.client.HTTPSConnection, context=trusted), request)

    return build_opener(Plain, Secure)


def ask(url: str, timeout_s: float, rate_kib_s: float, headers: dict[str, str] | None = None, method: str = "GET") -> Any:
    """The answer to one http(s) request; user and password of the address are sent to that host alone, as basic authentication."""
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    web = parts.scheme in ("http", "https")
    request = Request(urlunsplit(parts._replace(netloc=host)) if web else url, headers=headers or {}, method=method)
    if user and web:
        name, _, password = map(unquote, user.partition(":"))
        token = base64.b64encode(f"{name}:{password}".encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {token}")
    return opener(timeout_s, rate_kib_s).open(request, timeout=timeout_s)


class HTTP:
    """Files under an http(s) address."""

    def __init__(self, url: str, timeout_s: float, rate_kib_s: float):
        self.url, self.ask = url, partial(ask, timeout_s=timeout_s, rate_kib_s=rate_kib_s)

    def open(self, name: str, offset: int = 0, length: int | None = None) -> IO[bytes]:
        ranged = {} if length is None else {"Range": f"bytes={offset}-{offset + length - 1}"}
        answer = self.ask(f"{self.url}/{quote(name)}", headers={"Accept-Encoding": "identity"} | ranged)
        if ranged and answer.status != 206:
            answer.close()
            raise DataError(
                f"{self.url}/{name}: the server gives no byte ranges, and the shard does not fit into the cache: "
                "raise data.cache_gib, or serve the shards from elsewhere."
            )
        return answer

    def size(self, name: str) -> int:
        with self.ask(f"{self.url}/{quote(name)}", method="HEAD") as answer:
            return int(answer.headers["Content-Length"])


class Objects:
    """Files of any other kind of URL, through fsspec."""

    def __init__(self, url: str, timeout_s: float, rate_kib_s: float):
        self.url, self.timeout_s, self.rate = url, timeout_s, rate_kib_s * 1024
        protocol = url.partition("://")[0]
        import fsspec

        try:
            fsspec.get_filesystem_class(protocol)
        except ImportError as error:
            raise DataError(f"{url} needs one more package: run `pip install {PACKAGES.get(protocol, protocol)}`.") from error
        except ValueError as error:
            raise DataError(f"{url}: fsspec knows no {protocol}:// addresses; give a folder or another URL.") from error

    def _at(self, name: str) -> tuple[Any, str]:
        import fsspec

        return fsspec.core.url_to_fs(f"{self.url}/{name}")  # kept by fsspec, one for each process

    def _within(self, size: int, call: Callable[[], Any]) -> Any:
        """What a call that brings so many bytes returns, in the time that those may take."""
        return within(2 * self.timeout_s + size / self.rate, call)

    def open(self, name: str, offset: int = 0, length: int | None = None) -> IO[bytes]:
        files, path = self._at(name)  # here, since fsspec keeps one for each thread
        if length is not None:
            return io.BytesIO(self._within(length, lambda: files.cat_file(path, start=offset, end=offset + length)))
        file = self._within(0, lambda: files.open(path, "rb"))
        return io.BufferedReader(Chunks(file, self._within), CHUNK)

    def size(self, name: str) -> int:
        files, path = self._at(name)
        return self._within(0, lambda: files.size(path))


class Chunks(io.RawIOBase):
    """A file of an object store, read in chunks of which each has its time."""

    def __init__(self, file: IO[bytes], bounded: Callable[[int, Callable[[], bytes]], bytes]):
        self.file, self.bounded = file, bounded

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = min(len(buffer), CHUNK)
        data = self.bounded(size, lambda: self.file.read(size))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self.file.close()
        super().close()


def within(seconds: float, call: Callable[[], Any]) -> Any:
    """What `call` returns or raises; TimeoutError after so many seconds, when a thread that no one waits for is left with it."""
    ended: list[tuple[Any, BaseException | None]] = []

    def run() -> None:
        try:
            ended.append((call(), None))
        except BaseException as error:
            ended.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not ended:
        raise TimeoutError(f"nothing came in {seconds:.0f} s")
    value, error = ended[0]
    if error is not None:
        raise error
    return value
