"""Data sets by URL: http with and without ranges, failures, retries, the cache and its limit, object stores."""

import base64
import contextlib
import http.server
import itertools
import json
import logging
import multiprocessing
import re
import socket
import threading
import time
from collections import Counter
from pathlib import Path

import fsspec
import pytest
from data_fixtures import data_set, make_sample, one_sentence

from melfusion.data import storage
from melfusion.data.datamodule import MusicDataModule
from melfusion.data.shards import ShardSet
from melfusion.data.sources import ensure_corpus
from melfusion.data.storage import is_url, local_name
from melfusion.data.stream import open_url
from melfusion.data.writing import write_shards
from melfusion.errors import DataError, shown


class Handler(http.server.BaseHTTPRequestHandler):
    """A file server whose faults the test sets: see `Server`."""

    def do_GET(self):
        server, name = self.server, self.path.strip("/").split("?")[0]
        ranged = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")) if server.ranges else None
        with server.counting:
            server.asked[name, bool(ranged)] += 1
            server.authorized |= {self.headers["Authorization"]}
            failing = server.failures[name] > 0
            server.failures[name] -= failing
        path = server.folder / name
        if failing or not path.is_file():
            self.send_error(server.status if failing else 404)
            return
        data = path.read_bytes()
        if ranged:
            data = data[int(ranged[1]) : int(ranged[2]) + 1 + server.longer]
        if name in server.spoiled:
            data = data[:-1] + bytes([data[-1] ^ 1])
        self.send_response(206 if ranged else 200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        with server.counting:
            cut = server.cuts[name] > 0
            server.cuts[name] -= cut
        self.wfile.write(data[: len(data) // 2] if cut else data)

    def do_HEAD(self):
        path = self.server.folder / self.path.strip("/")
        self.send_response(200 if path.is_file() else 404)
        self.send_header("Content-Length", str(path.stat().st_size if path.is_file() else 0))
        self.end_headers()

    def log_message(self, *args):
        pass


class Server(http.server.ThreadingHTTPServer):
    """failures[name]: so many answers are errors of `status`; cuts[name]: so many end halfway; spoiled: a bit is wrong;
    longer: ranges have so many bytes too many; ranges: are they understood?"""

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.ranges, self.status, self.longer = Path(folder), True, 503, 0
        self.asked, self.failures, self.cuts, self.spoiled = Counter(), Counter(), Counter(), set()
        self.authorized = set()
        self.counting = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(storage, "FIRST_WAIT_S", 0.001)


@pytest.fixture
def server(tmp_path):
    made = Server(data_set(tmp_path / "served", [make_sample(key) for key in "abcdef"], per_shard=2))
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


@pytest.fixture
def remote(tmp_path, tiny):
    """remote(url, **changes) → ShardSet of a URL with a cache in tmp_path."""

    def make(url, **changes):
        config = tiny(f"data.cache_dir={tmp_path / 'cache'}", "data.retries=3", *(f"data.{k}={v}" for k, v in changes.items()))
        return ShardSet(url, config.data)

    return make


def everything(shards):
    return {(e.key, ext): shards.read(e, ext) for e in shards.entries("train") for ext in e.members}


def kept(tmp_path):
    return sorted(p.name for p in (tmp_path / "cache").glob("*/*") if not p.name.startswith("."))


def error_of(call, *args, **kwargs):
    with pytest.raises(DataError) as caught:
        call(*args, **kwargs)
    return one_sentence(caught.value)


TARS = [f"train-00000{i}.tar" for i in range(3)]
NONE = 1e-9  # GiB: no shard fits


def test_what_is_a_url():
    assert all(map(is_url, ("https://a/b", "s3://bucket/x", "memory://x")))
    assert not any(map(is_url, ("data/scenes", Path("/x"), "file:///x", "odd:name")))


def test_a_file_url_is_a_folder(server, tiny):
    assert everything(ShardSet(f"file://{server.folder}")) == everything(ShardSet(server.folder))


def test_every_member_comes_over_http_and_each_shard_once(server, remote, tmp_path):
    wanted = everything(ShardSet(server.folder))
    shards = remote(server.url)
    assert everything(shards) == everything(shards) == wanted and shards.digest() == ShardSet(server.folder).digest()
    assert server.asked == {("index.json", False): 1} | {(name, False): 1 for name in TARS}
    assert kept(tmp_path) == TARS
    assert everything(remote(server.url + "/")) == wanted  # another process finds the copies
    assert sum(n for (name, _), n in server.asked.items() if name in TARS) == 3


def test_what_does_not_fit_is_read_by_range_and_nothing_is_thrown_out(server, remote, tmp_path):
    wanted, size = everything(ShardSet(server.folder)), (server.folder / TARS[0]).stat().st_size
    shards = remote(server.url, cache_gib=1.5 * size / 2**30)
    for _ in range(3):
        assert everything(shards) == wanted
    assert kept(tmp_path) == TARS[:1]
    assert server.asked[TARS[0], False] == 1 and not any(server.asked[name, False] for name in TARS[1:])
    assert server.asked[TARS[1], True] == 3 * 2 * 2


def test_the_limit_holds_over_all_data_sets(server, remote, tmp_path):
    size = (server.folder / TARS[0]).stat().st_size
    everything(remote(server.url, cache_gib=1.5 * size / 2**30))
    other = remote(f"http://localhost:{server.server_address[1]}", cache_gib=1.5 * size / 2**30)
    everything(other)
    assert kept(tmp_path) == TARS[:1] and len(list((tmp_path / "cache").iterdir())) == 3  # two folders and the lock


def test_another_index_has_another_folder(server, remote, tmp_path):
    everything(remote(server.url))
    write_shards([make_sample(key, title="new") for key in "abcdef"], server.folder, 2)
    assert everything(remote(server.url)) == everything(ShardSet(server.folder))
    assert kept(tmp_path) == sorted(2 * TARS)


@pytest.mark.parametrize("cache", [50, NONE])
def test_failures_are_tried_again_and_logged(cache, server, remote, caplog):
    server.failures |= {"index.json": 2, TARS[1]: 3}
    with caplog.at_level(logging.WARNING):
        assert everything(remote(server.url, cache_gib=cache)) == everything(ShardSet(server.folder))
    tried = [r.message for r in caplog.records if "attempt" in r.message]
    assert len(tried) == 5 and "503" in tried[0] and f"{server.url}/{TARS[1]}: attempt 3 of 4" in tried[-1]


def test_the_waits_grow_and_differ(server, remote, monkeypatch):
    waits = []
    monkeypatch.setattr(storage, "FIRST_WAIT_S", 0.5)
    monkeypatch.setattr(storage.time, "sleep", waits.append)
    server.failures["index.json"] = 10
    error_of(remote, server.url, retries=9)
    assert len(waits) == 9 and all(min(60, 0.5 * 2**i) * 0.5 <= w <= min(60, 0.5 * 2**i) * 1.5 for i, w in enumerate(waits))
    assert waits != sorted({0.5 * 2**i for i in range(9)})


@pytest.mark.parametrize("cache", [50, NONE])
def test_an_outage_stops_with_url_and_reason_and_a_second_call_goes_on(cache, server, remote, tmp_path):
    shards = remote(server.url, cache_gib=cache)
    server.failures[TARS[1]] = 4
    message = error_of(everything, shards)
    assert f"{server.url}/{TARS[1]}" in message and "503" in message and "4 attempts" in message and "resume" in message
    assert kept(tmp_path) == (TARS[:1] if cache == 50 else [])  # no part is left
    assert everything(shards) == everything(ShardSet(server.folder))


def test_no_rights_are_not_tried_again(server, remote):
    server.failures["index.json"], server.status = 9, 403
    assert "1 attempts" in error_of(remote, server.url) and server.asked["index.json", False] == 1


def test_a_server_that_is_not_there_is_a_sentence(remote):
    assert "could not be read in 4 attempts" in error_of(remote, "http://127.0.0.1:9")


@pytest.mark.parametrize("cache", [50, NONE])
def test_truncated_answers_are_tried_again(cache, server, remote, tmp_path):
    server.cuts |= {TARS[0]: 2}
    assert everything(remote(server.url, cache_gib=cache)) == everything(ShardSet(server.folder))
    server.cuts[TARS[2]] = 100
    fresh = remote(f"http://localhost:{server.server_address[1]}", cache_gib=cache)
    assert "bytes came for" in error_of(everything, fresh)
    assert kept(tmp_path) == (sorted([*TARS, *TARS[:2]]) if cache == 50 else [])  # what came cut is not kept


def test_a_range_of_another_length_is_an_error(server, remote):
    shards, server.longer = remote(server.url, cache_gib=NONE), 1
    assert re.search(r"\d+ bytes came for \d+", error_of(everything, shards))


def test_another_digest_is_an_error_and_is_not_kept(server, remote, tmp_path):
    server.spoiled.add(TARS[1])
    message = error_of(everything, remote(server.url))
    assert "SHA-256" in message and TARS[1] in message and kept(tmp_path) == TARS[:1]


def test_a_server_without_ranges_serves_whole_shards_only(server, remote):
    server.ranges = False
    assert everything(remote(server.url)) == everything(ShardSet(server.folder))
    message = error_of(everything, remote(f"http://localhost:{server.server_address[1]}", cache_gib=NONE))
    assert "no byte ranges" in message and "data.cache_gib" in message


def test_a_missing_data_set_or_shard_is_named(server, remote):
    assert "no index.json" in error_of(remote, f"{server.url}/nowhere")
    (server.folder / TARS[1]).unlink()
    for cache in (50, NONE):
        assert f"{TARS[1]} is not there" in error_of(everything, remote(server.url, cache_gib=cache))


def test_a_shard_that_changed_under_its_index_is_found_by_range_too(server, remote):
    shards = remote(server.url, cache_gib=NONE)
    tar = server.folder / TARS[0]
    tar.write_bytes(tar.read_bytes()[512:] + b"\0" * 512)
    assert "is stale" in error_of(everything, shards)


def test_an_index_above_its_limit_is_not_read(server, remote):
    assert "data.max_index_mib" in error_of(remote, server.url, max_index_mib=0.0001)


def test_a_full_disk_means_ranges_not_the_end(server, remote, monkeypatch, tmp_path):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage.Remote, "_download", full)
    assert everything(remote(server.url)) == everything(ShardSet(server.folder)) and kept(tmp_path) == []


def test_a_cache_that_another_user_owns_means_ranges(server, remote, monkeypatch, caplog):
    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(storage, "locked", refused)
    assert everything(remote(server.url)) == everything(ShardSet(server.folder)) and "cannot be kept" in caplog.text


def test_a_cache_folder_that_cannot_be_made_is_a_sentence(server, tmp_path, tiny):
    (tmp_path / "file").write_text("")
    message = error_of(ShardSet, server.url, tiny(f"data.cache_dir={tmp_path / 'file'}").data)
    assert "data.cache_dir" in message


def fetch_all(url, cache, start):
    from melfusion.data.options import DataConfig

    shards = ShardSet(url, DataConfig(cache_dir=cache))
    start.wait()
    assert len(everything(shards)) == 12


def test_of_several_processes_one_fetches_each_shard(server, tmp_path):
    context = multiprocessing.get_context("fork")
    start = context.Barrier(4)
    processes = [context.Process(target=fetch_all, args=(server.url, str(tmp_path / "cache"), start)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [p.exitcode for p in processes] == [0] * 4
    assert {name: server.asked[name, False] for name in TARS} == dict.fromkeys(TARS, 1)


@pytest.mark.parametrize("workers", [0, 2])
def test_training_over_http_is_training_from_disk(workers, server, tiny, tmp_path):
    def batches(path):
        config = tiny(f"data.path={path}", f"data.cache_dir={tmp_path / 'cache'}", f"data.num_workers={workers}")
        module = MusicDataModule(config.data, config.audio, config.seed)
        return [batch for batch, _ in zip(module.train_dataloader(), range(4), strict=False)]

    for near, far in zip(batches(server.folder), batches(server.url), strict=True):
        assert near.keys == far.keys and near.waveform.equal(far.waveform)


def test_an_outage_in_a_loaders_worker_is_one_sentence(server, tiny, tmp_path):
    config = tiny(f"data.path={server.url}", f"data.cache_dir={tmp_path}", "data.num_workers=1", "data.retries=0")
    module = MusicDataModule(config.data, config.audio, config.seed)
    module.setup()
    server.failures |= dict.fromkeys(TARS, 99)
    assert "could not be read in 1 attempts" in error_of(lambda: next(iter(module.train_dataloader())))


# --- object stores ----------------------------------------------------------------------------------------------------


@pytest.fixture
def memory(server):
    files = fsspec.filesystem("memory")
    for path in server.folder.iterdir():
        files.pipe_file(f"/bucket/set/{path.name}", path.read_bytes())
    yield "memory://bucket/set"
    files.rm("/bucket", recursive=True)


@pytest.mark.parametrize("cache", [50, NONE])
def test_object_stores_give_the_same(cache, memory, remote, server, tmp_path):
    assert everything(remote(memory, cache_gib=cache)) == everything(ShardSet(server.folder))
    assert kept(tmp_path) == (TARS if cache == 50 else [])
    assert remote(memory).storage.size(TARS[0]) == (server.folder / TARS[0]).stat().st_size
    assert remote(memory).storage.size("none") is None


def test_sizes_over_http(server, remote):
    place = remote(server.url).storage
    assert place.size(TARS[0]) == (server.folder / TARS[0]).stat().st_size and place.size("none.tar") is None


def test_a_store_that_needs_a_package_names_the_command(remote):
    message = error_of(remote, "s3://bucket/set")
    assert "pip install s3fs" in message and "s3://bucket/set" in message
    assert "nosuch" in error_of(remote, "nosuch://bucket")


# --- where local things of a URL go -----------------------------------------------------------------------------------


def test_locks_and_precomputed_shards_of_a_url_lie_in_the_cache(tiny, tmp_path):
    near, far = tiny("data.path=data/mine"), tiny("data.path=s3://bucket/set", f"data.cache_dir={tmp_path}")
    assert local_name(near.data) == "data/mine"
    assert Path(local_name(far.data)).parent == tmp_path and "s3:" not in local_name(far.data)
    assert local_name(far.data) != local_name(tiny("data.path=s3://bucket/other", f"data.cache_dir={tmp_path}").data)


def test_nothing_is_built_at_a_url(server, tiny):
    ensure_corpus(tiny(f"data.path={server.url}"))
    assert "local folders" in error_of(write_shards, [make_sample()], "s3://bucket/set")


def test_a_hostile_index_at_a_url_is_refused(server, remote, tmp_path):
    tree = json.loads((server.folder / "index.json").read_text())
    tree["shards"][0]["name"] = "../../evil.tar"
    (server.folder / "index.json").write_text(json.dumps(tree))
    assert "damaged" in error_of(remote, server.url)
    assert not (tmp_path / "evil.tar").exists()


# --- what is read is verified, and in bounded time ----------------------------------------------------------------------


@pytest.mark.parametrize("place", ["http", "objects"])
def test_content_that_changed_with_equal_length_is_found_by_range(place, server, memory, remote):
    shards = remote(server.url if place == "http" else memory, cache_gib=NONE)
    assert everything(shards) == everything(ShardSet(server.folder))
    entry = shards.entries("train")[0]
    offset, length = entry.members["wav"]
    tar = bytearray((server.folder / TARS[0]).read_bytes())
    tar[offset + length // 2] ^= 1
    (server.folder / TARS[0]).write_bytes(tar)
    fsspec.filesystem("memory").pipe_file(f"/bucket/set/{TARS[0]}", bytes(tar))
    message = error_of(everything, shards)
    assert "in 4 attempts" in message and f"SHA-256 of {entry.key}.wav" in message


def test_an_index_without_digests_serves_whole_shards_only(server, remote):
    """As indexes of before are."""
    index = json.loads((server.folder / "index.json").read_text())
    for shard in index["shards"]:
        for sample in shard["samples"]:
            assert len(sample.pop("digests")) == 32 * len(sample["members"])
    (server.folder / "index.json").write_text(json.dumps(index))
    assert everything(remote(server.url)) == everything(ShardSet(server.folder))
    message = error_of(everything, remote(f"http://localhost:{server.server_address[1]}", cache_gib=NONE))
    assert "no digests" in message and "melfusion shards out=" in message and "data.cache_gib" in message


@pytest.mark.parametrize("digests", ["", "0" * 31, "z" * 64, 7, ["0" * 32] * 2])
def test_digests_that_are_none_are_refused(digests, server):
    index = json.loads((server.folder / "index.json").read_text())
    index["shards"][0]["samples"][0]["digests"] = digests
    (server.folder / "index.json").write_text(json.dumps(index))
    assert "other digests than one for each member" in error_of(ShardSet, server.folder)


@pytest.fixture
def dripping():
    """dripping(head, body) → URL of a server that sends `head` at once and `body` over and over, a byte each 20 ms."""
    ended, threads, sockets = threading.Event(), [], []

    def serve(listener, head, body):
        while not ended.is_set():
            try:
                client = listener.accept()[0]
            except OSError:
                return
            with contextlib.suppress(OSError), client:
                client.recv(10_000)
                client.sendall(head)
                for byte in itertools.cycle(body):
                    client.sendall(bytes([byte]))
                    if ended.wait(0.02):
                        return

    def make(head, body):
        listener = socket.create_server(("127.0.0.1", 0))
        threads.append(threading.Thread(target=serve, args=(listener, head, body), daemon=True))
        threads[-1].start()
        sockets.append(listener)
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield make
    ended.set()
    for listener in sockets:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize(
    "head, body",
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", b" "),
        (b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    ],
)
def test_a_server_that_drips_is_left_in_time(head, body, dripping, remote):
    """In its body, its headers or its chunks: every byte comes in time, and all together never."""
    started = time.monotonic()
    message = error_of(remote, dripping(head, body), retries=1, timeout_s=0.3, min_rate_kib_s=16)
    assert "in 2 attempts" in message and "data.min_rate_kib_s=16" in message
    assert 0.6 <= time.monotonic() - started < 2 * 2 * 0.3 + 1.0  # attempts × 2 × timeout_s, and what a busy machine adds


def test_an_object_store_that_never_answers_is_left_in_time(memory, remote, monkeypatch):
    shards, ended = remote(memory, cache_gib=NONE, retries=1, timeout_s=0.1), threading.Event()
    monkeypatch.setattr(type(fsspec.filesystem("memory")), "cat_file", lambda *args, **kwargs: ended.wait(20))
    started = time.monotonic()
    assert "in 2 attempts" in error_of(everything, shards) and time.monotonic() - started < 5
    ended.set()


# --- passwords ----------------------------------------------------------------------------------------------------------


def test_a_password_of_an_address_is_sent_and_never_shown(server, remote, caplog, tmp_path):
    """Sent as basic authentication to its own host, in no error and no log, however a client words it."""
    url = f"http://me:se%20cret@127.0.0.1:{server.server_address[1]}"
    assert everything(remote(url)) == everything(ShardSet(server.folder))
    assert server.authorized == {f"Basic {base64.b64encode(b'me:se cret').decode()}"}
    server.failures |= dict.fromkeys(["index.json", *TARS], 9)
    messages = [
        error_of(remote, url),
        error_of(remote, "nosuch://me:se%20cret@bucket"),
        error_of(write_shards, [], url),
        error_of(ensure_streamed, f"{url}/none.tar?key=se%20cret"),
    ]
    for words in [*messages, caplog.text]:
        assert "se%20cret" not in words and "se cret" not in words and ("127.0.0.1" in words or "nosuch" in words)


def ensure_streamed(url):
    with open_url(url):
        pass


def test_what_is_shown_of_an_address():
    assert shown("s3://key:secret@bucket/a b, http://u@h/x?sig=1&k=2.") == "s3://bucket/a b, http://h/x?…"
    assert shown("no port: 'pass@host'", "http://user:pass@host/") == "no port: '…@host'"
    assert shown("a@b.c is no address") == "a@b.c is no address"
    assert str(DataError("https://u:p@h/x is gone")) == "https://h/x is gone"
