"""A set of shards is replaced whole or not at all, by one builder at a time, whatever dies when, whoever owns what."""

import contextlib
import io
import json
import multiprocessing
import os
import resource
import shutil
import tempfile
from pathlib import Path

import building as build_module
import pytest
from data_fixtures import data_set, make_sample, one_sentence

from melfusion.data import replacing
from melfusion.data.datamodule import MusicDataModule
from melfusion.data.manifest.build import build_from_manifest
from melfusion.data.shards import ShardSet
from melfusion.data.sources import build_corpus, ensure_corpus
from melfusion.data.writing import write_shards
from melfusion.errors import DataError
from melfusion.files import locked
from melfusion.training import precompute


class Death(BaseException):
    """Nothing handles it, as nothing handles kill -9."""


@contextlib.contextmanager
def dying(at):
    """Each operation on files counts; the one of number `at` does not happen, nor does any later one. Yields the count."""
    done = [0]

    def deadly(call, concerns=lambda *args: True):
        def made(*args, **kwargs):
            if concerns(*args):
                if done[0] == at:
                    raise Death
                done[0] += 1
            return call(*args, **kwargs)

        return made

    with pytest.MonkeyPatch.context() as patch:
        for name in ("replace", "unlink", "mkdir", "rmdir"):
            patch.setattr(os, name, deadly(getattr(os, name)))
        writes = deadly(io.open, lambda file, mode="r", *rest: "w" in mode and not isinstance(file, int))
        patch.setattr(io, "open", writes)
        with contextlib.suppress(Death):
            yield done


def keys(folder):
    shards = ShardSet(folder)
    return {e.key: shards.read(e, "json") for split in ("train", "val") for e in shards.entries(split)}


OLD, NEW = (
    [make_sample(key, split) for key, split in zip(names, ("train", "train", "train", "val"), strict=False)]
    for names in ("abcd", "edfg")
)


def build(folder, samples):
    return data_set(folder, samples, per_shard=1 if samples is OLD else 2)


def sound_after(folder, old, new):
    """What a set may be found as after a death: the old one, the new one, or not there."""
    if (folder / "index.json").is_file():
        assert keys(folder) in (old, new)


@pytest.fixture
def sets(tmp_path):
    """(folder with the old set, what old and new hold)."""
    build(tmp_path / "new", NEW)
    return build(tmp_path / "old", OLD), keys(tmp_path / "old"), keys(tmp_path / "new")


def steps(folder, samples):
    with dying(-1) as count:
        build(folder, samples)
    return count[0]


def test_a_build_survives_two_deaths_at_any_two_steps(sets, tmp_path):
    """The second death comes while the build is done again, and also while a reader settles what was half moved."""
    folder, old, new = sets
    shutil.copytree(folder, tmp_path / "count")
    halves = 0
    for first in range(steps(tmp_path / "count", NEW)):
        shutil.rmtree(tmp_path / "first", ignore_errors=True)
        shutil.copytree(folder, tmp_path / "first")
        with dying(first):
            build(tmp_path / "first", NEW)
        sound_after(tmp_path / "first", old, new)
        half = replacing.halfway(tmp_path / "first")
        halves += half
        shutil.copytree(tmp_path / "first", tmp_path / "once", dirs_exist_ok=True)
        # without a half-done move the build starts anew, as after any first death
        for second in range(steps(tmp_path / "once", NEW) if half else 0):
            shutil.rmtree(tmp_path / "second", ignore_errors=True)
            shutil.copytree(tmp_path / "first", tmp_path / "second")
            with dying(second):
                build(tmp_path / "second", NEW)
            sound_after(tmp_path / "second", old, new)
            build(tmp_path / "second", NEW)
            assert keys(tmp_path / "second") == new
        shutil.rmtree(tmp_path / "once")
        build(tmp_path / "first", NEW)
        assert keys(tmp_path / "first") == new
        assert sorted(p.name for p in (tmp_path / "first").iterdir()) == sorted(p.name for p in (tmp_path / "new").iterdir())
    assert halves >= 5


