"""Judging untrained networks on the tiny corpus, and its arithmetic on scripted probabilities."""

import json

import numpy as np
import pytest
from pytest import approx

from kwslib import experiment, judging, models, streaming, talk
from kwslib.architecture import Setting
from kwslib.events import Detector
from kwslib.tracks import Track

BASELINE, STREAM = Setting("baseline"), Setting("student3", "stream")


@pytest.fixture(scope="module")
def e(tiny_corpus, data_root, tmp_path_factory):
    """A smoke run of five folds whose networks are untrained, with talk of five speakers."""
    noise = np.random.default_rng(0).normal(0, 2000, (5, 16000 * 7)).astype(np.int16)
    folder = str(tmp_path_factory.mktemp("judging") / "run")
    opened = experiment.open(str(tiny_corpus), "sheila", None, "smoke", "folds", 0, folder)
    opened.read = talk.Talk(dict(zip("abcde", noise, strict=True)), "digest")
    opened.speech = talk.Talk({"x": noise[0, :16000], "y": noise[1, :16000]}, "digest")
    for setting in (BASELINE, STREAM):
        for fold in range(5):
            network = models.build(STREAM.architecture, fold).eval()
            network.classifier.weight.data *= 30
            models.save(opened.run.checkpoint(setting, fold), network)
        opened.measure(setting)
    return opened


class Scripted:
    """A stream whose probability is what the samples say, a step every 80 ms: 1000 is 1."""

    def __init__(self, path=None):
        self.heard = []

    def score(self, samples, chunk=1280):
        self.heard.append(samples)
        probabilities = np.clip(samples[::1280] / 1000, 0, 1)
        return np.stack([0.08 * np.arange(len(probabilities)), probabilities], axis=1)


def script(seconds, at_s, level=900, words=()):
    """A track of so many seconds on which the probability is up for 0.24 s from each of `at_s`."""
    steps = np.zeros(round(seconds / 0.08), np.int16)
    for begin in at_s:
        steps[round(begin / 0.08) : round(begin / 0.08) + 3] = level
    return Track(np.repeat(steps, 1280), np.reshape(words, (-1, 2)))


@pytest.fixture
def scripted(e, monkeypatch):
    """Judges what is scripted, the same in every fold, by a detector of threshold 0.5."""

    def judge(audio, setting=STREAM):
        monkeypatch.setattr(judging, "choose", lambda *_: [Detector(0.5, 1)] * 5)
        monkeypatch.setattr(judging, "audio", lambda *_: audio)
        monkeypatch.setattr(judging.Stream, "load", Scripted)
        return judging.judge(e, setting)

    return judge


def test_false_accepts_and_misses_by_hand(scripted):
    """In each of five folds one false accept in 36 s of talk and two in 72 s of speech; of three
    words one is missed, two are found, one of them twice."""
    free = {"talk": script(36, [8]), "continuous speech": script(72, [8, 40])}
    words = [[10, 10.6], [20, 20.6], [30, 30.6]]
    spoken = script(40, [20.4, 30.4, 31.6], words=words)
    found = scripted(free | {"words": script(36, []), "between words": spoken})
    counts = {kind: row["count"] for kind, row in found["false_accepts"].items()}
    assert counts == {"talk": 5, "continuous speech": 10, "words": 0, "read speech": 15}
    rates = found["false_accepts"]["read speech"], found["false_accepts"]["words"]
    assert [rates[0][n] for n in ("hours", "per_hour")] == approx([0.15, 100])
    assert [rates[1][n] for n in ("low", "high")] == approx([0, 3.689 / 0.05], rel=1e-3)
    missed = found["missed"]["between words"]
    assert [missed[n] for n in ("count", "words", "share")] == approx([5, 15, 1 / 3])
    assert missed["low"] < 1 / 3 < missed["high"]


def test_a_curve_has_one_threshold_for_all_folds(scripted):
    """Words at 0.9, a false accept at 0.7: between the two nothing is wrong."""
    spoken = script(40, [10.4, 20.4], words=[[10, 10.6], [20, 20.6]])
    found = scripted({"talk": script(36, [8], level=700), "between words": spoken})
    threshold, missed, accepts = map(np.array, found["curve"].values())
    assert np.array_equal(missed == 0, threshold <= 0.9)
    assert np.array_equal(accepts == 0, threshold > 0.7)


def test_talk_too_short_for_keywords_is_no_row_and_networks_of_clips_get_no_detector(e, scripted):
    spoken = {"between words": script(20, [10], words=[[10, 10.6]]), "over": script(2, [])}
    found = scripted({"talk": script(2, [])} | spoken, BASELINE)
    assert set(found["missed"]) == {"between words"}
    assert streaming.ready(e.run.checkpoint(BASELINE))[1] == Detector()


