"""A smoke run of five folds on the tiny corpus: baseline and student 3, trained and measured."""

import copy
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from kwslib import cost, experiment, files, metrics, quantization, runs, talk, training
from kwslib.architecture import Setting

BASELINE, STUDENT = Setting("baseline"), Setting("student3")


@pytest.fixture(scope="module")
def house(tiny_corpus, tmp_path_factory):
    """A corpus with talk of three speakers, and continuous speech, beside it. Every sample of talk
    has another value, so that it tells where it comes from."""
    import soundfile

    folder = tmp_path_factory.mktemp("house")
    shutil.copytree(tiny_corpus, folder / "tiny")
    values = np.arange(-30000, 30000, dtype=np.int16)
    for name, speakers in (("talk", 3), ("talk of 7", 7), ("continuous_speech", 2)):
        for number, samples in enumerate(np.array_split(values, speakers)):
            path = folder / name / f"speaker{number}" / "1.wav"
            path.parent.mkdir(parents=True)
            soundfile.write(path, samples, 16000, subtype="PCM_16")
    return folder


@pytest.fixture(scope="module")
def open_run(house, data_root):
    """Opens a smoke run on the house's corpus. espeak-ng's talk is left out: it takes seconds."""
    of_espeak = talk.Talk({"espeak": np.zeros(16000, np.int16)}, [], 0, "digest")

    def open_run(run, corpus=house / "tiny", keyword="sheila", of_talk=None, split="folds", seed=0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(talk, "espeak", lambda *_: of_espeak)
            return experiment.open(str(corpus), keyword, of_talk, "smoke", split, seed, str(run))

    return open_run


@pytest.fixture(scope="module")
def e(open_run, house):
    opened = open_run(house / "run")
    for setting in (BASELINE, STUDENT):
        opened.train(setting)
        opened.measure(setting)
    return opened


def test_every_clip_is_scored_once_by_a_network_that_never_heard_its_speaker(e):
    scores = e.scores(BASELINE)
    assert np.array_equal(scores["ids"], e.corpus.ids) and len(set(scores["ids"])) == 120
    for fold, (train, test) in enumerate(e.folds):
        mine = np.flatnonzero(scores["folds"] == fold)
        assert mine.tolist() == test.tolist() and len(mine)
        assert not set(e.corpus.speakers[mine]) & set(e.corpus.speakers[train])
        own, other = (
            training.probabilities(e.load(BASELINE, n), e.pool, mine)
            for n in (fold, (fold + 1) % 5)
        )
        np.testing.assert_allclose(scores["probabilities"][mine], own, atol=1e-6)
        assert np.abs(own - other).max() > 1e-4  # the control: networks differ


def test_a_metrics_file_holds_quality_cost_and_ratios(e):
    found = json.loads((e.run.folder / "metrics" / "student3.json").read_text())
    scores = e.scores(STUDENT)
    arrays = scores["labels"], scores["probabilities"], e.corpus.speakers
    assert [found[name] for name in ("schema", "setting", "network", "variant")] == [
        2, "student3", "student3", "",
    ]  # fmt: skip
    quality = found["quality"]
    assert [quality[n] for n in ("clips", "positives", "speakers")] == [120, 24, 24]
    assert quality["missed"] == list(metrics.estimate(metrics.missed, *arrays))
    assert quality["one_minus_auc"] == list(metrics.estimate(metrics.one_minus_auc, *arrays))
    assert quality["au_fa_fr"] == metrics.au_fa_fr(*arrays[:2])
    own, base = (cost.of_checkpoint(e.run.checkpoint(s)) for s in (STUDENT, BASELINE))
    assert found["cost"] == own
    versus = found["versus_baseline"]
    for name in ("file_bytes", "parameter_bytes", "network_macs", "path_macs"):
        assert versus[name] == base[name] / own[name] > 1
    assert versus["missed"] == list(e.compare(STUDENT, BASELINE)["missed"])
    assert versus["verdict"] in ("better", "worse", "cannot tell")
    stated = {"corpus": e.corpus.digest, "keyword": "sheila", "profile": "smoke", "split": "folds"}
    assert found["provenance"].items() >= stated.items()
    assert found["provenance"]["recipe_version"] == training.RECIPE_VERSION
    assert e.run.metrics(BASELINE)["versus_baseline"]["missed"] == [1.0, None, None]


def test_a_comparison_is_paired(e):
    """Two networks of nearly the same scores: the interval of their ratio is far narrower than
    errors of two independent ones allow."""
    scores = e.scores(BASELINE)
    nearly = np.clip(scores["probabilities"] + np.random.default_rng(0).normal(0, 1e-6, 120), 0, 1)
    folder, student2 = e.run.folder, Setting("student2")
    e.run.write_scores(student2, scores["ids"], scores["labels"], scores["folds"], nearly)
    found = e.compare(student2, BASELINE)["one_minus_auc"]
    alone = metrics.estimate(metrics.one_minus_auc, scores["labels"], nearly, e.corpus.speakers)
    assert found.value == pytest.approx(1, abs=0.01)
    assert (
        found.low is None or found.high - found.low < 0.1 * (alone.high - alone.low) / alone.value
    )
    (folder / "scores" / "student2.npz").unlink()


def test_evaluating_a_checkpoint_on_its_own_fold_gives_the_run_s_figures(e, house):
    scores, fold = e.scores(STUDENT), 2
    mine = scores["folds"] == fold
    path, corpus = e.run.checkpoint(STUDENT, fold), str(house / "tiny")
    found = experiment.evaluate(path, corpus, "sheila", "folds", 0, fold)
    labels, own = scores["labels"][mine], scores["probabilities"][mine]
    assert found["one_minus_auc"] == metrics.estimate(
        metrics.one_minus_auc, labels, own, e.corpus.speakers[mine]
    )
    assert found["missed"].value == metrics.missed(labels, own) and found["clips"] == mine.sum()
    assert experiment.evaluate(path, corpus, "sheila", "all", 0, 0)["clips"] == 120
    with pytest.raises(runs.ParameterError, match="fold is 5"):
        experiment.evaluate(path, corpus, "sheila", "folds", 0, 5)


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-100])