def half_moved(folder, samples=NEW):
    """A folder whose builder died when the first of its new shards had moved up."""
    inner, moved = os.replace, []

    def killed(source, target):
        if Path(target).parent == folder and Path(target).suffix == ".tar":
            if moved:
                raise Death
            moved.append(target)
        return inner(source, target)

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Death):
        patch.setattr(os, "replace", killed)
        build(folder, samples)
    assert moved and replacing.halfway(folder)
    return folder


def test_a_half_moved_set_is_finished_before_anyone_decides(sets, tiny):
    """By training, which then looks whether it is what it wants; and by the command that indexes shards again."""
    folder, old, new = sets
    half_moved(folder)
    ensure_corpus(tiny(f"data.path={folder}", "data.source=manifest"))
    assert keys(folder) == new and not (folder / ".building").exists()
    build(folder, OLD)
    half_moved(folder)
    build_from_manifest(out=str(folder))
    assert keys(folder) == new
    index = json.loads((folder / "index.json").read_text()) | {"info": {"source": "games"}}
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match="is a data set of games.*data.source=games"):
        ensure_corpus(tiny(f"data.path={folder}"))
    with pytest.raises(DataError, match="holds another data set than scenes"):
        build_corpus("scenes", tiny(f"data.path={folder}"))


def test_evidence_that_is_damaged_is_not_moved(sets):
    folder, _, _ = sets
    half_moved(folder)
    tar = next((folder / ".building").glob("*.tar"))
    tar.write_bytes(tar.read_bytes()[:-512])
    before = {p.name for p in folder.rglob("*")}
    with pytest.raises(DataError, match="cannot be completed") as caught:
        build(folder, NEW)
    assert one_sentence(caught.value) and before == {p.name for p in folder.rglob("*")}


def test_a_full_disk_is_a_sentence_and_the_old_set_stays(sets, tmp_path):
    folder, old, new = sets
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    large = [make_sample("h", audio=bytes(200_000)), make_sample("i", "val")]
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # writing beyond it is an OSError, as on a full disk
    try:
        for where, stays in ((folder, "the set that lies there stays as it was"), (tmp_path / "fresh", "no set is there")):
            with pytest.raises(DataError, match=f"shards cannot be written .*{stays}.*data.path=…") as caught:
                write_shards(large, where, named_by="data.path")
            assert one_sentence(caught.value) and not (where / ".building").exists()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert keys(folder) == old
    write_shards(large, folder)
    assert keys(folder).keys() == {"h", "i"}


def test_what_a_source_cannot_read_is_not_told_as_a_disk_that_cannot_be_written(sets):
    def samples():
        yield make_sample("h")
        raise FileNotFoundError(2, "No such file or directory", "song.flac")

    folder, old, _ = sets
    with pytest.raises(FileNotFoundError):
        write_shards(samples(), folder)
    assert keys(folder) == old


def slow_build(folder, number, ready, log):
    def samples():
        log.put(number)
        ready.wait(10)
        yield make_sample(f"k{number}")
        yield make_sample("v", "val")

    write_shards(samples(), folder, unless=(folder / "index.json").is_file)


def test_of_two_builders_one_builds_and_the_other_finds_it(tmp_path):
    context = multiprocessing.get_context("fork")
    ready, log = context.Event(), context.Queue()
    builders = [context.Process(target=slow_build, args=(tmp_path / "set", number, ready, log)) for number in range(2)]
    for builder in builders:
        builder.start()
    first = log.get(timeout=10)
    ready.set()
    for builder in builders:
        builder.join(20)
    assert [b.exitcode for b in builders] == [0, 0] and log.empty()
    assert keys(tmp_path / "set").keys() == {f"k{first}", "v"} and not (tmp_path / "set" / ".lock").exists()


