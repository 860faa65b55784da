"""Detectors and judging, on untrained networks: that it fits together, and the arithmetic."""

import json

import numpy as np
import pandas
import pytest

from kwslib import excerpts, judging, runs, soundscapes, stream_tables, streaming, streams, training
from kwslib.events import RATES_PER_H, Detector, Outcome


@pytest.fixture(scope="module")
def judged(audio):
    settings = ["student3", "student3-stream"]
    chosen = judging.choose(audio, settings)
    plateaus = {setting: excerpts.plateaus(audio.experiment, setting, 2) for setting in settings}
    judging.judge(audio, chosen, plateaus)
    return chosen


def test_detectors_are_kept_by_networks_trained_for_streams_alone(audio, judged):
    checkpoint = audio.experiment.run.checkpoint
    spotter, detector = streaming.ready(checkpoint("student3-stream"))
    best = min(streaming.MODES, key=lambda mode: min(r[-1] for r in judged["student3-stream", mode]["grid"]))
    assert spotter.mode == best
    names = ("threshold", "smoothing", "release", "refractory_s")
    assert {name: getattr(detector, name) for name in names} == {
        name: judged["student3-stream", best][name] for name in names
    }
    assert streaming.ready(checkpoint("student3-stream"), "window", threshold=0.25)[1].threshold == 0.25
    spotter, detector = streaming.ready(checkpoint("student3"))
    assert spotter.mode == "window" and detector == Detector()


def test_a_detector_is_not_deaf_where_there_is_less_than_an_hour_to_choose_on(audio, monkeypatch):
    """Two minutes, one false accept above all keywords: 'at most one an hour' would be none at all, and a
    threshold that no keyword reaches."""
    track = soundscapes.clip_stream(audio.sources("validation"), audio.plan.choose_hours, judging.CHOICE_SEED)
    times = np.arange(0, 126, 0.08)
    probabilities = np.full(len(times), 0.01)
    for begin, end in track.words:
        probabilities[(times >= begin) & (times <= end + 0.5)] = 0.8
    probabilities[-20:] = 0.9  # nothing is said there
    assert 0 < track.words.max() < times[-40]
    monkeypatch.setattr(audio, "hear", lambda settings, _: {("student3", "window"): (times, probabilities)})
    detector = judging.choose(audio, ["student3"])["student3", "window"]
    assert 0.01 < detector["threshold"] <= 0.8


def test_results_state_counts_rates_and_exposure(audio, judged):
    for setting, mode in judged:
        result = judging.result(audio, setting, mode)
        curve = result["clips"]["det"]
        hours = streams.PLANS["smoke"].hours * streams.PLANS["smoke"].seeds
        assert curve["hours"] == pytest.approx(hours)
        assert curve["words"] == sum(each["words"] for each in result["clips"]["det_of_each"])
        for column in (1, 2):  # a curve is the sum of its streams'
            each = [np.array(c["points"])[:, column] for c in result["clips"]["det_of_each"]]
            assert np.array_equal(np.array(curve["points"])[:, column], np.sum(each, axis=0))
        for rate in RATES_PER_H:
            point = result["clips"]["at_rate"][str(rate)]
            assert point["false_accepts"] <= rate * point["hours"]
            assert point["miss_rate"][0] == point["misses"] / point["words"]
            assert len(point["miss_rate_of_each"]) == streams.PLANS["smoke"].seeds
            assert len(point["offline_miss_rate_of_each"]) == streams.PLANS["smoke"].seeds
            low, high = point["miss_rate_over_speakers"]
            assert low <= point["miss_rate"][0] <= high
            more, low, high = point["more_than_offline"]
            assert more == pytest.approx(point["miss_rate"][0] - point["offline_miss_rate"])
            assert low <= more <= high
            assert sum(point["taken"].values()) == point["false_accepts"]
        for compared in filter(None, result["clips"]["beside"].values()):
            assert sum(compared.values()) == curve["words"]
            assert (
                compared["both"] + compared["alone"]
                == curve["words"] - result["clips"]["at_rate"]["1.0"]["misses"]
            )
        assert result["speech"]["chosen"]["hours"] == pytest.approx(0.3 / 60)
        for rate in RATES_PER_H:
            point = result["speech"]["at_rate"][str(rate)]
            assert point["false_accepts"] == 0  # in 18 s even five an hour allow none
            exact = [m for _, m, n in result["speech"]["det"]["points"] if n == 0]
            assert point["misses"] == min(exact)
        for point in filter(None, result["speech"]["at_misses"].values()):
            low, high = (np.inf if rate is None else rate for rate in point["over_speakers"])
            assert 0 <= low <= high
        assert set(result["mixed"]) == {"20", "10", "5"}
    results = [judging.result(audio, *key) for key in judged]
    tables = (
        stream_tables.clips_table,
        stream_tables.against_offline_table,
        stream_tables.speech_table,
        stream_tables.detector_table,
        stream_tables.mixed_table,
        stream_tables.taken_table,
    )
    assert all(table(results).shape[0] == 4 for table in tables)
    of_modes = stream_tables.modes_table([one for one in results if one["mode"] == "window"])
    assert list(of_modes.index) == ["student3", "student3-stream"]
    assert list(of_modes.columns) == ["both", "window alone", "carried alone", "neither"]
    speech = stream_tables.speech_table(results)
    assert list(speech.columns) == [
        "2 % missed", "5 % missed", "over speakers", "10 % missed", "20 % missed",
    ]  # fmt: skip


