"""Listening pages: nothing escapes or leaks, the blind study is blind, and what listeners said is added up by hand."""

import hashlib
import json
import re
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pytest
import soundfile
from PIL import Image

from melfusion.__main__ import main
from melfusion.errors import ConfigError
from melfusion.evaluation.html import WEB
from melfusion.evaluation.study import KEY, SCALES, StudyClip, report, summarise, write_blind, write_page

HOSTILE = "<script>alert('x')</script> \"quoted\" & $5 ${name} $title {{ 7 * 7 }} {% raw %} {# x #} `b` <img src=x onerror=y>"
ROWS = ("zither system", "kazoo system")
KEYS = ("quagga-1", "okapi #2?", "a:dugong")


class Page(HTMLParser):
    """Tags with their attributes, and the text outside scripts and styles."""

    def __init__(self, file):
        super().__init__()
        self.tags, self.text, self.within = [], "", ""
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.within = tag

    def handle_data(self, data):
        if self.within not in ("script", "style"):
            self.text += data

    def every(self, tag, name):
        return [attrs.get(name) for t, attrs in self.tags if t == tag]


@pytest.fixture
def clips(tmp_path):
    """Two systems, three items, the last one without a picture; wavs and pictures below `out`."""
    made = []
    for k, key in enumerate(KEYS):
        picture = tmp_path / "pictures" / f"{key}.png"
        picture.parent.mkdir(exist_ok=True)
        if k < 2:
            Image.new("RGB", (8, 6), (40 * k, 90, 90)).save(picture)
        for r, row in enumerate(ROWS):
            wav = tmp_path / row.replace(" ", "-") / f"{key}.wav"
            wav.parent.mkdir(exist_ok=True)
            soundfile.write(wav, 0.1 * np.sin(np.arange(800) * (0.1 + 0.05 * k + 0.01 * r)), 8000)
            caption = HOSTILE if k == 0 else f"tune {k}"
            made.append(StudyClip(key, caption, row, wav, picture if k < 2 else None, {"mood": HOSTILE} if k == 0 else {}))
    return made


def ids(out, row=None):
    """Random names of all clips of one system, by item."""
    named = json.loads((out / KEY).read_text())["clips"]
    return sorted((name for name, clip in named.items() if clip["row"] == row), key=lambda name: named[name]["key"])


def study(out):
    return hashlib.sha256((out / KEY).read_bytes()).hexdigest()


def answer(out, listener, scores, file=None, changes=None):
    """Write answers-LISTENER.json of {id: (ovl, rel)}, as the page saves it."""
    sheet = {
        "version": 1,
        "study": study(out),
        "listener": listener,
        "answers": [{"id": i, "ovl": ovl, "rel": rel} for i, (ovl, rel) in scores.items()],
    }
    path = out / (file or f"answers-{listener}.json")
    path.write_text(json.dumps(sheet | (changes or {})))
    return path


def refused(call, *args):
    """The one sentence of a ConfigError."""
    with pytest.raises(ConfigError) as caught:
        call(*args)
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message
    return message


# --- both pages -----------------------------------------------------------------------------------------------------


def test_hostile_text_is_shown_and_never_run(clips, tmp_path):
    for clip in clips[:2]:
        clip.row = f"{clip.row} {HOSTILE}"
    page = Page(write_page(clips, tmp_path, HOSTILE, HOSTILE))
    assert page.text.count(HOSTILE) >= 6  # title, heading, note, caption, labels, head of a column
    assert "script" not in {tag for tag, _ in page.tags} and not any("onerror" in attrs for _, attrs in page.tags)
    assert any(HOSTILE in (attrs.get("aria-label") or "") for tag, attrs in page.tags if tag == "audio")
    blind = Page(write_blind(clips, tmp_path, 0))
    assert blind.text.count(HOSTILE) == 2 and [tag for tag, _ in blind.tags].count("script") == 1


def test_the_pages_load_nothing_from_elsewhere(clips, tmp_path):
    for file in (write_page(clips, tmp_path, "t", "n"), write_blind(clips, tmp_path, 0)):
        text = file.read_text()
        assert not re.search(r"https?:|//[a-z]+\.[a-z]|@import|url\(|<link|fetch\(|XMLHttp", text)
        assert all(not src.startswith(("/", ".")) for src in Page(file).every("audio", "src") + Page(file).every("img", "src"))


