"""Remote files, whole or by byte range: http(s) by itself, every other kind of address through fsspec."""

from __future__ import annotations

import io
from typing import IO, Any
from urllib.parse import quote
from urllib.request import Request, urlopen

import fsspec

from melfusion.data.errors import DataError

PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "hf": "huggingface_hub"}


class HTTP:
    """Files under an http(s) address."""

    def __init__(self, url: str, timeout_s: float):
        self.url, self.timeout_s = url, timeout_s

    def open(self, name: str, offset: int = 0, length: int | None = None) -> IO[bytes]:
        ranged = {} if length is None else {"Range": f"bytes={offset}-{offset + length - 1}"}
        request = Request(f"{self.url}/{quote(name)}", headers={"Accept-Encoding": "identity"} | ranged)
        answer = urlopen(request, timeout=self.timeout_s)
        if ranged and answer.status != 206:
            answer.close()
            raise DataError(f"{self.url}/{name}: the server gives no byte ranges, and the shard does not fit into the cache: "
                            "raise data.cache_gib, or serve the shards from elsewhere.")  # fmt: skip
        return answer

    def size(self, name: str) -> int:
        with urlopen(Request(f"{self.url}/{quote(name)}", method="HEAD"), timeout=self.timeout_s) as answer:
            return int(answer.headers["Content-Length"])


class Objects:
    """Files of any other kind of URL, through fsspec."""

    def __init__(self, url: str):
        self.url = url
        protocol = url.partition("://")[0]
        try:
            fsspec.get_filesystem_class(protocol)
        except ImportError as error:
            raise DataError(f"{url} needs one more package: run `pip install {PACKAGES.get(protocol, protocol)}`.") from error
        except ValueError as error:
            raise DataError(f"{url}: fsspec knows no {protocol}:// addresses; give a folder or another URL.") from error

    def _at(self, name: str) -> tuple[Any, str]:
        return fsspec.core.url_to_fs(f"{self.url}/{name}")  # kept by fsspec, one for each process

    def open(self, name: str, offset: int = 0, length: int | None = None) -> IO[bytes]:
        files, path = self._at(name)
        if length is None:
            return files.open(path, "rb")
        return io.BytesIO(files.cat_file(path, start=offset, end=offset + length))

    def size(self, name: str) -> int:
        files, path = self._at(name)
        return files.size(path)
