import codecs
import itertools

import numpy as np
import pytest
import soundfile

from kwslib import espeak, synth, talk
from kwslib.audio import AudioError


def write(path, level=100, rate_hz=16000, channels=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full((1000, channels), level, np.int16), rate_hz)


def lengths(found):
    return {speaker: len(samples) for speaker, samples in found.speakers.items()}


@pytest.fixture
def folder(tmp_path):
    """Speakers a and b, two recordings each; the second says UNHAPPY."""
    for speaker, level in (("b", 200), ("a", 100)):
        for number in (1, 2):
            write(tmp_path / "talk" / speaker / f"{number}.flac", level * number)
        text = "words\n1 SO HE SAID\n2 UNHAPPY WORDS\n"
        (tmp_path / "talk" / speaker / "transcripts.txt").write_text(text)
    return tmp_path / "talk"


@pytest.mark.parametrize(
    "text, keyword, expected",
    [
        ("so he said", "aid", False),  # letters within a word
        ("UNHAPPY, happily happiness", "happy", True),
        ("happen perhaps hap", "happy", False),
        ("two cats", "cat", True),
        ("a cathedral scatters", "cat", False),
        ("an apple is as red", "a", False),
        ("say hey you there", "hey you", True),
        ("hey there you", "hey you", False),
        ("die Gro\u0308ße", "größe", True),  # decomposed
        ("anything", "...", False),
    ],
)
def test_words_are_compared_and_not_letters_within_them(text, keyword, expected):
    assert talk.holds(text, keyword) is expected


def test_recordings_are_joined_and_those_with_the_keyword_are_left_out(folder):
    found, free = talk.recordings(folder, "cat"), talk.recordings(folder, "happy")
    assert found.speakers["a"][[0, 999, 1000, 1999]].tolist() == [100, 100, 200, 200]
    assert lengths(free) == {"a": 1000, "b": 1000}
    assert found.digest == talk.recordings(folder, "cat").digest != free.digest


def test_transcripts_with_a_mark_suffixes_or_missing_lines_are_read(folder, capsys):
    text = b"1.flac so he said\n2.FLAC UNHAPPY words\n"
    (folder / "a" / "transcripts.txt").write_bytes(codecs.BOM_UTF8 + text)
    (folder / "b" / "transcripts.txt").unlink()
    assert lengths(talk.recordings(folder, "happy")) == {"a": 1000, "b": 2000}
    assert capsys.readouterr().err == f"{folder}: 2 recordings have no transcript\n"
    assert len(talk.recordings(folder, "so").speakers["a"]) == 1000  # the first line, too


@pytest.mark.parametrize("place", ["", "LibriSpeech/train-clean-5"])
def test_librispeech_is_read_as_it_is_unpacked(tmp_path, place, capsys):
    chapter = tmp_path / "talk" / place / "19" / "198"
    for number in (0, 1):
        write(chapter / f"19-198-000{number}.flac")
    (chapter / "19-198.trans.txt").write_text("19-198-0000 NORTHANGER\n19-198-0001 A HAPPY END\n")
    assert lengths(talk.recordings(tmp_path / "talk", "happy")) == {"19": 1000}
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "name, made, reason",
    [
        ("a/3.wav", {"channels": 2}, "2 channels"),
        ("c/4.wav", {"rate_hz": 8000}, "8,000 Hz"),
        ("5.wav", {}, "lies in no speaker's folder"),
    ],
)
def test_unusable_recordings_are_left_out_by_name(folder, capsys, name, made, reason):
    (folder / "a" / "._1.flac").write_bytes(b"of another system")
    before = talk.recordings(folder, "cat")
    write(folder / name, **made)
    assert lengths(talk.recordings(folder, "cat")) == lengths(before)
    said = capsys.readouterr().err
    assert f"{reason}" in said and f"the first is {name})" in said
    for path in folder.glob("*/?.flac"):
        path.unlink()
    with pytest.raises(AudioError, match=r"no recording in .*talk is usable .* \(1 of them: "):
        talk.recordings(folder, "cat")


def test_talk_is_found_beside_the_corpus(folder):
    assert talk.find(folder.parent / "corpus", "talk") == folder
    assert talk.find(folder.parent / "corpus", "continuous_speech") is None


@pytest.fixture
def read(root, monkeypatch):
    """espeak-ng reads little, in this process."""
    monkeypatch.setattr(espeak, "run", itertools.starmap)
    monkeypatch.setattr(talk, "SENTENCES", 3)
    return root / "espeak"


def test_espeak_reads_once_and_leaves_the_keyword_out(read, monkeypatch):
    whole, part = talk.espeak("sheila", 60), talk.espeak("sheila", 20)
    assert len(whole.speakers) == synth.TALKERS
    for name, samples in whole.speakers.items():
        assert np.array_equal(part.speakers[name], samples[: len(part.speakers[name])])
        assert 0.2 * len(samples) < len(part.speakers[name]) < 0.5 * len(samples)
        assert np.mean(np.abs(samples) > 100) > 0.3
    monkeypatch.setattr(espeak, "run", None)  # it would read again
    said = (read / "talker0" / "transcripts.txt").read_text().split()
    keyword = next(word for word in said if len(word) > 3)
    free = talk.espeak(keyword, 60)
    assert len(free.speakers["talker0"]) < len(whole.speakers["talker0"])
    assert free.digest != whole.digest == talk.recordings(read, "sheila").digest
    monkeypatch.setattr(talk, "holds", lambda said, keyword: True)
    with pytest.raises(AudioError, match=r"^no recording in .*espeak is usable talk without 'i'$"):
        talk.espeak("i", 1)


def test_reading_that_was_stopped_begins_anew(read, monkeypatch):
    def stop(*given):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(synth, "record", stop)
        talk.espeak("sheila", 1)
    assert not read.exists()
    first = talk.espeak("sheila", 1)
    (read / "recipe.json").write_text("[")
    assert talk.espeak("sheila", 1).digest == first.digest
