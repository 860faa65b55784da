import codecs

import numpy as np
import pytest
import soundfile

from kwslib import data, espeak, talk
from kwslib.audio import AudioError


def write(path, level=100, samples=1000, rate_hz=16000, channels=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full((samples, channels), level, np.int16), rate_hz)


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
        ("SO HE SAID", "said", True),
        ("so he said", "aid", False),  # letters within a word
        ("unhappy, happily happiness", "happy", True),
        ("happen perhaps hap", "happy", False),
        ("happiness", "happy", True),
        ("two cats", "cat", True),
        ("a cathedral scatters", "cat", False),
        ("an apple is as red", "a", False),
        ("it is I", "i", True),
        ("say hey you there", "hey you", True),
        ("hey there you", "hey you", False),
        ("die Gro\u0308ße", "größe", True),  # decomposed
        ("anything", "...", False),
    ],
)
def test_words_are_compared_and_not_letters_within_them(text, keyword, expected):
    assert talk.holds(text, keyword) is expected


def test_recordings_are_joined_and_those_with_the_keyword_are_left_out(folder):
    found = talk.recordings(folder, "cat")
    assert list(found.speakers) == ["a", "b"]
    assert found.speakers["a"][[0, 999, 1000, 1999]].tolist() == [100, 100, 200, 200]
    assert found.hours == 4000 / 16000 / 3600
    free = talk.recordings(folder, "happy")
    assert lengths(free) == {"a": 1000, "b": 1000}
    assert len({found.digest, free.digest, talk.recordings(folder, "cat").digest}) == 2
    assert (found.rejected, found.without_transcript) == ([], 0)


def test_transcripts_with_a_mark_suffixes_or_missing_lines_are_read(folder):
    text = b"1.flac so he said\n2.FLAC UNHAPPY words\n"
    (folder / "a" / "transcripts.txt").write_bytes(codecs.BOM_UTF8 + text)
    (folder / "b" / "transcripts.txt").unlink()
    found = talk.recordings(folder, "happy")
    assert lengths(found) == {"a": 1000, "b": 2000}
    assert found.without_transcript == 2
    assert len(talk.recordings(folder, "so").speakers["a"]) == 1000  # the first line, too


@pytest.mark.parametrize("place", ["", "LibriSpeech/train-clean-5"])
def test_librispeech_is_read_as_it_is_unpacked(tmp_path, place):
    chapter = tmp_path / "talk" / place / "19" / "198"
    for number in (0, 1):
        write(chapter / f"19-198-000{number}.flac")
    (chapter / "19-198.trans.txt").write_text("19-198-0000 NORTHANGER\n19-198-0001 A HAPPY END\n")
    (tmp_path / "talk" / "README.TXT").write_text("notes")
    found = talk.recordings(tmp_path / "talk", "happy")
    assert lengths(found) == {"19": 1000}
    assert (found.rejected, found.without_transcript) == ([], 0)


def test_unusable_recordings_are_left_out_by_name(folder):
    write(folder / "a" / "3.wav", channels=2)
    write(folder / "c" / "4.wav", rate_hz=8000)
    write(folder / "5.wav")
    (folder / "a" / "._1.flac").write_bytes(b"of another system")
    found = talk.recordings(folder, "cat")
    assert list(found.speakers) == ["a", "b"]
    assert dict(found.rejected) == {
        "5.wav": "lies in no speaker's folder",
        "a/3.wav": "2 channels, 16,000 Hz; it must be 1 channel, 16,000 Hz",
        "c/4.wav": "1 channel, 8,000 Hz; it must be 1 channel, 16,000 Hz",
    }


def test_a_folder_without_usable_talk_is_one_line(tmp_path):
    write(tmp_path / "talk" / "a" / "1.wav", rate_hz=8000)
    with pytest.raises(
        AudioError, match=r"no recording in .*talk .* a/1\.wav: .* 8,000 Hz"
    ) as error:
        talk.recordings(tmp_path / "talk", "cat")
    assert "\n" not in str(error.value)


def test_talk_is_found_beside_the_corpus(folder):
    assert talk.find(folder.parent / "corpus", "talk") == folder
    assert talk.find(folder.parent / "corpus", "continuous_speech") is None


@pytest.mark.parametrize("damage", [None, b"", b"PK\3\4 no zip", "half"])
def test_talk_is_kept_and_made_anew_when_damaged(folder, root, monkeypatch, damage):
    first, read = talk.recordings(folder, "cat"), []
    (kept,) = root.glob("talk/*")
    whole = kept.read_bytes()
    if damage is not None:
        kept.write_bytes(whole[: len(whole) // 2] if damage == "half" else damage)
    original = talk.audio.read_clip
    monkeypatch.setattr(talk.audio, "read_clip", lambda path: read.append(path) or original(path))
    again = talk.recordings(folder, "cat")
    assert len(read) == (0 if damage is None else 4)
    assert again.digest == first.digest
    for speaker, samples in first.speakers.items():
        assert np.array_equal(again.speakers[speaker], samples)


def test_espeak_s_talk_repeats_and_is_speech(root):
    first = talk.espeak("happy", 0.1, speakers=2)
    next(root.glob("talk/*")).unlink()
    again, other = talk.espeak("happy", 0.1, speakers=2), talk.espeak("sheila", 0.1, speakers=2)
    assert len(first.speakers) == 2 and first.digest == again.digest != other.digest
    for name, samples in first.speakers.items():
        assert samples.dtype == np.int16 and len(samples) == 0.05 * 60 * 16000
        assert np.mean(np.abs(samples) > 100) > 0.3
        assert np.array_equal(samples, again.speakers[name])
        assert not np.array_equal(samples, other.speakers[name])


@pytest.mark.parametrize("keyword", ["happy", "a", "er", "I", "größe", "快乐", "..."])
def test_sentences_hold_neither_the_keyword_nor_its_sound(keyword):
    talk.check_keyword(keyword)
    generator = np.random.default_rng(0)
    for _ in range(10):
        said = talk.sentence(keyword, generator)
        assert not talk.holds(said, keyword)
        assert not set(espeak.phonemes(keyword)) & set(espeak.phonemes(said)) - {""}


def test_a_keyword_that_no_sentence_avoids_is_found(monkeypatch):
    monkeypatch.setattr(talk, "holds", lambda said, keyword: True)
    with pytest.raises(
        ValueError, match="no sentence without 'happy'; record talk, and see --talk"
    ):
        talk.check_keyword("happy")


def test_real_talk_is_there():
    folder = talk.find(data.Path(__file__).parents[2] / "shared" / "corpus", "continuous_speech")
    if folder is None:
        pytest.skip("real speech lies beside the working checkout only, not in a clone")
    found = talk.recordings(folder, "happy")
    assert len(found.speakers) == 6 and 0.5 < found.hours < 0.52
    assert (found.rejected, found.without_transcript) == ([], 0)