def next_version(e, patch):
    patch.setattr(training, "RECIPE_VERSION", training.RECIPE_VERSION + 1)


CHANGES = {
    "seed": lambda e, _: setattr(e, "parameters", replace(e.parameters, seed=1)),
    "corpus": lambda e, _: setattr(e, "corpus", replace(e.corpus, digest="another")),
    "recipe version": next_version,
    "cut off": lambda e, _: cut_off(e.run.checkpoint(STUDENT)),
    "empty": lambda e, _: e.run.checkpoint(STUDENT).write_bytes(b""),
    "swapped": lambda e, _: shutil.copy(e.run.checkpoint(STUDENT, 1), e.run.checkpoint(STUDENT)),
    "no history": lambda e, _: e.run.needed("history", STUDENT, "csv").unlink(),
    "no epochs": lambda e, _: e.run.needed("history", STUDENT, "csv").write_text("epoch\n"),
}


@pytest.fixture
def moved(e, open_run, tmp_path):
    """The run and its corpus as copies elsewhere."""
    shutil.copytree(e.run.folder, tmp_path / "moved")
    shutil.copytree(e.corpus.root, tmp_path / "elsewhere" / "tiny")
    shutil.copytree(e.corpus.root.parent / "talk", tmp_path / "elsewhere" / "talk")
    return open_run(tmp_path / "moved", tmp_path / "elsewhere" / "tiny")


def test_a_run_that_was_moved_trains_nothing_anew(moved):
    before = moved.run.checkpoint(STUDENT).stat().st_mtime_ns
    assert not any(moved.train_fold(STUDENT, fold) for fold in range(5))
    assert moved.run.checkpoint(STUDENT).stat().st_mtime_ns == before


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_changed_or_damaged_is_trained_anew(moved, e, change, monkeypatch):
    CHANGES[change](moved, monkeypatch)
    assert not moved.is_trained(STUDENT, 0)
    assert moved.is_trained(STUDENT, 1) == (change not in ("seed", "corpus", "recipe version"))
    assert moved.train_fold(STUDENT, 0) and moved.is_trained(STUDENT, 0)
    is_same = moved.run.checkpoint(STUDENT).read_bytes() == e.run.checkpoint(STUDENT).read_bytes()
    assert is_same == (change not in ("seed", "corpus", "recipe version"))


def test_talk_counts_as_an_input_of_networks_that_listen_alone(e):
    other = copy.copy(e)
    other.talk = replace(e.talk, digest="another")
    for setting in (STUDENT, Setting("student3", "stream")):
        assert (other.inputs(setting, 0) == e.inputs(setting, 0)) == (not setting.is_stream)