@pytest.mark.parametrize("make", [lambda c, out: write_page(c, out, "t", "n"), lambda c, out: write_blind(c, out, 0)])
def test_every_link_leads_to_its_file_and_everything_has_words(make, clips, tmp_path):
    page = Page(make(clips, tmp_path))
    links = page.every("audio", "src") + page.every("img", "src")
    assert len(links) >= 8 and all((tmp_path / unquote(link)).is_file() and "#" not in link and ":" not in link for link in links)
    assert all(page.every("img", "alt")) and all(page.every("audio", "aria-label"))
    assert set(page.every("audio", "preload")) == {"none"} and page.every("html", "lang") == ["en"]
    assert "viewport" in page.every("meta", "name")
    labelled = " ".join(filter(None, page.every("input", "aria-labelledby"))).split()
    assert set(labelled) <= {attrs.get("id") for _, attrs in page.tags}


def test_the_table_has_a_line_for_each_item_and_a_cell_for_each_system(clips, tmp_path):
    page = Page(write_page(clips[:-1], tmp_path, "t", "n"))
    assert page.every("tr", "role") == ["row"] * 4 and page.every("th", "scope") == ["col"] * 3 + ["row"] * 3
    assert len(page.every("td", "role")) == 6 and len(page.every("audio", "src")) == 5 and "–" in page.text
    assert page.text.index("zither") < page.text.index("kazoo") and all(key in page.text for key in KEYS)


def test_a_spectrogram_is_shown_where_it_lies_beside_the_wav_and_is_not_the_picture(clips, tmp_path):
    def alts():
        return [alt for alt in Page(write_page(clips, tmp_path, "t", "n")).every("img", "alt") if "spectrogram" in alt]

    assert alts() == []
    Image.new("RGB", (4, 4)).save(clips[1].wav.with_suffix(".png"))
    assert alts() == [f"spectrogram of {ROWS[1]}, {KEYS[0]}"]
    clips[0].picture, clips[1].picture = clips[1].wav.with_suffix(".png"), None  # the item's picture lies beside this wav
    assert alts() == []


def test_files_may_lie_outside_of_the_folder_of_the_page(clips, tmp_path):
    file = write_page(clips, tmp_path / "deep" / "er", "t", "n")
    assert all((file.parent / unquote(src)).is_file() for src in Page(file).every("audio", "src"))


def test_what_cannot_be_shown_is_one_sentence(clips, tmp_path):
    assert "no clip" in refused(write_page, [], tmp_path, "t", "n")
    assert "several clips" in refused(write_blind, [*clips, clips[0]], tmp_path, 0)
    other = tmp_path / "other.png"
    Image.new("RGB", (4, 4)).save(other)
    clips[1].picture = other
    message = refused(write_page, clips, tmp_path, "t", "n")
    assert "two pictures" in message and "other.png" in message and KEYS[0] in message
    clips[1].picture = None
    clips[2].wav.rename(flac := clips[2].wav.with_suffix(".flac"))
    assert str(clips[2].wav) in refused(write_page, clips, tmp_path, "t", "n")
    clips[2].wav = flac
    assert "file types" in refused(write_blind, clips, tmp_path, 0)


# --- the blind page -------------------------------------------------------------------------------------------------


def test_neither_page_nor_file_names_tell_system_or_item(clips, tmp_path):
    out = tmp_path / "out"
    text = write_blind(clips, out, 0).read_text() + " ".join(str(f.relative_to(out)) for f in (out / "listening").rglob("*"))
    for secret in (*ROWS, *KEYS, "zither", "kazoo", "quagga", "okapi", "dugong", KEY):
        assert secret not in text, secret
    assert sorted(f.name for f in out.iterdir()) == ["listening", KEY, "listening.html"]


def test_every_clip_appears_once_with_the_picture_of_its_item(clips, tmp_path):
    clips[1].picture, clips[1].caption = None, ""  # a system that was shown nothing is judged against the item too
    page, named = Page(write_blind(clips, tmp_path, 0)), json.loads((tmp_path / KEY).read_text())["clips"]
    cards = page.every("article", "data-id")
    assert sorted(cards) == sorted(named) and len(set(cards)) == 6
    assert [(i, name) for i in cards for name in SCALES] == list(
        zip([v for v in page.every("input", "data-id") if v], [v for v in page.every("input", "name") if v], strict=True)
    )
    assert sorted((c["key"], c["row"]) for c in named.values()) == sorted((c.key, c.row) for c in clips)
    for name, told in named.items():
        clip = next(c for c in clips if (c.key, c.row) == (told["key"], told["row"]))
        sound = (tmp_path / "listening" / f"{name}.wav").read_bytes()
        assert sound == clip.wav.read_bytes() and hashlib.sha256(sound).hexdigest() == told["sha256"]
        picture = tmp_path / "listening" / f"{name}-picture.png"
        if told["key"] == KEYS[2]:
            assert not picture.exists()
        else:
            assert picture.read_bytes() == clips[2 * KEYS.index(told["key"])].picture.read_bytes()
    assert page.text.count(HOSTILE) == 2


