import io
import os
import shutil
from collections import Counter
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import soundfile
import torchaudio
from hypothesis import given
from hypothesis import strategies as st

from kwslib import data
from kwslib.data import CorpusError

SPEECH = Path(__file__).parents[2] / "shared" / "speech_commands"
NOISE = np.random.default_rng(0).normal(0, 0.1, 16000)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A data folder of this test's own."""
    monkeypatch.setattr(data, "ROOT", tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def folder(tmp_path, write_wav):
    """A corpus of two words by three speakers."""
    for word in ("yes", "no"):
        for speaker in ("anna", "ben", "carl"):
            write_wav(tmp_path / "small" / word / f"{speaker}_nohash_0.wav", NOISE)
    return tmp_path / "small"


def load(path):
    return data.load(path, progress=False)


def assert_one_line(caught, *parts):
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


# Parts


@pytest.mark.parametrize(
    "speaker, part",
    [
        # from the lists of Speech Commands v0.02; train: in neither list
        ("bb05582b", "test"),
        ("97f4c236", "test"),
        ("0c40e715", "test"),
        ("a69b9b3e", "validation"),
        ("a9ca1818", "validation"),
        ("026290a7", "validation"),
        ("012c8314", "train"),
        ("0132a06d", "train"),
        # next to the borders, at 9.91, 10.001, 19.999 and 20.18 %
        ("3bdf05d3", "validation"),
        ("beb458a4", "test"),
        ("5f449e17", "test"),
        ("3824c00e", "train"),
    ],
)
def test_official_part_of_known_speakers(speaker, part):
    assert data.official_part(speaker) == part


@pytest.fixture(scope="module")
def official():
    """Clip -> part, the union of the lists of both versions."""
    if not SPEECH.is_dir():
        pytest.skip("Speech Commands lies beside the working checkout only, not in a clone")
    parts = {}
    for part, name in (("validation", "validation_list"), ("test", "testing_list")):
        for path in SPEECH.glob(f"{name}*.txt"):
            parts |= dict.fromkeys(path.read_text().split(), part)
    return parts


def test_official_part_agrees_with_every_line_of_the_lists(official):
    assert len(official) > 20000
    assert {c: data.official_part(Path(c).stem.split("_nohash_")[0]) for c in official} == official


def test_official_part_agrees_with_the_lists_on_every_clip_of_the_corpus(official):
    clips = [f"{p.parent.name}/{p.stem}" for p in SPEECH.glob("[a-z]*/*.flac")]
    ours = {clip: data.official_part(data._speaker(clip)) for clip in clips}
    assert ours == {clip: official.get(f"{clip}.wav", "train") for clip in clips}
    assert Counter(ours.values()) == {"train": 7754, "validation": 912, "test": 4342}


def test_speaker_split_keeps_speakers_apart(corpus):
    parts = data.split(corpus, "sheila", "speaker")
    assert list(parts) == ["train", "validation", "test"]
    assert sorted(np.concatenate(list(parts.values()))) == list(range(len(corpus)))
    speakers = [set(corpus.speakers[clips]) for clips in parts.values()]
    assert [len(s) for s in speakers] == [16, 4, 4]
    assert not speakers[0] & speakers[1] and not speakers[0] & speakers[2] and not speakers[1] & speakers[2]


def test_utterance_split_is_80_to_20_and_shares_speakers(corpus):
    parts = data.split(corpus, "sheila", "utterance", seed=1)
    assert {part: len(clips) for part, clips in parts.items()} == {"train": 96, "validation": 24}
    assert sorted(np.concatenate(list(parts.values()))) == list(range(120))
    assert set(corpus.speakers[parts["train"]]) & set(corpus.speakers[parts["validation"]])


def test_utterance_split_follows_the_seed(corpus):
    first, again, other = (data.split(corpus, "sheila", "utterance", seed=s)["train"] for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_an_unknown_split_names_the_known_ones(corpus):
    with pytest.raises(CorpusError) as caught:
        data.split(corpus, "sheila", "word")
    assert_one_line(caught, "'word'", "speaker", "utterance")


def test_an_unknown_keyword_names_the_words_there_are(corpus):
    with pytest.raises(CorpusError) as caught:
        data.split(corpus, "shiela")
    assert_one_line(caught, "'shiela'", "cat, dog, go, sheila, stop")


def test_a_part_without_the_keyword_is_refused(folder, root, write_wav):
    write_wav(folder / "rare" / "012c8314_nohash_0.wav", NOISE)  # a speaker of train
    with pytest.raises(CorpusError) as caught:
        data.split(load(folder), "rare")
    assert_one_line(caught, "validation", "'rare'")


# Batches


def test_half_of_a_balanced_batch_is_positive():
    labels = np.array([0] * 97 + [1] * 3)
    drawn = np.concatenate(list(data.balanced_batches(labels, 128, 100, np.random.default_rng(0))))
    # 12,800 draws: one deviation is 0.44 %
    assert labels[drawn].mean() == pytest.approx(0.5, abs=0.02)
    counts = np.bincount(drawn, minlength=100)
    assert counts.min() > 0  # every clip has its turn
    assert counts[97:].std() < 3 * np.sqrt(counts[97:].mean())  # and none of the three has more


@given(
    st.lists(st.integers(0, 1), max_size=20).map(lambda some: np.array([0, 1, *some])),
    st.integers(1, 9),
    st.integers(0, 3),
    st.integers(0, 99),
)
def test_batches_hold_valid_positions_and_follow_the_seed(labels, size, batches, seed):
    first, again = (
        list(data.balanced_batches(labels, size, batches, np.random.default_rng(seed))) for _ in range(2)
    )
    assert [len(batch) for batch in first] == [size] * batches
    for one, two in zip(first, again, strict=True):
        assert np.array_equal(one, two)
        assert one.min() >= 0 and one.max() < len(labels)


def test_another_seed_draws_other_batches():
    one, two = (
        next(data.balanced_batches(np.arange(50) % 2, 32, 1, np.random.default_rng(s))) for s in (0, 1)
    )
    assert not np.array_equal(one, two)


# The index


def test_a_corpus_is_what_lies_in_its_folder(corpus, tiny_corpus):
    assert corpus.name == "tiny"
    assert len(corpus) == len(corpus.words) == len(corpus.speakers) == len(corpus.clips) == 120
    assert list(corpus.ids) == sorted(corpus.ids)
    assert corpus.word_counts() == dict.fromkeys(["cat", "dog", "go", "sheila", "stop"], 24)
    assert corpus.labels("sheila").sum() == 24
    assert {name: len(noise) for name, noise in corpus.background.items()} == {"fan": 48000, "rain": 48000}
    assert corpus.rejected == []
    assert corpus.hours == pytest.approx((100 * 16000 + 20 * 14000) / 16000 / 3600)


def test_memory_map_holds_soundfile_s_samples_padded_with_zeros(corpus, tiny_corpus):
    assert isinstance(corpus.clips, np.memmap)
    assert corpus.clips.dtype == np.int16
    suffixes = Counter()
    for number, clip in enumerate(corpus.ids):
        path = next(tiny_corpus.glob(f"{clip}.*"))
        suffixes[path.suffix] += 1
        samples, _ = soundfile.read(path, dtype="int16")
        assert corpus.lengths[number] == len(samples)
        assert np.array_equal(corpus.clips[number], np.pad(samples, (0, 16000 - len(samples))))
    assert suffixes == {".wav": 105, ".flac": 15}
    waveforms = corpus.waveforms(np.array([3, 1]))
    assert waveforms.dtype == np.float32
    assert np.array_equal(waveforms * 32768, corpus.clips[[3, 1]])


def test_bad_recordings_are_rejected_with_the_reason_and_good_ones_kept(folder, root, write_wav):
    flac = io.BytesIO()
    soundfile.write(flac, NOISE, 16000, format="FLAC")
    (folder / "yes" / "empty_nohash_0.wav").write_bytes(b"")
    (folder / "yes" / "cut_nohash_0.flac").write_bytes(flac.getvalue()[: flac.tell() // 2])
    (folder / "yes" / "header_nohash_0.wav").write_bytes((folder / "yes/anna_nohash_0.wav").read_bytes()[:30])
    (folder / "yes" / "text_nohash_0.wav").write_text("This is no audio.\n" * 99)
    write_wav(folder / "yes" / "stereo_nohash_0.wav", np.stack([NOISE, NOISE], 1))
    write_wav(folder / "yes" / "slow_nohash_0.wav", NOISE[:8000], 8000)
    write_wav(folder / "yes" / "long_nohash_0.wav", np.resize(NOISE, 16001))
    write_wav(folder / "yes" / "silent_nohash_0.wav", NOISE[:0])
    (folder / "yes" / "anna_nohash_0.flac").write_bytes(flac.getvalue())
    write_wav(folder / data.BACKGROUND / "short.wav", NOISE)
    (folder / "yes" / "notes.txt").write_text("not a recording: not mentioned")
    corpus = load(folder)
    assert dict(corpus.rejected).keys() == {
        *(f"yes/{n}_nohash_0.wav" for n in ("empty", "header", "text", "stereo", "slow", "long", "silent")),
        "yes/cut_nohash_0.flac",
        "yes/anna_nohash_0.wav",
        f"{data.BACKGROUND}/short.wav",
    }
    reasons = {Path(path).name.split("_")[0]: reason for path, reason in corpus.rejected}
    assert "not readable" in reasons["empty"]
    assert "not readable" in reasons["cut"]
    assert "not readable" in reasons["header"]
    assert "not readable" in reasons["text"]
    assert "2 channels" in reasons["stereo"]
    assert "8000 Hz" in reasons["slow"]
    assert "longer than a second" in reasons["long"]
    assert "empty" in reasons["silent"]
    assert "twice" in reasons["anna"]
    assert "a second or less" in reasons["short.wav"]
    assert [i.split("_")[0] for i in corpus.ids] == [f"{w}/{s}" for w in ("no", "yes") for s in ("anna", "ben", "carl")]  # fmt: skip


def test_a_folder_that_is_not_there_names_the_corpora(root, tmp_path):
    with pytest.raises(CorpusError) as caught:
        load(tmp_path / "nowhere")
    assert_one_line(caught, "nowhere", "embedded", "speech_commands_v0.02", "path of a folder")


@pytest.mark.parametrize("inside", [[], ["readme.txt"], ["yes/readme.txt"]])
def test_a_folder_without_recordings_says_what_is_expected(root, tmp_path, inside):
    for name in ["hollow/.keep", *(f"hollow/{n}" for n in inside)]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(CorpusError) as caught:
        load(tmp_path / "hollow")
    assert_one_line(caught, "no recordings", "WORD/SPEAKER_nohash_N.wav")


def test_a_folder_of_bad_recordings_gives_the_first_reason(root, tmp_path):
    (tmp_path / "bad" / "yes").mkdir(parents=True)
    (tmp_path / "bad" / "yes" / "a_nohash_0.wav").write_text("no audio")
    with pytest.raises(CorpusError) as caught:
        load(tmp_path / "bad")
    assert_one_line(caught, "none of the 1 recordings", "not readable")


def test_background_alone_is_no_corpus(root, tmp_path, write_wav):
    write_wav(tmp_path / "noises" / data.BACKGROUND / "rain.wav", np.resize(NOISE, 20000))
    with pytest.raises(CorpusError) as caught:
        load(tmp_path / "noises")
    assert_one_line(caught, "no folder of words")


def test_any_name_does_for_a_background_recording(folder, root, write_wav):
    write_wav(folder / data.BACKGROUND / "file.wav", np.resize(NOISE, 20000))  # an argument of savez
    assert list(load(folder).background) == ["file"]


def test_float_recordings_are_scaled_and_clipped(tmp_path):
    path = tmp_path / "float.wav"
    soundfile.write(path, [0.5, -1.0, 1.5, 2**-16], 16000, subtype="FLOAT")
    assert data.read_clip(path).tolist() == [16384, -32768, 32767, 0]
    soundfile.write(path, [0.5, np.nan], 16000, subtype="FLOAT")
    with pytest.raises(CorpusError, match="no numbers"):
        data.read_clip(path)


def test_leftovers_of_a_killed_process_are_removed(folder, root):
    (root / "index" / ".making-killed").mkdir(parents=True)
    load(folder)
    assert list((root / "index").glob(".making-*")) == []


def test_a_name_without_nohash_is_a_speaker(root, tmp_path, write_wav):
    write_wav(tmp_path / "c" / "yes" / "anna.wav", NOISE)
    write_wav(tmp_path / "c" / "yes" / "ben_nohash_12.wav", NOISE)
    assert load(tmp_path / "c").speakers.tolist() == ["anna", "ben"]


def count_readings(monkeypatch):
    read, original = [], data.read_clip
    monkeypatch.setattr(data, "read_clip", lambda path: read.append(path) or original(path))
    return read


def test_index_is_reused_until_a_file_changes(folder, root, monkeypatch, write_wav):
    read, first = count_readings(monkeypatch), load(folder)
    assert len(read) == 6
    again = load(folder)
    assert len(read) == 6
    assert (again.digest, again.ids.tolist()) == (first.digest, first.ids.tolist())
    changed = write_wav(folder / "yes" / "ben_nohash_0.wav", -NOISE)
    os.utime(changed, ns=(1, 1))  # same size, another time
    found = load(folder)
    assert len(read) == 12
    assert found.digest != first.digest
    assert np.array_equal(found.clips[4], soundfile.read(changed, dtype="int16")[0])


@pytest.mark.parametrize("change", ["add", "remove", "rename"])
def test_index_follows_the_folder(folder, root, write_wav, change):
    before, clip = load(folder), folder / "yes" / "ben_nohash_0.wav"
    if change == "add":
        write_wav(folder / "yes" / "dora_nohash_0.wav", NOISE)
    elif change == "remove":
        clip.unlink()
    else:
        clip.rename(folder / "yes" / "ben_nohash_1.wav")
    after = load(folder)
    assert after.ids.tolist() != before.ids.tolist()
    assert after.digest != before.digest
    assert len(after.clips) == len(after)


def test_a_damaged_index_is_made_again(folder, root):
    first = load(folder)
    next(root.glob("index/*/index.json")).write_text('{"stamp": ')
    assert load(folder).digest == first.digest


def test_digest_depends_on_content_and_not_on_where_it_lies(folder, root, tmp_path, write_wav):
    first = load(folder)
    moved = Path(shutil.copytree(folder, tmp_path / "elsewhere" / "other"))
    assert load(moved).digest == first.digest
    write_wav(moved / data.BACKGROUND / "rain.wav", np.resize(NOISE, 20000))
    assert load(moved).digest != first.digest


def test_digest_is_the_same_for_wav_and_flac(folder, root, tmp_path):
    first = load(folder)
    for path in list(folder.glob("*/*.wav")):
        samples, rate = soundfile.read(path, dtype="int16")
        soundfile.write(path.with_suffix(".flac"), samples, rate)
        path.unlink()
    assert load(folder).digest == first.digest


def test_folders_of_one_name_have_an_index_each(folder, root, tmp_path, write_wav):
    write_wav(tmp_path / "other" / "small" / "yes" / "a_nohash_0.wav", NOISE)
    assert len(load(folder)) == 6
    assert len(load(tmp_path / "other" / "small")) == 1
    assert len(list((root / "index").iterdir())) == 2


# Downloads


@pytest.mark.parametrize("error", [URLError("no network"), RuntimeError("the hash does not match")])
def test_a_failed_download_leaves_nothing_and_says_so(root, monkeypatch, error):
    def broken(folder, url, download):
        (Path(folder) / f"{url}.tar.gz").write_bytes(b"half of it")
        raise error

    monkeypatch.setattr(torchaudio.datasets, "SPEECHCOMMANDS", broken)
    with pytest.raises(CorpusError) as caught:
        load("speech_commands_v0.02")
    assert_one_line(
        caught, "could not download speech_commands_v0.02", "nothing was kept", "network", "folder"
    )
    assert [path.name for path in root.iterdir() if path.name != ".lock"] == []


def test_a_download_becomes_a_corpus_and_is_kept(root, monkeypatch, folder):
    asked = []

    def served(place, url, download):
        asked.append(url)
        shutil.copytree(folder, Path(place) / "SpeechCommands" / url)
        (Path(place) / f"{url}.tar.gz").write_bytes(b"archive")

    monkeypatch.setattr(torchaudio.datasets, "SPEECHCOMMANDS", served)
    first, again = load("speech_commands_v0.01"), load("speech_commands_v0.01")
    assert asked == ["speech_commands_v0.01"]
    assert first.name == again.name == "speech_commands_v0.01"
    assert len(first) == 6
    assert sorted(p.name for p in (root / "speech_commands_v0.01").iterdir()) == ["no", "yes"]


def test_a_cut_off_wav_is_rejected(tmp_path, write_wav):
    """libsndfile reads it as a shorter clip without complaint; its header gives it away."""
    path = write_wav(tmp_path / "cat" / "a_nohash_0.wav", np.full(16000, 0.1))
    assert data.read_clip(path).shape == (16000,)
    path.write_bytes(path.read_bytes()[:16000])
    with pytest.raises(data.CorpusError, match="cut off"):
        data.read_clip(path)
