import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import torchaudio
from hypothesis import given
from hypothesis import strategies as st

from kwslib import data, index
from kwslib.data import CorpusError

SPEECH = Path(__file__).parents[2] / "shared" / "speech_commands"
NOISE = np.random.default_rng(0).normal(0, 0.1, 16000)


@pytest.fixture
def folder(tmp_path, write_wav):
    """A corpus of two words by three speakers."""
    for name in ("yes/anna", "yes/ben", "yes/carl", "no/anna", "no/ben", "no/carl"):
        write_wav(tmp_path / "small" / f"{name}_nohash_0.wav", NOISE)
    return tmp_path / "small"


def load(path):
    return data.load(path, progress=False)


def assert_refused(call, *parts):
    """The error is one line that holds all parts."""
    with pytest.raises(CorpusError) as caught:
        call()
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


# Folds


@pytest.mark.parametrize(
    "speaker, part",
    [
        ("bb05582b", "test"),  # from the lists of Speech Commands v0.02; train: in neither
        ("a69b9b3e", "validation"),
        ("012c8314", "train"),
        ("3bdf05d3", "validation"),  # next to the borders, at 9.91, 10.001, 19.999 and 20.18 %
        ("beb458a4", "test"),
        ("5f449e17", "test"),
        ("3824c00e", "train"),
    ],
)
def test_official_part_of_known_speakers(speaker, part):
    assert data.official_part(speaker) == part


def test_official_part_agrees_with_the_lists():
    if not SPEECH.is_dir():
        pytest.skip("Speech Commands lies beside the working checkout only, not in a clone")
    for part, name in (("validation", "validation_list"), ("test", "testing_list")):
        for path in SPEECH.glob(f"{name}*.txt"):
            speakers = {Path(line).stem.split("_nohash_")[0] for line in path.read_text().split()}
            assert {data.official_part(speaker) for speaker in speakers} == {part}


def test_speaker_split_tests_on_the_official_test_part_alone(corpus):
    ((train, test),) = data.split(corpus, "sheila", "speaker")
    assert sorted([*train, *test]) == list(range(len(corpus)))
    assert {data.official_part(speaker) for speaker in corpus.speakers[test]} == {"test"}
    assert len(set(corpus.speakers[train])) == 20 and len(set(corpus.speakers[test])) == 4


def test_folds_test_every_clip_once_on_speakers_that_training_lacks(corpus):
    folds = data.split(corpus, "sheila", "folds")
    assert len(folds) == data.FOLDS
    assert sorted(np.concatenate([fold.test for fold in folds])) == list(range(len(corpus)))
    for number, (train, test) in enumerate(folds):
        assert sorted([*train, *test]) == list(range(len(corpus)))
        assert not set(corpus.speakers[train]) & set(corpus.speakers[test])
        assert {data.fold_of(speaker) for speaker in corpus.speakers[test]} == {number}


def test_utterance_split_is_80_to_20_shares_speakers_and_follows_the_seed(corpus):
    ((train, test),), again, other = (
        data.split(corpus, "sheila", "utterance", s) for s in (1, 1, 2)
    )
    assert (len(train), len(test)) == (96, 24)
    assert sorted([*train, *test]) == list(range(120))
    assert set(corpus.speakers[train]) & set(corpus.speakers[test])
    assert np.array_equal(train, again[0].train)
    assert not np.array_equal(train, other[0].train)


@given(st.sets(st.integers(0, 99).map(str), min_size=1), st.integers(1, 6))
def test_deal_makes_even_groups_whatever_the_order(speakers, groups):
    dealt = data.deal(speakers, groups)
    sizes = Counter(dealt.values())
    assert dealt == data.deal(sorted(speakers, reverse=True) * 2, groups)
    assert max(sizes.values()) - min(sizes[g] for g in range(groups)) <= 1


def test_unknown_splits_and_keywords_name_the_known_ones(corpus):
    assert_refused(lambda: data.split(corpus, "sheila", "word"), "'word'", "folds, utterance")
    assert_refused(lambda: data.split(corpus, "shiela"), "'shiela'", "cat, dog, go, sheila, stop")
    assert_refused(lambda: load("nowhere"), "nowhere", "embedded", "a folder's path")


def test_a_part_without_the_keyword_is_refused(folder, root, write_wav):
    write_wav(folder / "rare" / "rare_012c8314_nohash_0.wav", NOISE)  # a speaker of train
    found = load(folder)
    assert found.speakers[found.words == "rare"] == ["012c8314"]  # its word is no part of it
    assert_refused(lambda: data.split(found, "rare"), "the test part of small", "'rare'")