def test_who_waited_for_a_lock_that_was_removed_takes_the_next(tmp_path):
    path = tmp_path / ".lock"
    inner, others = os.open, []

    def overtaken(file, *args):
        handle = inner(file, *args)
        if Path(file) == path and not others:  # its holder removes it before this one has it
            others.append(path.unlink())
        return handle

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", overtaken)
        with locked(path):
            assert path.is_file()


def test_what_is_precomputed_already_is_not_computed_again(tiny, tmp_path, monkeypatch):
    """Two `melfusion precompute` at once, or one after another; a folder that cannot be made is a sentence."""
    folder = data_set(tmp_path / "set", [make_sample(f"{split}{i}", split) for split in ("train", "val") for i in range(2)])
    config = tiny(f"data.path={folder}", "data.source=manifest")
    system = build_module.system(config).eval()
    path = precompute.precompute(config, system)
    assert keys(path).keys() == {"train0", "train1", "val0", "val1"}
    half_moved_back(path)
    monkeypatch.setattr(precompute, "computed_samples", None)
    assert precompute.precompute(config, system) == path == precompute.ensure_precomputed(config, system)[0]
    assert keys(path).keys() == {"train0", "train1", "val0", "val1"}
    (tmp_path / "file").touch()
    config.data.precompute.path = f"{tmp_path}/file/stored"
    with pytest.raises(DataError, match="cannot be written .*data.precompute.path=…") as caught:
        precompute.ensure_precomputed(config, system)
    assert one_sentence(caught.value)


def half_moved_back(folder):
    """As if the builder had died before the index moved."""
    (folder / ".building").mkdir()
    (folder / "index.json").replace(folder / ".building" / "index.json")


# --- another user's data ----------------------------------------------------------------------------------------------

NOBODY = 65534


def as_another_user(call, *args):
    """What `call` returns, or the words of its error, in a child process of another user id."""
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    receive, send = multiprocessing.get_context("fork").Pipe(duplex=False)
    child = os.fork()
    if not child:
        try:
            os.setgid(NOBODY), os.setuid(NOBODY)
            send.send((True, call(*args)))
        except BaseException as error:
            send.send((False, f"{type(error).__name__}: {error}"))
        finally:
            os._exit(0)
    found = receive.recv() if receive.poll(60) else (False, "nothing came")
    os.waitpid(child, 0)
    return found


def let_in(folder):
    """Everybody may enter the folder: pytest keeps its own closed, two levels up, three where processes share the tests."""
    shared = Path(tempfile.gettempdir())
    for closed in (folder, *folder.parents):
        if shared not in closed.parents:
            return
        closed.chmod(0o755)


@pytest.fixture
def others(tmp_path):
    """A data set that root owns in a folder that everybody can reach and nobody else can write to."""
    let_in(tmp_path)
    folder = data_set(
        tmp_path / "set",
        [make_sample(f"{split}{i}", split) for split in ("train", "val") for i in range(3)],
        info={"source": "manifest"},
    )
    (tmp_path / "set.lock").touch(0o600)
    return folder


def test_another_users_data_is_read_and_what_cannot_be_written_is_a_sentence(others, tiny, tmp_path):
    config = tiny(f"data.path={others}", "data.source=manifest", "data.global_batch_size=2")

    def read():
        ensure_corpus(config)
        return next(iter(MusicDataModule(config.data, config.audio).train_dataloader())).keys

    fine, batch = as_another_user(read)
    assert fine and len(batch) == 2, batch
    scenes = tiny(f"data.path={tmp_path / 'none'}", "data.draw=true")
    fine, words = as_another_user(ensure_corpus, scenes)
    assert not fine and words.startswith("DataError") and "cannot be written (Permission denied" in words and "data.path=…" in words


def test_another_users_lock_is_taken(tmp_path):
    let_in(tmp_path)
    (tmp_path / ".lock").touch(0o644)

    def take():
        with locked(tmp_path / ".lock"):
            return True

    assert as_another_user(take) == (True, True)
