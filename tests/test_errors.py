"""What the system and its libraries raise is one sentence and an exit code; a bug keeps its traceback."""

import errno
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import soundfile
from PIL import Image, UnidentifiedImageError
from safetensors.torch import save_file

import melfusion
from melfusion import __main__ as cli
from melfusion.errors import DamagedFile, explain
from melfusion.files import read_json, require_writable, whole_path, write_json, write_whole


def raised(call):
    try:
        call()
    except BaseException as error:
        return error
    raise AssertionError("it raised nothing")


def system(number, name="/data/x"):
    return OSError(number, os.strerror(number), name)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (system(errno.ENOSPC), "the disk of /data/x is full (No space left on device): free some space"),
        (system(errno.EDQUOT), "the disk of /data/x is full"),
        (system(errno.EFBIG), "the disk of /data/x is full"),
        (system(errno.EROFS), "/data/x cannot be used (Read-only file system): give a folder on a disk that may be written"),
        (system(errno.EACCES), "/data/x cannot be used (Permission denied): give yourself the right"),
        (system(errno.ENOENT), "/data/x: there is no such file or folder; check the path"),
        (system(errno.ENOTDIR), "a part of this path is a file"),
        (system(errno.EISDIR, b"/data/x"), "it is a folder where a file"),
        (system(errno.EMFILE), "ulimit -n"),
        (system(errno.EIO), "the disk or the network drive fails"),
        (system(errno.ENOENT, "http://me:secret@host/x"), "http://host/x: there is no"),
        (OSError(errno.ENOSPC, "No space left on device"), "a disk is full (No space left on device; "),
        (raised(lambda: soundfile.read("nowhere.wav")), "a sound file cannot be read or written (Error opening"),
        (raised(lambda: soundfile.SoundFile(__file__)), "a sound file cannot be read or written"),
        (raised(lambda: Image.open(__file__)), "a picture cannot be read or written (cannot identify image file"),
        (raised(lambda: save_file({}, "/nowhere/at/all")), "a safetensors file cannot be read or written (Error while serializing"),
        (
            MemoryError("Unable to allocate 3 TiB"),
            "the memory of this machine is used up (Unable to allocate 3 TiB): use a smaller",
        ),
        (DamagedFile("x is cut"), "x is cut"),
    ],
)
def test_what_a_user_can_mend_is_one_line_and_code_2(error, words, monkeypatch, capsys):
    monkeypatch.setattr("melfusion.verbs.train.run", lambda options, more: (_ for _ in ()).throw(error))
    assert cli.main(["train"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("melfusion train: ") and words in said and said.count("\n") == 1 and "secret" not in said


@pytest.mark.parametrize("error", [OSError("a bug"), UnicodeError("a bug"), SystemExit(3), BrokenPipeError("a bug"), KeyError(1)])
def test_a_bug_keeps_its_traceback(error, monkeypatch):
    monkeypatch.setattr("melfusion.verbs.train.run", lambda options, more: (_ for _ in ()).throw(error))
    with pytest.raises(type(error)):
        cli.main(["train"])
    assert explain(error) is None


def test_a_traceback_can_be_asked_for(monkeypatch):
    monkeypatch.setattr("melfusion.verbs.train.run", lambda options, more: Path("/nowhere").read_text())
    assert cli.main(["train"]) == 2
    monkeypatch.setenv("MELFUSION_TRACEBACK", "1")
    with pytest.raises(FileNotFoundError):
        cli.main(["train"])


def test_an_interrupt_is_a_sentence_and_130_also_where_lightning_makes_another_end_of_it(monkeypatch, capsys):
    def lightning(options, more):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)

    for verb in (lightning, lambda options, more: (_ for _ in ()).throw(KeyboardInterrupt())):
        monkeypatch.setattr("melfusion.verbs.train.run", verb)
        assert cli.main(["train"]) == 130
        assert capsys.readouterr().err == "melfusion train: interrupted; the same command goes on from what was saved.\n"


SPEAK = """
from melfusion import __main__ as m
from melfusion.verbs import train
train.run = lambda *_: print("x" * {})
raise SystemExit(m.main(["train"]))
"""


@pytest.mark.parametrize("length", [10, 100_000])  # at the last flush, and while it speaks
def test_output_that_nobody_takes_ends_the_command_without_a_traceback(length):
    def speak(to):
        done = subprocess.run([sys.executable, "-c", SPEAK.format(length)], stdout=to, stderr=subprocess.PIPE, text=True)
        return done.returncode, done.stderr

    reader, writer = os.pipe()
    os.close(reader)
    assert speak(writer) == (141, "")
    os.close(writer)
    with Path("/dev/full").open("w") as full:
        code, said = speak(full)
    assert code == 2 and said.count("\n") == 1 and "is full (No space left on device" in said


def test_a_thread_that_the_system_refuses_says_nothing_and_another_is_shown(monkeypatch, capsys):
    for error, shown in ((system(errno.ENOSPC), False), (ValueError("a bug"), True)):

        def verb(options, more, error=error):
            thread = threading.Thread(target=lambda: (_ for _ in ()).throw(error))
            thread.start()
            thread.join()

        monkeypatch.setattr("melfusion.verbs.train.run", verb)
        before = threading.excepthook
        assert cli.main(["train"]) == 0 and threading.excepthook is before
        assert ("a bug" in capsys.readouterr().err) == shown


# --- files: whole or not at all -------------------------------------------------------------------------------------


class Full:
    """A file on a disk that takes so many bytes."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, data):
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(data)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)


@pytest.fixture
def disk(monkeypatch):
    """disk(room): from now on a file that is opened for writing takes so many bytes."""
    real = Path.open

    def fill(room):
        monkeypatch.setattr(
            Path,
            "open",
            lambda self, mode="r", *args, **kwargs: (
                Full(real(self, mode, *args, **kwargs), room) if "w" in mode else real(self, mode, *args, **kwargs)
            ),
        )

    return fill


@pytest.mark.parametrize("content", [b"new" * 100, "néw" * 100, lambda file: [file.write(b"new") for _ in range(100)]])
def test_a_file_is_whole_or_what_it_was(content, tmp_path, disk):
    file = tmp_path / "f"
    write_whole(file, content)
    whole = file.read_bytes()
    assert whole in (b"new" * 100, "néw".encode() * 100) and [p.name for p in tmp_path.iterdir()] == ["f"]
    file.write_text("old")
    disk(150)
    error = raised(lambda: write_whole(file, content, lasting=True))
    assert (error.errno, error.filename, error.filename2) == (errno.ENOSPC, str(file), None)
    assert file.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["f"]
    assert raised(lambda: write_whole(tmp_path / "none" / "f", b"")).filename == str(tmp_path / "none" / "f")
    with pytest.raises(KeyboardInterrupt):
        write_whole(file, lambda file: (_ for _ in ()).throw(KeyboardInterrupt()))
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_folder_is_whole_or_not_there(tmp_path):
    def make(*texts):
        with whole_path(tmp_path / "d") as part:
            part.mkdir()
            for name, text in zip("ab", texts, strict=True):
                (part / name).write_text(text)

    with pytest.raises(TypeError):
        make("1", None)
    assert list(tmp_path.iterdir()) == []
    make("1", "2")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a", "b", "d"]


def test_no_other_file_renames_what_it_wrote():
    """Tars are renamed by a protocol of several processes (data/writing.py), unpacked packages folder by folder."""
    root = Path(melfusion.__file__).parent
    moving = re.compile(r"\w\.rename\(|\bpart\.replace\(|os\.(replace|rename)\(|shutil\.move\(")
    found = {str(file.relative_to(root)) for file in root.rglob("*.py") if moving.search(file.read_text())}
    assert found == {"files.py", "data/writing.py", "data/games/packages.py"}


def test_a_part_is_whole_or_what_it_was(tiny, tmp_path, disk):
    import torch

    from melfusion.models.published import PART_FILE, write_part

    network, audio = torch.nn.Linear(2, 2), tiny().audio
    write_part(network, tmp_path / "part", audio, {"width": 1})
    before = (tmp_path / "part" / PART_FILE).read_bytes()
    disk(10)
    with pytest.raises(OSError):
        write_part(network, tmp_path / "part", audio, {"width": 2})
    assert (tmp_path / "part" / PART_FILE).read_bytes() == before
    assert sorted(p.name for p in (tmp_path / "part").iterdir()) == ["model.safetensors", PART_FILE]


def test_sounds_and_pictures_are_whole_or_not_there(tiny, tmp_path, disk):
    import torch

    from melfusion.media.figures import save, spectrogram_figure
    from melfusion.media.sound import write_wav

    figure = spectrogram_figure({"mel": torch.zeros(16, 16)}, tiny().audio)
    disk(3000)
    for call in (lambda: write_wav(tmp_path / "a.wav", torch.zeros(8000), 8000), lambda: save(figure, tmp_path / "a.png")):
        assert raised(call).errno == errno.ENOSPC and not list(tmp_path.iterdir())


def test_json_that_is_none_is_named_with_what_to_do_and_a_pipe_is_not_waited_for(tmp_path):
    file = tmp_path / "f.json"
    write_json(file, {"a": [1]})
    assert read_json(file, "mend it") == {"a": [1]}
    for data, words in (
        (b"", "(it is empty)"),
        (b"{", "cannot be read as JSON"),
        (b"[]", "holds a list"),
        (b"\xff{}", "JSON"),
        (b"\0" * 9, "JSON"),
        (b"[" * 100_000, "JSON"),
        (b"3", "holds a int"),
    ):
        file.write_bytes(data)
        with pytest.raises(DamagedFile) as caught:
            read_json(file, "mend it")
        assert str(caught.value).startswith(str(file)) and words in str(caught.value) and str(caught.value).endswith(": mend it.")
    file.unlink()
    os.mkfifo(file)
    for path in (file, tmp_path):
        with pytest.raises(DamagedFile, match="is no regular file: mend it"):
            read_json(path, "mend it")
    with pytest.raises(DamagedFile, match=r"has 2 MiB, more than 1"):
        (tmp_path / "large").write_bytes(b" " * (2 << 20))
        read_json(tmp_path / "large", "mend it", 1 << 20)


def test_a_folder_that_cannot_be_written_is_known_before(tmp_path):
    require_writable(tmp_path / "new" / "folder")
    assert not list((tmp_path / "new" / "folder").iterdir())
    (tmp_path / "file").touch()
    assert raised(lambda: require_writable(tmp_path / "file")).errno == errno.ENOTDIR
    assert raised(lambda: require_writable(tmp_path / "file" / "x")).errno == errno.ENOTDIR
    assert raised(lambda: require_writable(Path("/proc/self/x"))).filename.startswith("/proc/self/x")


def test_pillow_and_soundfile_are_known_by_their_own_classes():
    assert explain(UnidentifiedImageError("x"))[1] == 2 and explain(soundfile.LibsndfileError(1))[1] == 2


def test_what_a_user_can_reach_is_of_the_base_class():
    """These files catch the plain errors that they raise; a full disk is one of the system's, and has a sentence as such."""
    caught = {"evaluation/picture_test/systems.py", "models/published.py", "data/storage.py", "data/json_parts.py"}
    caught |= {"media/video.py", "bench/timing.py"}  # a disk that is full; a figure of the bench without a known unit
    root = Path(melfusion.__file__).parent
    plain = re.compile(r"raise (ValueError|RuntimeError|TypeError|KeyError|OSError|Exception)\b")
    found = {str(file.relative_to(root)) for file in root.rglob("*.py") if plain.search(file.read_text())}
    assert {name for name in found if not name.startswith("data/games/")} == caught
