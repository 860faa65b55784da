import os
import shutil
import subprocess
import sys
import unicodedata
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock
from urllib.error import URLError

import numpy as np
import pytest
import soundfile
import torchaudio
from hypothesis import given
from hypothesis import strategies as st

from kwslib import audio, data, index, synth

NOISE = np.random.default_rng(0).normal(0, 0.1, 16000)


@pytest.fixture
def folder(tmp_path, write_wav):
    """A corpus of two words by three speakers."""
    for name in ("yes/anna", "yes/ben", "yes/carl", "no/anna", "no/ben", "no/carl"):
        write_wav(tmp_path / "small" / f"{name}_nohash_0.wav", NOISE)
    return tmp_path / "small"


def assert_refused(call, *parts):
    """The error is one line that holds all parts."""
    with pytest.raises(index.CorpusError) as caught:
        call()
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def test_official_part_of_known_speakers():
    """The first two are in the lists of Speech Commands v0.02, the last two next to the borders."""
    names = ("bb05582b", "a69b9b3e", "012c8314", "3bdf05d3", "3824c00e")
    parts = ["test", "validation", "train", "validation", "train"]
    assert [data.official_part(name) for name in names] == parts


@pytest.mark.parametrize("how", ["speaker", "folds"])
def test_every_speaker_is_tested_by_a_network_that_never_heard_it(corpus, how):
    folds = data.split(corpus, "sheila", how)
    assert len(folds) == (data.FOLDS if how == "folds" else 1)
    for number, (train, test) in enumerate(folds):
        assert sorted([*train, *test]) == list(range(len(corpus)))
        speakers = set(corpus.speakers[test])
        assert not set(corpus.speakers[train]) & speakers
        places = {data.fold_of(s) if how == "folds" else data.official_part(s) for s in speakers}
        assert places == {number if how == "folds" else "test"}
    if how == "folds":
        assert sorted(np.concatenate([fold.test for fold in folds])) == list(range(len(corpus)))


def test_utterance_split_is_80_to_20_shares_speakers_and_follows_the_seed(corpus):
    found = [data.split(corpus, "sheila", "utterance", seed)[0] for seed in (1, 1, 2)]
    train, test = found[0]
    assert (len(train), len(test)) == (96, 24) and sorted([*train, *test]) == list(range(120))
    assert set(corpus.speakers[train]) & set(corpus.speakers[test])
    assert np.array_equal(train, found[1].train) and not np.array_equal(train, found[2].train)


@given(st.sets(st.integers(0, 99).map(str), min_size=1), st.integers(1, 6))
def test_deal_makes_even_groups_whatever_the_order(speakers, groups):
    dealt = data.deal(speakers, groups)
    sizes = Counter(dealt.values())
    assert dealt == data.deal(sorted(speakers, reverse=True) * 2, groups)
    assert max(sizes.values()) - min(sizes[g] for g in range(groups)) <= 1


def test_unknown_splits_and_keywords_name_the_known_ones(corpus):
    assert_refused(lambda: data.split(corpus, "sheila", "word"), "'word'", "folds, utterance")
    assert_refused(lambda: data.split(corpus, "shiela"), "'shiela'", "cat, dog, go, sheila, stop")
    assert_refused(lambda: data.load("nowhere"), "nowhere", "embedded", "a folder's path")


def test_a_part_without_the_keyword_is_refused(folder, root, write_wav):
    write_wav(folder / "rare" / "rare_012c8314_nohash_0.wav", NOISE)  # a speaker of train
    found = data.load(folder)
    assert found.speakers[found.words == "rare"] == ["012c8314"]  # its word is no part of it
    assert_refused(lambda: data.split(found, "rare"), "the test part of small", "'rare'")


def test_names_without_speakers_are_counted_and_never_kept_apart(folder, root, capsys):
    (folder / "yes" / "anna_nohash_0.wav").rename(folder / "yes" / "001.wav")
    found = data.load(folder)
    assert "small: 1 of 6 names state no speaker" in capsys.readouterr().err
    for how in ("speaker", "folds"):
        assert_refused(lambda how=how: data.split(found, "yes", how), "1 of 6", "--split utterance")


