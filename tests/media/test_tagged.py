"""Sound files that carry a text."""

import numpy as np
import pytest
import soundfile

from melfusion.errors import ConfigError, DamagedFile
from melfusion.media import tagged
from melfusion.media.options import SOUND_FORMATS
from melfusion.media.sound import write_sound

STEREO = (0.3 * np.sin(np.arange(8000) / np.array([[9.0], [7.0]]))).astype(np.float32)


@pytest.mark.parametrize("end", SOUND_FORMATS)
@pytest.mark.parametrize("length", [3, 40_000])
def test_a_text_survives_in_every_format_and_the_sound_is_the_same_with_and_without_it(tmp_path, end, length):
    text, file, plain = "{" + "x" * length + "}", tmp_path / f"a.{end}", tmp_path / f"b.{end}"
    write_sound(file, STEREO, 16000, text)
    write_sound(plain, STEREO, 16000)
    assert tagged.comment(file) == text and tagged.comment(plain) == ""
    with_text, without = (soundfile.read(one, always_2d=True)[0] for one in (file, plain))
    assert with_text.shape == (8000, 2) and np.array_equal(with_text, without)
    assert np.corrcoef(with_text[:, 1], STEREO[1])[0, 1] > 0.99
    write_sound(plain, STEREO, 16000, text)
    assert end == "ogg" or plain.read_bytes() == file.read_bytes()


def test_an_odd_number_of_bytes_and_the_chunks_of_other_programs_are_read(tmp_path):
    wav = tagged.encode(np.zeros(5, np.float32), 8000, "wav")
    text = "čau ♪"
    whole = tagged.with_info(wav[:12] + b"JUNK\x03\x00\x00\x00abc\x00" + wav[12:], text)
    (tmp_path / "a.wav").write_bytes(whole)
    assert tagged.comment(tmp_path / "a.wav") == text and len(soundfile.read(tmp_path / "a.wav")[0]) == 5
    (tmp_path / "a.wav").write_bytes(whole[:-3])  # cut short
    assert tagged.comment(tmp_path / "a.wav").startswith("čau")


def test_what_is_no_sound_is_a_sentence(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"RIFF no sound")
    with pytest.raises(DamagedFile, match=r"a\.wav cannot be read as sound"):
        tagged.comment(tmp_path / "a.wav")
    with pytest.raises(ConfigError, match="there is no such file"):
        tagged.comment(tmp_path / "b.wav")
    with pytest.raises(ConfigError, match=r"a\.aac: sound is written as wav, flac, mp3, ogg"):
        write_sound(tmp_path / "a.aac", STEREO, 16000)