def test_detectors_are_chosen_on_talk_that_the_fold_is_not_judged_on(e, monkeypatch):
    """Group n says n + 1 tenths all the time: a threshold is just over the highest that counts."""
    groups = [{"s": np.full(16000 * 7, 100 * (n + 1), np.int16)} for n in range(5)]
    monkeypatch.setitem(e.__dict__, "talk_groups", groups)
    streams = [Scripted() for _ in range(5)]
    detectors = judging.choose(e, streams)
    for fold, stream in enumerate(streams):
        said, words = stream.heard
        assert said is groups[(fold + 1) % 5]["s"]  # so another fold is judged on it
        assert not any(said is other for other in e.material(fold, "train").talk)
        highest = 0.5 if fold != 4 else 0.4  # its own group, the last, is left out
        assert highest < detectors[fold].threshold < highest + 1e-9
        train = {e.corpus.clips[n].tobytes() for n in e.folds[fold].train}
        assert {clip.tobytes() for clip in words.reshape(-1, 16000)} <= train


def test_the_smoothing_that_misses_fewest_is_chosen(e, monkeypatch):
    """Bursts of one step at 0.9, a word of five at 0.6: the mean over two tells them apart."""
    burst, word = np.zeros(7 * 16000, np.int16), script(40, [], words=[[10, 10.6]])
    burst[6400::12800], word.samples[10 * 16000 : 10 * 16000 + 6400] = 900, 600
    monkeypatch.setitem(e.__dict__, "talk_groups", [{"s": burst}] * 5)
    monkeypatch.setattr(judging.tracks, "between_words", lambda *_: word)
    detectors = judging.choose(e, [Scripted() for _ in range(5)])
    assert {(d.smoothing, round(d.threshold, 6)) for d in detectors} == {(2, 0.45)}


def test_a_fold_is_judged_on_its_own_talk_and_test_clips(e):
    for fold in range(5):
        audio = judging.audio(e, fold)
        assert ("continuous speech" in audio) == (fold < 2)  # of two speakers
        assert {"talk", "words", "noise", "between words", "10 dB over speech"} <= set(audio)
        assert np.array_equal(audio["talk"].samples, *e.talk_groups[fold].values())
        clips = [audio[kind].samples.reshape(-1, 16000) for kind in ("words", "between words")]
        for label, found in enumerate((clips[0], clips[1][1::3])):
            wanted = [n for n in e.folds[fold].test if e.labels[n] == label]
            of_corpus = sorted(e.corpus.clips[n].tobytes() for n in wanted)
            assert sorted(clip.tobytes() for clip in found) == of_corpus


def test_results_and_detectors_are_kept(e):
    found = judging.judge(e, STREAM)
    path = e.run.folder / "streams" / "student3-stream.json"
    assert json.loads(path.read_text()) == found == e.run.streams(STREAM)
    assert found["missed"]["between words"]["words"] == e.labels.sum() and len(found["missed"]) == 2
    seconds = 3600 * sum(each["hours"] for each in found["false_accepts"].values())
    assert seconds == approx(2 * (35 + 2) + 96 + 5 * 18)  # read speech twice, words, noise
    for fold, values in enumerate(found["detectors"]):
        assert streaming.ready(e.run.checkpoint(STREAM, fold))[1] == Detector(**values)


def test_the_keyword_stands_in_the_middle_of_a_demo(e):
    demo = judging.demo(e, fold=1)
    assert [second for name, second in demo.words if name == "sheila"] == [14] == [demo.start_s]
    clip = demo.samples[round(demo.start_s * 16000) : round(demo.end_s * 16000)]
    assert any(np.array_equal(clip, e.corpus.clips[n]) for n in e.folds[1].test)


def test_a_window_is_what_the_engine_scores_and_carried_at_the_first_second_alone(e):
    model, samples = e.load(STREAM), judging.demo(e).samples[: 16000 * 5]
    times, probabilities = judging.offline(model, samples, "window")
    engine = streaming.Stream.load(e.run.checkpoint(STREAM)).score(samples)
    assert engine.shape == (len(times), 2) and np.ptp(probabilities) > 1e-3
    np.testing.assert_allclose(times, engine[:, 0], atol=1e-9)
    np.testing.assert_allclose(probabilities, engine[:, 1], atol=1e-5)  # sums in another order
    carried = np.stack(judging.offline(model, samples, "carried"))
    assert carried[0, 0] == approx(0.19)  # the first step; the first window ends a second later
    at, apart = np.abs(carried[:, -len(times) :] - np.stack([times, probabilities]))
    assert at.max() < 1e-9 and apart[0] < 1e-6 and apart[1:].max() > 1e-4


def test_plateaus_by_hand(e, monkeypatch):
    """Over any threshold until 15.2 and 15.9 s; the keyword's clip ends at 15."""
    times, ends = np.arange(0, 29, 0.1), {"window": 15.15, "carried": 15.85}
    monkeypatch.setattr(judging, "offline", lambda *of: (times, (times < ends[of[2]]) * 1.0))
    table = judging.plateaus(e, None, 0.5, count=2)
    assert table.to_dict("list") == {"window_s": approx([0.2] * 2), "carried_s": approx([0.9] * 2)}
