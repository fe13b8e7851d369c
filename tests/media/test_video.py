"""Films: where shots change, what is refused, and a film with another sound."""

import resource

import av
import numpy as np
import pytest
from data_fixtures import write_film

from melfusion.errors import ConfigError, explain
from melfusion.media import tagged, video


def changes(n, cuts, noise=0.02):
    found = np.abs(np.random.default_rng(0).normal(0, noise, n))
    found[list(cuts)] = 0.8
    return np.arange(n) / 10, found, n / 10


def test_a_cut_is_a_leap_of_the_histogram():
    at, values, end = changes(100, [30, 60])
    assert video.cuts(at, values, 1.0, end) == [3.0, 6.0]


def test_flicker_is_no_cut_and_no_shot_is_shorter_than_the_shortest():
    at, values, end = changes(100, range(100))
    assert video.cuts(at, values, 1.0, end) == []  # every frame differs as much as its neighbours
    at, values, end = changes(100, [30, 33, 97])
    values[33] = 0.9
    assert video.cuts(at, values, 1.0, end) == [3.3]  # the clearer of two; none within a second of the end
    at, values, end = changes(100, [30], noise=0.0)
    values[30] = video.LEAST / 2
    assert video.cuts(at, values, 1.0, end) == []


def test_without_the_package_one_sentence_says_what_to_do(monkeypatch, tmp_path):
    import sys

    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ConfigError, match=r"need the package av: run `pip install 'melfusion\[video\]'`"):
        video.check_film(tmp_path / "a.mp4")


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """An MP4 of 3 s at 10 frames per second: red with a moving square, blue, green, a second each."""
    frames = np.zeros((30, 48, 64, 3), np.uint8)
    for i in range(30):
        frames[i, ..., (0, 2, 1)[i // 10]] = 200
        frames[i, 10:14, 2 * (i % 10) : 2 * (i % 10) + 4] = 255
    return write_film(tmp_path_factory.mktemp("film") / "film.mp4", frames)


def test_a_film_has_its_shots_with_a_picture_of_each(film):
    found = video.shots(film, 0.5, 100)
    assert [shot.start_s for shot in found] == pytest.approx([0, 1, 2], abs=1e-6) and found[-1].end_s == pytest.approx(3)
    assert [int(np.asarray(shot.picture).mean((0, 1)).argmax()) for shot in found] == [0, 2, 1]
    assert [shot.start_s for shot in video.shots(film, 1.6, 100)] == [0]


def test_a_film_gets_another_sound_and_keeps_its_pictures(film, tmp_path):
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(48000) / 16000).astype(np.float32)
    video.write_film(film, tmp_path / "out.mp4", tone, 16000)
    with av.open(str(tmp_path / "out.mp4")) as made, av.open(str(film)) as before:
        sound = np.concatenate([f.to_ndarray() for f in made.decode(audio=0)], 1)
        assert abs(sound.shape[1] - 48000) < 3000
        spectrum = np.abs(np.fft.rfft(sound[0, 8000:24000]))
        assert abs(int(spectrum.argmax()) - 440) < 3
        made.seek(0)
        ours, theirs = ([f.to_ndarray(format="rgb24") for f in film.decode(video=0)] for film in (made, before))
        assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
    with pytest.raises(RuntimeError):
        video.write_film(film, tmp_path / "other.mp4", Broken(), 16000)
    assert [f.name for f in tmp_path.iterdir()] == ["out.mp4"]


class Broken:
    ndim = 1

    def __array__(self, *args, **kwargs):
        raise RuntimeError("no sound")


def test_what_is_no_film_is_said_in_one_sentence(film, tmp_path):
    with pytest.raises(ConfigError, match="there is no such file"):
        video.check_film(tmp_path / "a.mp4")
    (tmp_path / "b.mp4").write_bytes(b"no film")
    with pytest.raises(ConfigError, match="cannot be read"):
        video.check_film(tmp_path / "b.mp4")
    with av.open(str(tmp_path / "c.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(ConfigError, match="holds no pictures"):
        video.check_film(tmp_path / "c.mp4")
    with pytest.raises(ConfigError, match="longer than 2 s"):
        video.shots(film, 0.5, 2.0)
    with av.open(str(tmp_path / "d.mkv"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    with pytest.raises(ConfigError, match="d.mkv (cannot be read|has no frame)"):
        video.check_film(tmp_path / "d.mkv")


def test_a_list_of_files_and_a_frame_of_too_many_pixels_are_refused(film, tmp_path, monkeypatch):
    (tmp_path / "a.mp4").write_bytes(film.read_bytes())
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile a.mp4\n")  # FFmpeg would show the other film
    with pytest.raises(ConfigError, match=r"list\.mp4 cannot be read"):
        video.check_film(tmp_path / "list.mp4")
    monkeypatch.setattr(video, "MOST_PIXELS", 1000)
    with pytest.raises(ConfigError, match=r"a\.mp4 cannot be read"):
        video.check_film(tmp_path / "a.mp4")


def test_a_film_is_as_long_as_its_last_frame_is_shown(tmp_path):
    film = write_film(tmp_path / "two.mp4", np.zeros((2, 48, 64, 3), np.uint8))  # of 0.1 s each
    assert video.shots(film, 0.5, 0.2)[-1].end_s == pytest.approx(0.2)
    with pytest.raises(ConfigError, match="longer than 0.15 s"):
        video.shots(film, 0.5, 0.15)


@pytest.mark.parametrize(("codec", "end"), [("mpeg4", ".mp4"), ("libvpx", ".mkv")])
def test_a_container_is_one_that_takes_the_pictures(tmp_path, codec, end):
    with av.open(str(tmp_path / "film.mkv"), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.mux(stream.encode(av.VideoFrame(64, 48, "yuv420p")))
        container.mux(stream.encode(None))
    assert video.container_for(tmp_path / "film.mkv") == end
    video.write_film(tmp_path / "film.mkv", tmp_path / f"out{end}", np.zeros(1600, np.float32), 16000)


def test_a_full_disk_is_said_of_the_new_film_and_leaves_none(film, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    sound = 0.1 * np.random.default_rng(0).standard_normal(48000).astype(np.float32)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))
    try:
        with pytest.raises(OSError, match=r"too large.*new\.mp4") as error:
            video.write_film(film, tmp_path / "new.mp4", sound, 16000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "the disk of" in explain(error.value)[0] and not list(tmp_path.iterdir())


def test_what_a_container_refuses_names_the_new_film(film, tmp_path, monkeypatch):
    refused = av.error.InvalidDataError(1, "codec not currently supported in container")
    monkeypatch.setattr(video, "_mux_sound", lambda *_: (_ for _ in ()).throw(refused))
    with pytest.raises(ConfigError, match=r"out=.*new\.mp4: such a file does not take this film's pictures"):
        video.write_film(film, tmp_path / "new.mp4", np.zeros(16000, np.float32), 16000)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("end", video.CONTAINERS)
def test_a_film_carries_a_text_and_the_same_call_makes_the_same_bytes(film, tmp_path, end):
    text, sound = '{"melfusion": "äöü ' + 3000 * "x" + '"}', np.zeros(16000, np.float32)
    for name in ("a", "b"):
        video.write_film(film, tmp_path / f"{name}{end}", sound, 16000, text)
    assert (tmp_path / f"a{end}").read_bytes() == (tmp_path / f"b{end}").read_bytes()
    assert tagged.comment(tmp_path / f"a{end}") == text and tagged.comment(film) == ""
