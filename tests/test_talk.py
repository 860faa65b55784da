import codecs
import itertools

import numpy as np
import pytest
import soundfile

from kwslib import espeak, synth, talk
from kwslib.audio import AudioError


def write(path, level=100, rate_hz=16000):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full(1000, level, np.int16), rate_hz)


def lengths(folder, keyword):
    speakers = talk.recordings(folder, keyword).speakers
    return {speaker: len(samples) for speaker, samples in speakers.items()}


@pytest.fixture
def folder(tmp_path):
    """Speakers a and b, two recordings each; the second says UNHAPPY."""
    for speaker, number in itertools.product("ab", (1, 2)):
        write(tmp_path / "talk" / speaker / f"{number}.flac", 100 * number)
        text = "words\n1 SO HE SAID\n2 UNHAPPY WORDS\n"
        (tmp_path / "talk" / speaker / "transcripts.txt").write_text(text)
    return tmp_path / "talk"


@pytest.mark.parametrize(
    "keyword, said, unsaid",
    [
        ("happy", "UNHAPPY, happily happiness", "happen perhaps hap"),
        ("cat", "two cats", "a cathedral scatters"),
        ("a", "not a cat", "an apple is as red"),
        ("hey you", "say hey you there", "hey there you"),
        ("größe", "die Gro\u0308ße", "..."),  # decomposed
    ],
)
def test_words_are_compared_and_not_letters_within_them(keyword, said, unsaid):
    assert talk.holds(said, keyword) and not talk.holds(unsaid, keyword)
    assert not talk.holds(said, "...")


def test_recordings_are_joined_and_those_with_the_keyword_are_left_out(folder):
    found, again, free = (talk.recordings(folder, keyword) for keyword in ("cat", "dog", "happy"))
    assert found.speakers["a"][[0, 999, 1000, 1999]].tolist() == [100, 100, 200, 200]
    assert lengths(folder, "happy") == {"a": 1000, "b": 1000}
    assert found.digest == again.digest != free.digest


def test_transcripts_with_a_mark_suffixes_or_missing_lines_are_read(folder, capsys):
    text = b"1.flac so he said\n2.FLAC UNHAPPY words\n"
    (folder / "a" / "transcripts.txt").write_bytes(codecs.BOM_UTF8 + text)
    (folder / "b" / "transcripts.txt").unlink()
    assert lengths(folder, "happy") == {"a": 1000, "b": 2000}
    assert capsys.readouterr().err == f"{folder}: 2 recordings have no transcript\n"
    assert lengths(folder, "so")["a"] == 1000  # the first line, too


@pytest.mark.parametrize("place", ["", "LibriSpeech/train-clean-5"])
def test_librispeech_is_read_as_it_is_unpacked(tmp_path, place, capsys):
    chapter = tmp_path / "talk" / place / "19" / "198"
    for number in (0, 1):
        write(chapter / f"19-198-000{number}.flac")
    (chapter / "19-198.trans.txt").write_text("19-198-0000 NORTHANGER\n19-198-0001 A HAPPY END\n")
    assert lengths(tmp_path / "talk", "happy") == {"19": 1000}
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "name, rate_hz, reason",
    [("a/3.wav", 8000, "8,000 Hz"), ("5.wav", 16000, "lies in no speaker's folder")],
)
def test_unusable_recordings_are_left_out_by_name(folder, capsys, name, rate_hz, reason):
    (folder / "a" / "._1.flac").write_bytes(b"of another system")
    write(folder / name, rate_hz=rate_hz)
    assert lengths(folder, "cat") == {"a": 2000, "b": 2000}
    said = capsys.readouterr().err
    assert reason in said and f"the first is {name})" in said
    for path in folder.glob("*/?.flac"):
        path.unlink()
    with pytest.raises(AudioError, match=r"no recording in .*talk is usable .* \(1 of them: "):
        talk.recordings(folder, "cat")


def test_talk_is_found_beside_the_corpus(folder):
    assert talk.find(folder.parent / "corpus", "talk") == folder
    assert talk.find(folder.parent / "corpus", "continuous_speech") is None


def test_espeak_reads_once_and_leaves_the_keyword_out(root, monkeypatch):
    def stop(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(espeak, "run", itertools.starmap)
    monkeypatch.setattr(talk, "SENTENCES", 3)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(synth, "record", stop)
        talk.espeak("sheila", 60)
    assert not (root / "espeak").exists()  # nothing half read is taken
    whole = talk.espeak("sheila", 60)
    monkeypatch.setattr(espeak, "run", None)  # it would read again
    part = talk.espeak("sheila", 20)
    assert len(whole.speakers) == synth.TALKERS
    for name, samples in whole.speakers.items():
        assert np.array_equal(part.speakers[name], samples[: len(part.speakers[name])])
        assert 0.2 * len(samples) < len(part.speakers[name]) < 0.5 * len(samples)
        assert np.mean(np.abs(samples) > 100) > 0.3
    said = (root / "espeak" / "talker0" / "transcripts.txt").read_text().split()
    free = talk.espeak(next(word for word in said if len(word) > 3), 60)
    assert len(free.speakers["talker0"]) < len(whole.speakers["talker0"])
    assert free.digest != whole.digest