@pytest.mark.parametrize("message", ["no room for 0.2 MB", "No space left"])
def test_a_full_disk_is_one_line_and_leaves_nothing(folder, root, monkeypatch, message):
    if message == "No space left":
        monkeypatch.setattr(index.np, "pad", Mock(side_effect=OSError(28, message)))
    else:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    assert_refused(lambda: data.load(folder), message, str(root), "KWS_DATA")
    assert not list(root.glob("index/*"))


def test_a_place_that_cannot_be_written_names_the_variable(folder, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(data, "ROOT", tmp_path / "file" / "data")
    assert_refused(lambda: data.load(folder), "KWS_DATA", str(tmp_path / "file"))


def test_a_killed_process_leaves_no_lock_and_what_it_left_is_removed(folder, root):
    (root / ".making-killed").mkdir(parents=True)
    hold = "import filelock; a = filelock.FileLock(sys.argv[1]); a.acquire(); print(1, flush=True)"
    other = start(f"{hold}; sys.stdin.read()", root / ".lock", root)
    other.stdout.readline()
    (root / ".maker").write_text(str(other.pid))
    waiting = start("from kwslib import data; data.load(sys.argv[1])", folder, root)
    assert f"waiting for process {other.pid}" in waiting.stderr.readline()
    other.kill()
    waiting.communicate(timeout=60)
    assert waiting.returncode == 0 and not (root / ".making-killed").exists()
    other.communicate()


def start(code, argument, root):
    command, pipe = [sys.executable, "-c", f"import sys; {code}", str(argument)], subprocess.PIPE
    environment = os.environ | {"KWS_DATA": str(root)}
    return subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment, text=True
    )


@pytest.mark.parametrize("error", [None, URLError("no network"), RuntimeError("a bad hash")])
def test_a_download_is_kept_if_it_is_whole(root, folder, monkeypatch, error):
    asked, name = [], "speech_commands_v0.01"

    def serve(place, url, download):
        asked.append(url)
        (Path(place) / f"{url}.tar.gz").write_bytes(b"archive")
        if error:
            raise error
        shutil.copytree(folder, Path(place) / "SpeechCommands" / url)

    monkeypatch.setattr(torchaudio.datasets, "SPEECHCOMMANDS", serve)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**11))
    if error:
        assert_refused(lambda: data.load(name), "no download", f"unpack {name}.tar.gz")
        assert {path.name for path in root.iterdir()} <= {".lock", ".maker"}
        return
    assert len(data.load(name)) == 6 and data.load(name).name == name and asked == [name]
    assert not list(root.rglob("*.tar.gz"))


def test_a_folder_that_is_there_wins_over_a_download(root, folder, monkeypatch, capsys):
    folder.rename(folder.with_name("speech_commands_v0.02"))
    monkeypatch.chdir(folder.parent)
    assert len(data.load("speech_commands_v0.02")) == 6
    assert "nothing is downloaded" in capsys.readouterr().err


def test_the_embedded_corpus_is_made_when_its_recipe_is_another(root, folder, monkeypatch):
    made, note = [], root / "embedded" / "recipe.json"

    def make(staging, **rules):
        made.append(rules)
        shutil.copytree(folder, staging, dirs_exist_ok=True)

    monkeypatch.setattr(synth, "make", make)
    first = data.load("embedded")
    for number, damage in enumerate(("", "null", "[4]", f"[{synth.VERSION}]"), 2):
        note.write_text(damage)
        assert data.load("embedded").digest == first.digest
        assert len(made) == min(number, 4) and note.read_text() == f"[{synth.VERSION}]"
    assert made[0] == {"fold_of": data.fold_of, "official_part": data.official_part}


def test_a_corpus_is_what_lies_in_its_folder(corpus, tiny_corpus):
    assert corpus.name == "tiny" and list(corpus.ids) == sorted(corpus.ids)
    assert isinstance(corpus.clips, np.memmap) and corpus.clips.dtype == np.int16
    for number in range(0, 120, 7):
        path = next(tiny_corpus.glob(f"{corpus.ids[number]}.*"))
        samples, _ = soundfile.read(path, dtype="int16")
        assert np.array_equal(corpus.clips[number], np.pad(samples, (0, 16000 - len(samples))))
    assert corpus.word_counts() == dict.fromkeys(["cat", "dog", "go", "sheila", "stop"], 24)
    assert corpus.labels("sheila").sum() == 24
    assert sorted(corpus.background) == ["fan", "rain"] and corpus.rejected == []
    rain = soundfile.read(tiny_corpus / index.BACKGROUND / "rain.wav", dtype="int16")[0]
    assert np.array_equal(corpus.background["rain"], rain)