def test_the_order_is_random_and_hangs_on_the_seed_alone(clips, tmp_path):
    def told(seed, given):
        out = tmp_path / f"out{seed}-{given is clips}"
        cards = Page(write_blind(given, out, seed)).every("article", "data-id")
        named = json.loads((out / KEY).read_text())["clips"]
        return cards, [(named[i]["key"], named[i]["row"]) for i in cards]

    first = told(0, clips)
    assert told(0, clips) == first and told(0, clips[::-1]) == first
    assert len({tuple(told(seed, clips)[1]) for seed in range(8)}) > 5
    assert not set(told(1, clips)[0]) & set(first[0])  # a name tells nothing across studies
    assert sorted(first[1]) not in (first[1], first[1][::-1])


def test_answers_are_never_orphaned_by_another_study(clips, tmp_path):
    page = write_blind(clips, tmp_path, 0)
    assert page.read_text().count(study(tmp_path)) == 1
    kept = answer(tmp_path, "ann", {ids(tmp_path, ROWS[0])[0]: (1, 2)})
    write_blind(clips, tmp_path, 0)  # the same study
    before = (tmp_path / KEY).read_bytes()
    assert str(kept) in refused(write_blind, clips, tmp_path, 1) and (tmp_path / KEY).read_bytes() == before
    assert summarise(tmp_path)["answers"] == 1


def test_the_script_saves_what_is_read(clips, tmp_path):
    script = (WEB / "listening.js").read_text(encoding="utf-8")
    assert all(f"'{scale}'" in script and f"{scale}:" in script for scale in SCALES)
    assert "{version: 1, study, listener, saved: new Date().toISOString(), answers}" in script and "</" not in script


# --- what listeners said --------------------------------------------------------------------------------------------


@pytest.fixture
def out(clips, tmp_path):
    """A folder with a study that nobody has answered."""
    write_blind(clips, tmp_path, 0)
    return tmp_path


def test_with_several_listeners_the_interval_is_over_their_means(out):
    one, two, _ = ids(out, ROWS[0])
    answer(out, "ann", {one: (80, 10), two: (60, 30)})
    answer(out, "bob", {one: (50, 20)})
    told = summarise(out)
    row = told["rows"][ROWS[0]]
    assert (row["answers"], row["listeners"], row["over"]) == (3, 2, "2 listeners")
    # ann's mean is 70, bob's 50: mean 60, s = 14.142, t(1) = 12.7062, half width t s / sqrt(2)
    assert row["ovl"] == pytest.approx({"mean": 60.0, "interval": 127.062})
    assert row["rel"] == pytest.approx({"mean": 20.0, "interval": 0.0})
    assert (told["answers"], told["listeners"], told["duplicates"], told["study"]) == (3, 2, 0, study(out))
    nothing = {"mean": None, "interval": None}
    assert told["rows"][ROWS[1]] == {"answers": 0, "listeners": 0, "over": "nothing", "ovl": nothing, "rel": nothing}


def test_with_one_listener_the_interval_is_over_clips_and_says_so(out):
    answer(out, "ann", dict(zip(ids(out, ROWS[1]), [(20, 0), (40, 0), (60, 100)], strict=True)) | {ids(out, ROWS[0])[0]: (7, 8)})
    rows = summarise(out)["rows"]
    assert rows[ROWS[1]]["over"] == "clips of one listener"
    assert rows[ROWS[1]]["ovl"] == pytest.approx({"mean": 40.0, "interval": 4.3027 * 20 / 3**0.5})
    assert rows[ROWS[0]]["ovl"] == {"mean": 7.0, "interval": None}  # one value has no interval