def test_a_plateau_is_how_much_later_than_offline_by_hand():
    table = pandas.DataFrame(
        {"offline": [0.0, 0.4, 0.2], "window": [0.0, 0.4, 0.1], "carried": [0.5, 0.7, 0.2]}
    )
    assert judging._plateau(table, "window") == {"median": 0, "longest": 0, "tracks": 3, "within_0.3": 1}
    found = judging._plateau(table, "carried")
    assert found["median"] == pytest.approx(0.3) and found["longest"] == 0.5
    assert found["within_0.3"] == pytest.approx(2 / 3)


def test_what_of_a_detector_matters_by_hand():
    grid = [[s, r, w, 10 * s + (r > 0.5) + 3 * w] for s in (1, 2, 3) for r in (0.3, 0.6) for w in (0.5, 1.0)]
    grid += [[judging.GRID["smoothing"][-1], 0.6, 1.0, 1000]]  # too late, which would hide what the others do
    chosen = {"smoothing": 2, "release": 0.6, "refractory_s": 1.0, "grid": grid}
    assert judging.matters(chosen) == (2.5, 20)


def test_keywords_mixed_into_speech_are_loud_and_not_clipped(audio):
    speech = audio.speech[1] / 32768
    track = judging.mixed_in(audio, 20.0)
    samples = track.samples / 32768
    ratio = np.sqrt(np.mean(samples[:16000] ** 2) / np.mean(speech[:16000] ** 2))
    assert 20 * np.log10(ratio) == pytest.approx(judging.SPEECH_DB, abs=0.1)  # before the first keyword
    assert len(track.words) and track.words.min() > 1
    for begin, end in (track.words * 16000).astype(int):
        around = speech[begin - 16000 : begin + 16000] * ratio
        word = samples[begin:end] - speech[begin:end] * ratio
        assert 10 * np.log10(np.mean(word**2) / np.mean(around**2)) == pytest.approx(20, abs=1)
        assert np.mean(np.abs(samples[begin:end]) >= 0.999) < 0.001


def test_a_result_that_is_not_there_says_what_to_run(audio):
    with pytest.raises(runs.MissingStageError, match="streams of baseline-window"):
        judging.result(audio, "baseline", "window")


def test_offline_scores_are_the_network_s_own_of_the_clips(audio):
    """With nothing laid under them, clips on a track are the corpus's own, but for rounding."""
    source = audio.sources("test")
    track = soundscapes.between_words(source, 0)
    labels, scores, _ = judging._offline(audio, "student3", track)
    direct = training.probabilities(
        audio.experiment.load("student3"), audio.experiment.features, source.keyword
    )
    np.testing.assert_allclose(scores[labels == 1], direct, atol=1e-6)  # the same samples


def said(words):
    """An hour with two words, by a and b, and a clip of another word between them."""
    return judging.Said(
        words, 1.0, np.array(["a", "b"]), np.array([10.0, 20.0, 30.0]), np.array(["yes", "no", "yes"])
    )


def test_what_offline_scoring_misses_is_stated_of_each_stream_and_of_all():
    """Two streams of an hour: offline scoring misses neither keyword of the first, one of the second's."""
    labels = np.array([1, 1, 0, 0, 0])
    offline = [
        (labels, np.array([0.9, 0.8, 0.1, 0.1, 0.1]), 1.0),
        (labels, np.array([0.9, 0.2, 0.3, 0.3, 0.1]), 1.0),
    ]
    times = np.arange(0, 60.0, 0.5)
    words = np.array([[10.0, 10.5], [30.0, 30.5]])
    smoothed = np.where(np.isin(times, (10.5, 30.5)), 0.9, 0.1)
    detector = Detector(smoothing=1)
    made = [said(words) for _ in range(2)]
    curves, pooled = judging._curves(detector, [(times, smoothed)] * 2, made)
    found = judging._on_clips(curves, pooled, detector, [(times, smoothed)] * 2, made, offline)
    point = found["at_rate"]["1.0"]
    assert point["miss_rate_of_each"] == [0, 0]
    assert point["offline_miss_rate_of_each"] == [0, 0.5] and point["offline_miss_rate"] == 0
    assert point["more_than_offline"] == [0, 0, 0] == [0, *point["miss_rate_over_speakers"]]


def test_a_false_accept_is_of_the_clip_that_was_heard():
    """The first of a word is its hit; a second one, and what comes long after, are of the clip that began about a
    second before."""
    words, times = np.array([[10.0, 10.5], [30.0, 30.5]]), np.arange(0, 60.0, 0.5)
    heard = [(times, np.where(np.isin(times, at), 0.9, 0.1)) for at in ((10.5, 11.5, 20.5), (21.5, 40.0))]
    detector = Detector(smoothing=1, refractory_s=0)
    assert judging._taken(detector, heard, [said(words)] * 2) == {"no": 2, "yes": 2}