def test_bad_recordings_are_rejected_with_the_reason_and_good_ones_kept(
    folder, root, write_wav, capsys
):
    (folder / "yes" / "empty_nohash_0.wav").write_bytes(b"")
    (folder / "yes" / "film_nohash_0.m4a").write_text("....ftyp This is no audio.\n" * 99)
    for suffix in ("flac", "ogg", "mp3", "aiff", "WAV"):  # the first of these is there already
        name = "anna" if suffix == "flac" else f"dora-{suffix}"
        soundfile.write(folder / "yes" / f"{name}_nohash_0.{suffix}", NOISE[:12000], 16000)
    write_wav(folder / "go" / "stereo_nohash_0.wav", np.stack([NOISE, NOISE], 1), 44100)
    write_wav(folder / index.BACKGROUND / "short.wav", NOISE)
    for name in ("notes.txt", "LICENSE", "._ben_nohash_0.wav"):
        (folder / "yes" / name).write_text("not a recording: not mentioned")
    corpus = data.load(folder)
    assert {Path(path).name.split("_")[0]: reason[:16] for path, reason in corpus.rejected} == {
        "empty": "not readable as ",
        "film": "not readable as ",
        "stereo": "2 channels, 44,1",
        "anna": "stands twice, in",
        "short.wav": "background recor",
    }
    assert "small: recordings rejected: 5 (2 of them: not readable" in capsys.readouterr().err
    assert len(corpus) == 10
    assert_refused(
        lambda: corpus.labels("go"), "recordings rejected: 1 (1 of them", "2 channels, 44,100 Hz"
    )


def test_names_are_compared_normalised(folder, root):
    word = unicodedata.normalize("NFD", "größe")
    (folder / "yes").rename(folder / word)
    for keyword in ("größe", word, " größe "):
        assert data.load(folder).labels(keyword).sum() == 3


@pytest.mark.parametrize("name", ["readme.txt", "a_nohash_0.wav"])
def test_a_folder_without_clips_is_refused(root, tmp_path, name):
    (tmp_path / "hollow" / "yes").mkdir(parents=True)
    (tmp_path / "hollow" / "yes" / name).write_text("no audio")
    assert_refused(lambda: data.load(tmp_path / "hollow"), "hollow: ", "WORD/SPEAKER_nohash_N.wav")
    assert not list((root / "index").glob("*"))


def test_index_is_reused_until_a_clip_changes(folder, root, monkeypatch, write_wav):
    read, original = [], audio.read_clip
    monkeypatch.setattr(audio, "read_clip", lambda *given: read.append(given) or original(*given))
    first, again = data.load(folder), data.load(folder)
    assert len(read) == 6 and again.digest == first.digest
    changed = write_wav(folder / "yes" / "ben_nohash_0.wav", -NOISE)
    os.utime(changed, ns=(1, 1))  # same size, another time
    found = data.load(folder)
    assert len(read) == 12 and found.digest != first.digest
    assert np.array_equal(found.clips[4], soundfile.read(changed, dtype="int16")[0])
    changed.rename(folder / "yes" / "ben_nohash_1.wav")
    assert data.load(folder).digest != found.digest


@pytest.mark.parametrize("name", ["index.json", "samples.int16"])
def test_a_damaged_index_is_made_again(folder, root, name):
    first = data.load(folder)
    path = next(root.glob(f"index/*/{name}"))
    whole = path.read_bytes()
    for content in (b"", b"null", b"[]", b'{"stamp": '):
        path.write_bytes(content)
        assert data.load(folder).digest == first.digest and path.read_bytes() == whole


def test_digest_depends_on_content_and_not_on_place_or_format(folder, root, tmp_path):
    first = data.load(folder)
    moved = Path(shutil.copytree(folder, tmp_path / "elsewhere" / "small"))
    for path in list(moved.glob("*/*.wav")):
        soundfile.write(path.with_suffix(".flac"), soundfile.read(path, dtype="int16")[0], 16000)
        path.unlink()
    assert data.load(moved).digest == first.digest
    assert len(list((root / "index").iterdir())) == 2  # folders of one name have an index each
