import codecs
import itertools
import shutil

import numpy as np
import pytest
import soundfile

from kwslib import espeak, talk
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
    assert (found.rejected, found.without_transcript) == ([], 0)


def test_transcripts_with_a_mark_suffixes_or_missing_lines_are_read(folder):
    text = b"1.flac so he said\n2.FLAC UNHAPPY words\n"
    (folder / "a" / "transcripts.txt").write_bytes(codecs.BOM_UTF8 + text)
    (folder / "b" / "transcripts.txt").unlink()
    found = talk.recordings(folder, "happy")
    assert lengths(found) == {"a": 1000, "b": 2000} and found.without_transcript == 2
    assert len(talk.recordings(folder, "so").speakers["a"]) == 1000  # the first line, too


@pytest.mark.parametrize("place", ["", "LibriSpeech/train-clean-5"])
def test_librispeech_is_read_as_it_is_unpacked(tmp_path, place):
    chapter = tmp_path / "talk" / place / "19" / "198"
    for number in (0, 1):
        write(chapter / f"19-198-000{number}.flac")
    (chapter / "19-198.trans.txt").write_text("19-198-0000 NORTHANGER\n19-198-0001 A HAPPY END\n")
    found = talk.recordings(tmp_path / "talk", "happy")
    assert lengths(found) == {"19": 1000}
    assert (found.rejected, found.without_transcript) == ([], 0)


def test_unusable_recordings_are_left_out_by_name(folder):
    write(folder / "a" / "3.wav", channels=2)
    write(folder / "c" / "4.wav", rate_hz=8000)
    write(folder / "5.wav")
    (folder / "a" / "._1.flac").write_bytes(b"of another system")
    found = talk.recordings(folder, "cat")
    reasons = dict(found.rejected)
    assert list(found.speakers) == ["a", "b"] and list(reasons) == ["5.wav", "a/3.wav", "c/4.wav"]
    assert "8,000 Hz" in reasons["c/4.wav"] and "no speaker's folder" in reasons["5.wav"]
    shutil.copytree(folder / "c", folder.parent / "bad" / "c")
    with pytest.raises(AudioError, match=r"no recording in .*bad is usable .* \(1 of them: 1 chan"):
        talk.recordings(folder.parent / "bad", "cat")


def test_talk_is_found_beside_the_corpus(folder):
    assert talk.find(folder.parent / "corpus", "talk") == folder
    assert talk.find(folder.parent / "corpus", "continuous_speech") is None


def test_espeak_s_talk_is_speech_kept_and_made_anew_when_damaged(root, monkeypatch):
    monkeypatch.setattr(espeak, "run", itertools.starmap)
    first, other = (talk.espeak(word, 0.05, speakers=2) for word in ("happy", "sheila"))
    assert len(first.speakers) == 2 and first.digest != other.digest
    for content in (None, b"", b"PK\3\4 no zip"):
        for kept in root.glob("talk/*") if content is not None else []:
            kept.write_bytes(content)
        again = talk.espeak("happy", 0.05, speakers=2)
        for name, samples in first.speakers.items():
            assert np.array_equal(samples, again.speakers[name])
    for name, samples in first.speakers.items():
        assert samples.dtype == np.int16 and len(samples) == 0.025 * 60 * 16000
        assert np.mean(np.abs(samples) > 100) > 0.3
        assert not np.array_equal(samples, other.speakers[name])


@pytest.mark.parametrize("keyword", ["happy", "a", "er", "I", "größe", "快乐", "..."])
def test_sentences_hold_neither_the_keyword_nor_its_sound(keyword):
    generator = np.random.default_rng(0)
    for _ in range(6):
        said = talk.sentence(keyword, generator)
        assert not talk.holds(said, keyword)
        assert not set(espeak.phonemes(keyword)) & set(espeak.phonemes(said)) - {""}


def test_a_keyword_that_no_sentence_avoids_is_one_line(root, monkeypatch):
    monkeypatch.setattr(talk, "holds", lambda said, keyword: True)
    monkeypatch.setattr(espeak, "run", itertools.starmap)
    with pytest.raises(ValueError, match=r"^espeak-ng says .* without 'happy'; record talk.*$"):
        talk.espeak("happy", 0.01, speakers=1)
