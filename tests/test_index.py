import io
import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import soundfile

from kwslib import audio, data

NOISE = np.random.default_rng(0).normal(0, 0.1, 16000)


@pytest.fixture
def folder(tmp_path, write_wav):
    """A corpus of two words by three speakers."""
    for name in ("yes/anna", "yes/ben", "yes/carl", "no/anna", "no/ben", "no/carl"):
        write_wav(tmp_path / "small" / f"{name}_nohash_0.wav", NOISE)
    return tmp_path / "small"


def load(path):
    return data.load(path, progress=False)


def test_a_corpus_is_what_lies_in_its_folder(corpus, tiny_corpus):
    assert corpus.name == "tiny"
    assert len(corpus) == len(corpus.words) == len(corpus.speakers) == len(corpus.clips) == 120
    assert list(corpus.ids) == sorted(corpus.ids)
    assert isinstance(corpus.clips, np.memmap) and corpus.clips.dtype == np.int16
    for number in range(0, 120, 7):
        path = next(tiny_corpus.glob(f"{corpus.ids[number]}.*"))
        samples, _ = soundfile.read(path, dtype="int16")
        assert corpus.lengths[number] == len(samples)
        assert np.array_equal(corpus.clips[number], np.pad(samples, (0, 16000 - len(samples))))
    assert corpus.word_counts() == dict.fromkeys(["cat", "dog", "go", "sheila", "stop"], 24)
    assert corpus.labels("sheila").sum() == 24
    assert sorted(corpus.background) == ["fan", "rain"]
    rain = soundfile.read(tiny_corpus / data.BACKGROUND / "rain.wav", dtype="int16")[0]
    assert np.array_equal(corpus.background["rain"], rain)
    assert corpus.rejected == [] and corpus.without_speaker == 0
    assert corpus.hours == pytest.approx((100 * 16000 + 20 * 14000) / 16000 / 3600)


def test_bad_recordings_are_rejected_with_the_reason_and_good_ones_kept(
    folder, root, write_wav, capsys
):
    flac = io.BytesIO()
    soundfile.write(flac, NOISE, 16000, format="FLAC")
    (folder / "yes" / "empty_nohash_0.wav").write_bytes(b"")
    (folder / "yes" / "cut_nohash_0.flac").write_bytes(flac.getvalue()[: flac.tell() // 2])
    (folder / "yes" / "film_nohash_0.m4a").write_text("....ftyp This is no audio.\n" * 99)
    (folder / "yes" / "anna_nohash_0.flac").write_bytes(flac.getvalue())
    write_wav(folder / "yes" / "stereo_nohash_0.wav", np.stack([NOISE, NOISE], 1), 44100)
    write_wav(folder / "yes" / "long_nohash_0.wav", np.resize(NOISE, 16001))
    write_wav(folder / data.BACKGROUND / "short.wav", NOISE)
    for name in ("notes.txt", "LICENSE", "._ben_nohash_0.wav"):
        (folder / "yes" / name).write_text("not a recording: not mentioned")
    corpus = data.load(folder)
    reasons = {Path(path).name.split("_")[0]: reason for path, reason in corpus.rejected}
    for name, reason in {
        "empty": "not readable as audio",
        "film": "not readable as audio (LibsndfileError); try ffmpeg -i FILE",
        "cut": "not readable as audio",
        "stereo": "2 channels, 44,100 Hz; it must be 1 channel, 16,000 Hz",
        "long": "longer than 1 s",
        "anna": "stands twice, in two formats",
        "short.wav": "background recording of a second or less",
    }.items():
        assert reasons.pop(name).startswith(reason)
    assert not reasons
    assert "small: 7 recordings rejected (3 times: not readable" in capsys.readouterr().err
    assert len(corpus) == 6


@pytest.mark.parametrize("suffix", ["ogg", "mp3", "aiff", "WAV"])
def test_whatever_soundfile_reads_is_a_clip(folder, root, suffix):
    for number in range(3):
        path = folder / "no" / f"dora_nohash_{number}.{suffix}"
        soundfile.write(path, NOISE[:12000], 16000, format=suffix)
    found = load(folder)
    assert found.rejected == [] and len(found) == 9


def test_a_keyword_whose_clips_were_all_rejected_says_why(folder, root, write_wav):
    for number in range(3):
        write_wav(folder / "go" / f"ben_nohash_{number}.wav", np.stack([NOISE, NOISE], 1), 44100)
    found = load(folder)
    with pytest.raises(data.CorpusError, match=r"3 recordings of it .* 2 channels, 44,100 Hz"):
        found.labels("go")


def test_names_are_compared_normalised(tmp_path, root, write_wav):
    word = unicodedata.normalize("NFD", "größe")
    write_wav(tmp_path / "c" / word / "anna_nohash_0.wav", NOISE)
    write_wav(tmp_path / "c" / "no" / "anna_nohash_0.wav", NOISE)
    found = load(tmp_path / "c")
    for keyword in ("größe", word, " größe "):
        assert found.labels(keyword).tolist() == [1, 0] or found.labels(keyword).tolist() == [0, 1]
    assert unicodedata.is_normalized("NFC", "".join(found.ids))


@pytest.mark.parametrize(
    "files, message",
    [
        (["yes/readme.txt"], "WORD/SPEAKER_nohash_N.wav"),
        (["yes/a_nohash_0.wav"], "none of the 1 recordings"),
    ],
)
def test_a_folder_without_clips_is_refused(root, tmp_path, files, message):
    for name in ["hollow/.keep", *(f"hollow/{n}" for n in files)]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("no audio")
    with pytest.raises(data.CorpusError, match=message):
        load(tmp_path / "hollow")
    assert not list((root / "index").glob("*"))


def test_index_is_reused_until_a_clip_changes(folder, root, monkeypatch, write_wav):
    read, original = [], audio.read_clip
    monkeypatch.setattr(audio, "read_clip", lambda *given: read.append(given) or original(*given))
    first, again = load(folder), load(folder)
    assert len(read) == 6
    assert (again.digest, again.ids.tolist()) == (first.digest, first.ids.tolist())
    changed = write_wav(folder / "yes" / "ben_nohash_0.wav", -NOISE)
    os.utime(changed, ns=(1, 1))  # same size, another time
    found = load(folder)
    assert len(read) == 12 and found.digest != first.digest
    assert np.array_equal(found.clips[4], soundfile.read(changed, dtype="int16")[0])
    changed.rename(folder / "yes" / "ben_nohash_1.wav")
    assert load(folder).digest != found.digest


@pytest.mark.parametrize("name", ["index.json", "samples.int16"])
@pytest.mark.parametrize("content", [b"", b"null", b"[]", b'{"stamp": ', "half"])
def test_a_damaged_index_is_made_again(folder, root, name, content):
    first = load(folder)
    path = next(root.glob(f"index/*/{name}"))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    assert load(folder).digest == first.digest
    assert path.read_bytes() == whole


def test_digest_depends_on_content_and_not_on_place_or_format(folder, root, tmp_path, write_wav):
    first = load(folder)
    moved = Path(shutil.copytree(folder, tmp_path / "elsewhere" / "small"))
    for path in list(moved.glob("*/*.wav")):
        soundfile.write(path.with_suffix(".flac"), soundfile.read(path, dtype="int16")[0], 16000)
        path.unlink()
    assert load(moved).digest == first.digest
    assert len(list((root / "index").iterdir())) == 2  # folders of one name have an index each
    write_wav(moved / data.BACKGROUND / "file.wav", np.resize(NOISE, 20000))
    assert load(moved).digest != first.digest
