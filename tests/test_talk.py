import numpy as np
import pytest
import soundfile

from kwslib import data, synth, talk


@pytest.fixture(scope="module")
def espeak():
    return synth.espeak_paths()


def test_sentences_never_hold_the_keyword_or_its_sound(espeak):
    generator = np.random.default_rng(0)
    for _ in range(30):
        said = talk.sentence(espeak, "happy", generator)
        wanted, sound = talk.phonemes(espeak, ["happy", said])
        assert wanted not in sound and "happy" not in said.replace(" ", "")
        assert 8 <= len(said.split()) <= 16


def test_phonemes_see_through_spelling(espeak):
    keyword, alike, other, across = talk.phonemes(espeak, ["happy", "happie", "hobby", "the happy man"])
    assert keyword and keyword == alike != other
    assert keyword in across and keyword not in other


def test_near_misses_are_near(espeak):
    generator = np.random.default_rng(0)
    made = {talk._near_miss("happy", generator) for _ in range(200)}
    assert len(made) > 100
    assert all(3 <= len(word) <= 7 for word in made)


def test_talk_repeats_is_kept_and_differs_between_parts(data_root):
    before = set(data_root.glob("talk/*"))  # other tests' talk
    first = talk.read("happy", "validation", 0.2)
    assert first.dtype == np.int16 and len(first) == 0.2 * 60 * 16000
    assert np.array_equal(first, talk.make("happy", "validation", 0.2, workers=1))
    assert np.mean(np.abs(first) > 100) > 0.3  # there is speech
    kept = list(set(data_root.glob("talk/*")) - before)
    assert len(kept) == 1 and kept[0].name.startswith("validation-")
    assert not np.array_equal(first, talk.make("happy", "test", 0.2, workers=1))
    kept[0].write_bytes(kept[0].read_bytes()[:1000])  # a damaged file is made anew
    assert np.array_equal(talk.read("happy", "validation", 0.2), first)


def test_recorded_talk_lies_beside_the_corpus(tmp_path):
    (tmp_path / "corpus").mkdir()
    assert talk.recorded(tmp_path / "corpus", "happy") == {}
    for speaker, level in (("b", 200), ("a", 100)):
        folder = tmp_path / "continuous_speech" / speaker
        folder.mkdir(parents=True)
        (folder / "transcripts.txt").write_text("words\n1 SO HE SAID\n2 UNHAPPY WORDS\n")
        for number in (1, 2):
            soundfile.write(folder / f"{number}.flac", np.full(1000, level * number, np.int16), 16000)
    found = talk.recorded(tmp_path / "corpus", "cat")
    assert list(found) == ["a", "b"]
    assert found["a"][[0, 999, 1000, 1999]].tolist() == [100, 100, 200, 200]
    free = talk.recorded(tmp_path / "corpus", "happy")  # by the transcripts, 2.flac holds it
    assert {speaker: len(samples) for speaker, samples in free.items()} == {"a": 1000, "b": 1000}
    assert len(talk.recorded(tmp_path / "corpus", "so")["a"]) == 1000
    assert (
        len(talk.recorded(tmp_path / "corpus", "aid")["a"]) == 2000
    )  # three letters of 'said' are not the word
    assert talk.digest(tmp_path / "corpus", "happy") != talk.digest(tmp_path / "corpus", "cat")
    soundfile.write(tmp_path / "continuous_speech/a/3.wav", np.zeros(100, np.int16), 8000)
    with pytest.raises(data.CorpusError, match=r"a/3\.wav: 8000 Hz"):
        talk.recorded(tmp_path / "corpus", "happy")
