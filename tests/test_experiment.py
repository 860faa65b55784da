"""A smoke run of five folds on the tiny corpus: baseline and student 3, trained and measured."""

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest

from kwslib import cost, experiment, files, metrics, runs, talk, training
from kwslib.architecture import Setting

BASELINE, STUDENT, FOLDS = Setting("baseline"), Setting("student3"), range(5)


@pytest.fixture(scope="module")
def house(tiny_corpus, tmp_path_factory, write_wav):
    """A corpus with talk beside it, every sample of another value: it tells where it comes from."""
    folder = tmp_path_factory.mktemp("house")
    shutil.copytree(tiny_corpus, folder / "tiny")
    values = np.arange(-30000, 30000, dtype=np.int16)
    for name, speakers in (("talk", 3), ("talk of 7", 7), ("continuous_speech", 2)):
        for number, samples in enumerate(np.array_split(values, speakers)):
            write_wav(folder / name / f"speaker{number}" / "1.wav", samples)
    return folder


@pytest.fixture(scope="module")
def open_run(house, data_root):
    """Opens a smoke run on the house's corpus. espeak-ng, which takes seconds, reads nothing."""

    def open_run(folder, corpus=house / "tiny", keyword="sheila", of_talk=None, split="folds"):
        opened = experiment.open(str(corpus), keyword, of_talk, "smoke", split, 0, str(folder))
        opened.read = talk.Talk({"espeak": np.zeros(16000, np.int16)}, "digest")
        return opened

    return open_run


@pytest.fixture(scope="module")
def e(open_run, house):
    opened = open_run(house / "run")
    for setting in (BASELINE, STUDENT):
        opened.train(setting)
        opened.measure(setting)
    return opened


@pytest.fixture
def moved(e, house, open_run, tmp_path):
    """The run, its corpus and talk as copies elsewhere."""
    shutil.copytree(e.run.folder, tmp_path / "run")
    shutil.copytree(house, tmp_path / "house", ignore=shutil.ignore_patterns("run"))
    return open_run(tmp_path / "run", tmp_path / "house" / "tiny")


def test_every_clip_is_scored_once_by_a_network_that_never_heard_its_speaker(e):
    scores = e.scores(BASELINE)
    assert np.array_equal(scores["ids"], e.corpus.ids) and len(set(scores["ids"])) == 120
    for fold, (train, test) in enumerate(e.folds):
        assert np.array_equal(np.flatnonzero(scores["folds"] == fold), test)
        assert not set(e.corpus.speakers[test]) & set(e.corpus.speakers[train])
        networks = e.load(BASELINE, fold), e.load(BASELINE, (fold + 1) % 5)
        own, other = (training.probabilities(network, e.pool, test) for network in networks)
        np.testing.assert_allclose(scores["probabilities"][test], own, atol=1e-6)
        assert np.abs(own - other).max() > 1e-4  # the control


def test_a_metrics_file_holds_quality_cost_and_ratios(e):
    found = json.loads((e.run.folder / "metrics" / "student3.json").read_text())
    arrays = (*(e.scores(STUDENT)[n] for n in ("labels", "probabilities")), e.corpus.speakers)
    assert [found[n] for n in ("schema", "setting")] == [2, "student3"]
    quality, versus = metrics.quality(*arrays), found["versus_baseline"]
    assert [quality[n] for n in ("clips", "positives", "speakers")] == [120, 24, 24]
    assert found["quality"] == json.loads(json.dumps(quality))
    own, base = (cost.of_checkpoint(e.run.checkpoint(s)) for s in (STUDENT, BASELINE))
    for name in ("file_bytes", "parameter_bytes", "network_macs", "path_macs"):
        assert versus[name] == base[name] / own[name] > 1
    compared = e.compare(STUDENT, BASELINE)
    assert {name: tuple(versus[name]) for name in compared} == compared
    assert versus["verdict"] == metrics.verdict(compared["missed"]) and found["cost"] == own
    recorded = e.inputs(STUDENT, 0) | {"recipe_version": training.version_of(STUDENT)}
    assert found["provenance"].items() >= recorded.items()


def test_a_comparison_is_paired(e, moved):
    """Nearly equal scores: the interval is far narrower than that of either network's errors."""
    scores = e.scores(BASELINE)
    noise = np.random.default_rng(0).normal(0, scores["probabilities"].std() / 100, 120)
    scores["probabilities"] = np.clip(scores["probabilities"] + noise, 0, 1)
    moved.run.write_scores(STUDENT, **scores)
    ratio = moved.compare(STUDENT, BASELINE)["one_minus_auc"]
    _, low, high = e.run.metrics(BASELINE)["quality"]["one_minus_auc"]
    assert ratio.value == pytest.approx(1, abs=0.1)
    assert 0 < ratio.high - ratio.low < 0.3 * (high / low - 1)


def test_evaluating_a_checkpoint_on_its_own_fold_gives_the_run_s_figures(e, house):
    path, corpus, test = e.run.checkpoint(STUDENT, 2), str(house / "tiny"), e.folds[2].test
    arrays = e.labels[test], e.scores(STUDENT)["probabilities"][test], e.corpus.speakers[test]
    found = experiment.evaluate(path, corpus, "sheila", "folds", 0, 2)
    assert found == metrics.quality(*arrays)