def test_names_without_speakers_are_counted_and_never_kept_apart(tmp_path, root, write_wav, capsys):
    for word in ("yes", "no"):
        for number in range(10):
            write_wav(tmp_path / "numbered" / word / f"{number:03d}.wav", NOISE)
    found = data.load(tmp_path / "numbered")
    assert found.without_speaker == 20
    assert "20 of 20 names state no speaker" in capsys.readouterr().err
    for how in ("speaker", "folds"):
        assert_refused(lambda: data.split(found, "yes", how), "20 of 20", "--split utterance")  # noqa: B023
    assert len(data.split(found, "yes", "utterance")) == 1


# The data folder


@pytest.mark.parametrize("when", ["before", "while it is written"])
def test_a_full_disk_is_one_line_with_the_place_and_leaves_nothing(folder, root, monkeypatch, when):
    def fill(*given):
        raise OSError(28, "No space left on device")

    if when == "before":
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    else:
        monkeypatch.setattr(index.np, "pad", fill)
    message = "no room for 0.2 MB" if when == "before" else "No space left"
    assert_refused(lambda: load(folder), message, str(root), "KWS_DATA")
    assert not list(root.glob("index/*"))


def test_a_place_that_cannot_be_written_names_the_variable(folder, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(data, "ROOT", tmp_path / "file" / "data")
    assert_refused(lambda: load(folder), "KWS_DATA", str(tmp_path / "file"))


def test_leftovers_of_a_killed_process_are_removed(folder, root):
    for place in (root / "index" / ".making-killed", root / ".making-killed"):
        place.mkdir(parents=True)
    load(folder)
    assert not list(root.glob(".making-*")) and not list(root.glob("index/.making-*"))


def test_who_waits_for_another_process_says_for_whom(folder, root):
    load(folder)
    hold = "import filelock; a = filelock.FileLock(sys.argv[1]); a.acquire(); print(1, flush=True)"
    other = start(f"{hold}; sys.stdin.read()", root / ".lock", root)
    other.stdout.readline()
    (root / ".maker").write_text(str(other.pid))
    waiting = start("from kwslib import data; data.load(sys.argv[1])", folder, root)
    assert f"waiting for process {other.pid}" in waiting.stderr.readline()
    other.kill()  # and its lock is gone
    waiting.communicate(timeout=60)
    assert waiting.returncode == 0
    other.communicate()


def start(code, argument, root):
    command, pipe = [sys.executable, "-c", f"import sys; {code}", str(argument)], subprocess.PIPE
    environment = os.environ | {"KWS_DATA": str(root)}
    return subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment, text=True
    )


# Corpora by name


@pytest.mark.parametrize("error", [URLError("no network"), RuntimeError("the hash does not match")])
def test_a_failed_download_leaves_nothing_and_says_so(root, monkeypatch, error):
    def broken(folder, url, download):
        (Path(folder) / f"{url}.tar.gz").write_bytes(b"half of it")
        raise error

    monkeypatch.setattr(torchaudio.datasets, "SPEECHCOMMANDS", broken)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**11))
    name = "speech_commands_v0.02"
    assert_refused(lambda: load(name), f"could not download {name}", "nothing was kept", "unpack")
    assert {path.name for path in root.iterdir()} <= {".lock", ".maker"}


def test_a_download_becomes_a_corpus_and_is_kept(root, monkeypatch, folder):
    asked = []

    def served(place, url, download):
        asked.append(url)
        shutil.copytree(folder, Path(place) / "SpeechCommands" / url)
        (Path(place) / f"{url}.tar.gz").write_bytes(b"archive")

    monkeypatch.setattr(torchaudio.datasets, "SPEECHCOMMANDS", served)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**11))
    first, again = load("speech_commands_v0.01"), load("speech_commands_v0.01")
    assert asked == ["speech_commands_v0.01"]
    assert first.name == again.name == "speech_commands_v0.01" and len(first) == 6
    assert not list(root.rglob("*.tar.gz"))


def test_a_folder_that_is_there_wins_over_a_download(root, folder, monkeypatch, capsys):
    folder.rename(folder.with_name("speech_commands_v0.02"))
    monkeypatch.chdir(folder.parent)
    assert len(data.load("speech_commands_v0.02")) == 6
    assert "nothing is downloaded" in capsys.readouterr().err


@pytest.mark.parametrize("damage", [b"", b"null", b"[", None])
def test_the_embedded_corpus_is_made_when_its_recipe_is_another(root, folder, monkeypatch, damage):
    made = []

    def make(staging, *rules, progress):
        made.append(rules)
        shutil.copytree(folder, staging, dirs_exist_ok=True)

    monkeypatch.setattr(data.synth, "make", make)
    monkeypatch.setattr(data.synth, "SIZE_BYTES", 0)
    first = load("embedded")
    if damage is not None:
        (root / "embedded" / "recipe.json").write_bytes(damage)
    assert load("embedded").digest == first.digest
    assert made == [(data.fold_of, data.official_part)] * (1 if damage is None else 2)
    assert json.loads((root / "embedded" / "recipe.json").read_text()) == data.synth.recipe()