def test_modes_are_compared_word_by_word():
    """Each at one false accept an hour: the first hits words 1 and 2, the second 2 and 3; neither the fourth."""

    def curve(*hit):
        return judging.Curve(np.array([0.5]), [Outcome(hit, 1, 1.0, ())])

    mine, other = curve(True, True, False, False), curve(False, True, True, False)
    assert judging._beside(mine, other) == {"both": 1, "alone": 1, "other": 1, "neither": 1}
    assert judging._beside(mine, judging.Curve(np.array([0.5]), [Outcome((True,), 2, 1.0, ())])) is None


def test_tables_of_modes_and_of_words_by_hand():
    words = {word: 9 - n for n, word in enumerate("abcdefgh")}
    beside = {"carried": {"both": 5, "alone": 2, "other": 1, "neither": 2}}
    clips = {"beside": beside, "det": {"words": 10}, "at_rate": {"5.0": {"taken": words}}}
    one = {"setting": "baseline", "mode": "window", "clips": clips}
    silent = {"setting": "student3", "mode": "window", "clips": {"at_rate": {"5.0": {"taken": {}}}}}
    never = {"setting": "student3", "mode": "carried", "clips": {"at_rate": {"5.0": None}}}
    table = stream_tables.taken_table([one, silent, never])
    assert table["taken"].tolist() == ["a 9, b 8, c 7, d 6, e 5, f 4, others 5", "none", "not reached"]
    row = stream_tables.modes_table([one]).loc["baseline"]
    assert row.to_dict() == {
        "both": "50.0",
        "window alone": "20.0",
        "carried alone": "10.0",
        "neither": "20.0",
    }
    apart = one | {"clips": clips | {"beside": {"carried": None}}}
    assert set(stream_tables.modes_table([apart]).loc["baseline"]) == {"not reached"}


def test_words_are_of_those_who_say_them(audio):
    """Who says a word is found by its samples, which lie between two words as they are in the corpus."""
    soundscape, corpus = audio.keywords, audio.experiment.corpus
    found, keywords = judging._said(audio, soundscape), audio.sources("test").keyword
    assert len(found.words) == len(found.speakers) == len(keywords) > 1
    assert len(found.begins_s) == 3 * len(keywords) and set(found.names[1::3]) == {
        audio.experiment.run.parameters.keyword
    }
    for start, speaker in zip(soundscape.clips[soundscape.labels == 1], found.speakers, strict=True):
        same = (corpus.clips[keywords] == soundscape.samples[start : start + 16000]).all(1)
        assert corpus.speakers[keywords[same]].tolist() == [speaker]


@pytest.mark.parametrize(
    "scores, more", [((0.9, 0.8), [0.5, 0, 1]), ((0.9, 0.05), [0, 0, 0]), ((0.05, 0.9), [0, -1, 1])]
)
def test_what_a_stream_misses_over_offline_scoring_is_of_the_same_words(scores, more):
    """Of two speakers a word each: the stream misses the second's; offline scoring none, the same, the other."""
    offline = [(np.array([1, 1, 0]), np.array([*scores, 0.1]), 1.0)]
    times, words = np.arange(0, 60.0, 0.5), np.array([[10.0, 10.5], [30.0, 30.5]])
    smoothed = np.where(times == 10.5, 0.9, 0.1)
    made = [said(words)]
    detector, heard = Detector(smoothing=1), [(times, smoothed)]
    curves, pooled = judging._curves(detector, heard, made)
    point = judging._on_clips(curves, pooled, detector, heard, made, offline)["at_rate"]["0.5"]
    assert point["miss_rate"][0] == 0.5 and point["offline_miss_rate"] == np.mean(np.array(scores) < 0.1)
    assert point["more_than_offline"] == more  # resampled: one word of each, or both of one
    assert point["miss_rate_over_speakers"] == (0, 1)


def test_misses_offline_by_hand():
    labels, scores = np.array([1, 1, 0, 0, 0, 1]), np.array([0.9, 0.5, 0.6, 0.4, 0.1, 0.6])

    def missed(offline, rate):
        return judging._missed_offline(offline, rate).tolist()

    assert missed([(labels, scores, 1.0)], 0) == [False, True, True]  # over 0.6: a tie is missed
    assert missed([(labels, scores, 1.0)], 1) == [False] * 3  # one of three others may pass
    assert missed([(labels, scores, 0.5), (labels, scores, 0.5)], 1) == [False, True, True] * 2
    assert missed([(labels, scores, 1.0)], 9) == [False] * 3


def test_what_is_written_can_be_read_by_anyone(audio, judged):
    for path in (audio.experiment.run.folder / "streams").iterdir():
        values = json.loads(path.read_text())
        assert values["schema"] == 1 and {"setting", "mode", "detector", "clips", "speech", "mixed"} <= set(
            values
        )