def test_a_student_needs_its_teacher(open_run, tmp_path):
    with pytest.raises(runs.MissingStageError, match="baseline"):
        open_run(tmp_path / "run").train_fold(STUDENT, 0)


# Talk


@pytest.mark.parametrize("of_talk", [None, "talk of 7"])
def test_groups_of_talk_never_overlap(open_run, house, tmp_path, of_talk):
    """Three speakers are cut in fifths, seven are dealt; to train, to choose, to judge."""
    opened = open_run(tmp_path / "run", of_talk=of_talk and str(house / of_talk))
    groups = [np.concatenate(list(group.values())) for group in opened.talk_groups]
    assert sorted(np.concatenate(groups).tolist()) == list(range(-30000, 30000))
    if not of_talk:
        assert [len(group) for group in opened.talk_groups] == [3] * 5
        assert max(map(len, groups)) - min(map(len, groups)) <= 3
    for fold in range(5):
        *heard, of_espeak = opened.material(fold, "train").talk
        assert not of_espeak.any()
        judged, chosen = groups[fold], groups[(fold + 1) % 5]
        train = np.concatenate(heard)
        assert len({*train.tolist(), *judged.tolist(), *chosen.tolist()}) == 60000
        assert len(train) + len(judged) + len(chosen) == 60000


def test_talk_and_continuous_speech_are_found_beside_the_corpus(e):
    assert (e.talk_kind, len(e.talk.speakers), len(e.speech.speakers)) == ("recorded", 3, 2)


@pytest.mark.parametrize(
    "wrong", [{"keyword": "zebra"}, {"of_talk": "nowhere"}, {"split": "thirds"}]
)
def test_wrong_inputs_are_found_before_anything_trains(open_run, tmp_path, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong.values()))) as raised:
        open_run(tmp_path / "run", **wrong)
    assert "\n" not in str(raised.value) and not (tmp_path / "run").exists()


# What is shown


def test_tables_and_examples_are_of_this_run(e):
    table = e.part_table()
    assert table["test clips"].sum() == 120 and table["test keywords"].sum() == 24
    assert (table["train clips"] + table["test clips"] == 120).all()
    assert (table["speakers in both"] == 0).all() and table.index.name == "fold"
    words = e.corpus.words[e.examples(3)]
    assert words[:3].tolist() == ["sheila"] * 3 and len(set(words[3:])) == 3
    assert e.log_mels(e.examples(3)).shape == (6, 40, 101)
    history = e.run.history(BASELINE)
    assert history["fold"].tolist() == [n for n in range(5) for _ in range(2)]


def test_names_are_escaped_and_caveats_come_first(e):
    other = copy.copy(e)
    other.parameters = replace(e.parameters, keyword="<img src=x>")
    assert "<img" not in other.about() and "&lt;img" in other.about()
    assert other.about().startswith("> **Profile smoke")
    assert "120 clips once each" in other.about()


def test_the_hardest_clips_are_the_worst_scored_of_their_class(e):
    scores, labels = e.scores(STUDENT)["probabilities"], e.labels
    for label, worst in ((1, scores[labels == 1].min()), (0, scores[labels == 0].max())):
        clips, captions = e.hardest(STUDENT, label, 4)
        assert (labels[clips] == label).all() and scores[clips[0]] == worst
        assert captions[0] == f"{e.corpus.ids[clips[0]]}: {worst:.3f}" and len(captions) == 4


def test_an_int8_setting_is_made_and_measured_in_every_fold(e):
    setting = Setting("student3", "int8-static")
    e.quantize(setting)
    found = e.measure(setting)
    for fold in range(5):
        path = e.run.checkpoint(setting, fold)
        assert files.read_checkpoint(path)[1]["setting"] == "student3-int8-static"
        one, other = (quantization.load(path)(e.pool.log_mels(np.arange(4))) for _ in range(2))
        assert (one == other).all()
    assert found["versus_baseline"]["file_bytes"] > 4
    apart = np.abs(e.scores(setting)["probabilities"] - e.scores(STUDENT)["probabilities"])
    assert 0 < apart.max() < 0.1


def test_scores_of_other_clips_are_refused(e, moved):
    scores = e.scores(BASELINE)
    moved.run.write_scores(BASELINE, *(scores[name][1:] for name in scores))
    with pytest.raises(runs.MissingStageError, match="other clips"):
        moved.compare(STUDENT, BASELINE)