def test_of_answers_given_twice_the_last_saved_counts(out):
    one, two, _ = ids(out, ROWS[0])
    answer(out, "ann", {one: (10, 10), two: (40, 40)}, "answers-ann.json", {"saved": "2026-01-01T10:00:00Z"})
    answer(out, " ann ", {one: (20, 20)}, "answers-ann (1).json", {"saved": "2026-01-01T11:00:00Z"})  # sorts first by name
    told = summarise(out)
    assert (told["answers"], told["duplicates"], told["listeners"]) == (2, 1, 1)
    assert told["rows"][ROWS[0]]["ovl"]["mean"] == 30.0


def test_no_figure_is_claimed_without_listeners(out, tmp_path):
    assert "no figure is claimed without listeners" in refused(summarise, out)
    answer(out, "ann", {})
    assert "no figure is claimed without listeners" in refused(report, out)
    assert not (out / "listening.json").exists()
    (out / KEY).unlink()
    assert KEY in refused(summarise, out)
    (out / KEY).write_text("[]")
    assert "holds a list where an object is wanted" in refused(summarise, out)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"study": "0" * 64}, "another study"),
        ({"version": 2}, "version 1"),
        ({"answers": {}}, "version 1"),
        ({"listener": " "}, "names no listener"),
        ({"listener": 3}, "names no listener"),
        ({"answers": [{"id": "abc", "ovl": 1, "rel": 1}]}, "clip 'abc'"),
        ({"answers": [{"id": ["abc"], "ovl": 1, "rel": 1}]}, "clip ['abc']"),
        ({"answers": [3]}, "holds an answer that is no object, 3"),
        ({"ovl": 101}, "ovl=101"),
        ({"rel": -1}, "rel=-1"),
        ({"rel": 5.5}, "rel=5.5"),
        ({"ovl": True}, "ovl=True"),
        ({"ovl": None}, "ovl=None"),
    ],
)
def test_each_broken_answer_is_one_sentence_that_names_the_file(changes, words, out):
    name = ids(out, ROWS[0])[0]
    if changes.keys() & SCALES:
        changes = {"answers": [{"id": name, "ovl": 1, "rel": 1} | changes]}
    path = answer(out, "eve", {name: (1, 1)}, changes=changes)
    message = refused(summarise, out)
    assert message.startswith(str(path)) and words in message, message


@pytest.mark.parametrize("data", [b"{", b"\xff\xfe\x00", b"", b"[" * 200_000])
def test_what_is_no_json_is_one_sentence(data, out):
    (out / "answers-eve.json").write_bytes(data)
    assert refused(summarise, out).startswith(f"{out / 'answers-eve.json'} cannot be read as JSON")


def test_0_and_100_are_valid(out):
    answer(out, "ann", {ids(out, ROWS[0])[0]: (0, 100)})
    assert summarise(out)["rows"][ROWS[0]]["rel"]["mean"] == 100.0


# --- the verb -------------------------------------------------------------------------------------------------------


def test_the_verb_prints_and_writes_the_table(out, capsys, monkeypatch):
    answer(out, "ann", dict.fromkeys(ids(out, ROWS[0]), (70, 30)))
    answer(out, "bob", dict.fromkeys(ids(out, ROWS[0]), (60, 40)))
    assert main(["listening", str(out)]) == 0
    printed = capsys.readouterr().out
    assert f"| {ROWS[0]} | 6 | 2 | 65.0 ± 63.5 | 35.0 ± 63.5 | 2 listeners |" in printed
    assert f"| {ROWS[1]} | 0 | 0 | – | – | nothing |" in printed and "6 answers of 2 listener(s)" in printed
    assert (out / "listening.md").read_text(encoding="utf-8") == printed
    assert json.loads((out / "listening.json").read_text()) == summarise(out)
    for verb in (["listening", f"dir={out}"], ["listening"]):
        monkeypatch.setenv("DIR", str(out))
        monkeypatch.setenv("CONFIG", "games")  # which is no folder
        assert main(verb) == 0 and capsys.readouterr().out == printed


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["listening"], "needs the folder"),
        (["listening", "no-such"], "no-such holds no listening-key.json"),
        (["listening", "my", "folder"], "'folder' is no key=value; quote"),
        (["listening", "dri=x"], "did you mean 'dir'?"),
    ],
)
def test_a_folder_that_is_none_is_one_line_and_code_2(argv, words, capsys, monkeypatch):
    monkeypatch.delenv("DIR", raising=False)
    assert main(argv) == 2
    message = capsys.readouterr().err
    assert words in message and message.count("\n") == 1
