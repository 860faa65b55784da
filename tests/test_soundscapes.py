import numpy as np
import pytest

from kwslib.soundscapes import between_words, clip_stream, mixed_stream


def test_a_clip_stream_has_its_words_where_it_says(sources):
    quiet = {"snr_db": (80.0, 80.0), "level_db": (0.0, 0.0)}
    track = clip_stream(sources, 0.1, 5, keyword_every_s=10.0, **quiet)
    assert len(track.samples) == 0.1 * 3600 * 16000 and track.hours == pytest.approx(0.1)
    assert len(track.words) == track.labels.sum() == pytest.approx(36, abs=1)
    for (begin, end), clip in zip(track.words, track.word_clips, strict=True):
        assert end - begin == pytest.approx(0.4)
        inside = track.samples[round(begin * 16000) + 200 : round(end * 16000) - 200]
        assert np.median(inside) == pytest.approx({0: 100, 1: 200}[clip], abs=1)
    assert track.which[track.labels == 1].tolist() == track.word_clips.tolist()
    for start, label, clip in zip(track.clips, track.labels, track.which, strict=True):
        assert (clip in sources.keyword) == bool(label)
        assert (abs(np.median(track.samples[start + 3400 : start + 9400])) < 500) == bool(label)


def test_a_clip_stream_repeats_and_its_seeds_differ(sources):
    one, two = clip_stream(sources, 0.02, 5), clip_stream(sources, 0.02, 5)
    assert np.array_equal(one.samples, two.samples) and np.array_equal(one.words, two.words)
    assert not np.array_equal(one.samples, clip_stream(sources, 0.02, 6).samples)


def test_noise_lies_as_far_under_the_words_as_is_said(sources):
    clean = clip_stream(sources, 0.05, 5, snr_db=(200.0, 200.0), level_db=(0.0, 0.0)).samples.astype(float)
    noisy = clip_stream(sources, 0.05, 5, snr_db=(20.0, 20.0), level_db=(0.0, 0.0)).samples.astype(float)
    speech = np.mean(clean[np.abs(clean) > 0] ** 2)
    # fades leave a little less speech than was laid; rounding adds a little noise
    assert 10 * np.log10(speech / np.mean((noisy - clean) ** 2)) == pytest.approx(20, abs=0.5)


def test_a_stream_too_short_for_a_clip_is_an_error(sources):
    with pytest.raises(ValueError, match="too short"):
        clip_stream(sources, 0.0001, 0)


def test_between_words_holds_every_keyword_once(sources):
    track = between_words(sources, 0)
    assert len(track.words) == 2 and len(track.samples) == 6 * 16000
    np.testing.assert_allclose(track.words, [[1.2, 1.6], [4.2, 4.6]])
    assert track.word_clips.tolist() == [0, 1]
    assert [track.samples[start + 5000] for start in track.clips[track.labels == 1]] == [100, 200]
    assert set(track.samples[track.clips[track.labels == 0] + 5000].tolist()) <= {1000, 2000}


def test_mixed_in_words_are_as_loud_as_is_said(sources):
    talk = np.round(np.random.default_rng(0).normal(0, 300, 600000)).astype(np.int16)
    track = mixed_stream(talk, sources, 0, over_db=10.0)
    assert len(track.words) == pytest.approx(600000 / 160000, abs=1) and len(track.samples) == len(talk)
    assert len(track.words) == len(track.word_clips)
    added = track.samples.astype(float) - talk
    for begin, end in track.words:
        inside = slice(round(begin * 16000) + 200, round(end * 16000) - 200)
        power = np.mean(added[inside] ** 2) / np.mean(talk.astype(float) ** 2)
        assert 10 * np.log10(power) == pytest.approx(10, abs=0.5)  # of 2 s around, not of all
    outside = np.ones(len(talk), bool)
    for begin, end in track.words:
        outside[round(begin * 16000) - 1 : round(end * 16000) + 1] = False
    assert np.abs(added[outside]).max() <= 1  # rounding