INPUTS = {
    "seed": lambda e: setattr(e, "parameters", replace(e.parameters, seed=1)),
    "corpus": lambda e: setattr(e, "corpus", replace(e.corpus, digest="another")),
    "recipe": lambda e: training.RECIPE_VERSIONS.update(clips=99),
}
DAMAGE = {
    "cut off": lambda e: os.truncate(e.run.checkpoint(STUDENT), 5000),
    "no network": lambda e: files.set_metadata(e.run.checkpoint(STUDENT), architecture="{}"),
    "swapped": lambda e: shutil.copy(e.run.checkpoint(STUDENT, 1), e.run.checkpoint(STUDENT)),
    "no epochs": lambda e: e.run.path("history", STUDENT, "csv").write_text("epoch\n"),
}


@pytest.mark.parametrize("change", [*INPUTS, *DAMAGE])
def test_what_was_changed_or_damaged_is_trained_anew(moved, e, change, monkeypatch):
    """The control: a run that was moved, with corpus and talk, trains nothing anew."""
    monkeypatch.setattr(training, "RECIPE_VERSIONS", {"clips": 1, "stream": 99})
    assert not any(moved.train_fold(STUDENT, fold) for fold in FOLDS)
    (INPUTS | DAMAGE)[change](moved)
    assert not moved.is_trained(STUDENT, 0)
    assert moved.is_trained(STUDENT, 1) == (change in DAMAGE)
    assert moved.train_fold(STUDENT, 0) and moved.is_trained(STUDENT, 0)
    same = moved.run.checkpoint(STUDENT).read_bytes() == e.run.checkpoint(STUDENT).read_bytes()
    assert same == (change in DAMAGE)


@pytest.mark.parametrize("of_talk", [None, "talk of 7"])
def test_groups_of_talk_never_overlap(open_run, house, tmp_path, of_talk):
    """To train, to choose, to judge. Three speakers are cut in fifths, seven are dealt."""
    opened = open_run(tmp_path / "run", of_talk=of_talk and str(house / of_talk))
    settings = STUDENT, Setting("student3", "stream")
    assert ["talk" in opened.inputs(setting, 0) for setting in settings] == [False, True]
    assert [len(group) for group in opened.talk_groups] == ([2, 2, 1, 1, 1] if of_talk else [3] * 5)
    groups = [np.concatenate(list(group.values())) for group in opened.talk_groups]
    for fold in FOLDS:
        *heard, of_espeak = opened.material(fold, "train").talk
        assert not of_espeak.any()  # nobody is judged on that
        parts = [np.concatenate(heard), groups[(fold + 1) % 5], groups[fold]]
        assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(-30000, 30000))
        assert of_talk or len(parts[1]) == pytest.approx(12000, abs=3)


@pytest.mark.parametrize("wrong", [{"keyword": "zebra"}, {"of_talk": "nowhere"}, {"split": "odd"}])
def test_wrong_inputs_are_found_before_anything_trains(open_run, tmp_path, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong.values()))) as raised:
        open_run(tmp_path / "run", **wrong).check_talk()
    assert "\n" not in str(raised.value)


def test_what_is_shown_is_of_this_run(e, monkeypatch):
    words = e.corpus.words[e.examples(3)]
    assert (words[:3] == "sheila").all() and not (words[3:] == "sheila").any()
    assert e.log_mels(e.examples(3)).shape == (6, 40, 101)
    assert len(e.speech.speakers) == 2  # found beside the corpus
    assert e.run.history(BASELINE)["fold"].tolist() == [fold for fold in FOLDS for _ in range(2)]
    monkeypatch.setattr(e, "parameters", replace(e.parameters, keyword="<img src=x>"))
    assert "<img" not in e.about() and "&lt;img" in e.about()
    assert e.about().startswith("> **Profile smoke")  # what to know first


def test_an_int8_setting_is_made_and_measured_in_every_fold_by_its_float_s_recipe(e):
    setting = Setting("student3", "int8-static")
    e.quantize(setting)
    e.measure(setting)
    held = [files.read_checkpoint(e.run.checkpoint(setting, fold))[1] for fold in FOLDS]
    assert [json.loads(each["inputs"])["fold"] for each in held] == list(FOLDS)
    listening = (Setting("student3", variant) for variant in ("stream", "stream-int8-static"))
    assert {training.version_of(each) for each in listening} == {training.RECIPE_VERSIONS["stream"]}
    apart = np.abs(e.scores(setting)["probabilities"] - e.scores(STUDENT)["probabilities"])
    assert 0 < apart.max() < 0.1


def test_what_is_missing_or_of_other_clips_is_one_line(open_run, moved, tmp_path):
    with pytest.raises(
        files.FileError, match=r"baseline\.safetensors is missing: run `kws report`"
    ):
        open_run(tmp_path / "new").train_fold(STUDENT, 0)
    scores = moved.scores(BASELINE)
    moved.run.write_scores(BASELINE, **{name: values[1:] for name, values in scores.items()})
    with pytest.raises(files.FileError, match="other clips"):
        moved.compare(STUDENT, BASELINE)
    moved.run.write(corpus_digest="another")
    with pytest.raises(runs.ParameterError, match="a clip changed"):
        open_run(tmp_path / "run", moved.corpus.root)
