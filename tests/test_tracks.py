"""Words whose ends are known, and tracks of clips that are told by their level."""

from dataclasses import replace

import numpy as np
import pytest

from kwslib import tracks
from kwslib.tracks import Material, training_track, word_span

SLACK = 640  # samples that a span may be longer, at either end; it is never shorter


def noise(level):
    return np.random.default_rng(0).normal(0, level, 16000)


def tone(hz, amplitude, begin, end):
    at = np.arange(16000)
    return np.where((at >= begin) & (at < end), amplitude * np.sin(2 * np.pi * hz * at / 16000), 0)


def word(begin, end):
    return tone(760, 3000, begin, end)


RUMBLE = tone(90, 15000, 9600, 16000) * np.hanning(16000)
KNOCK = tone(2000, 20000, 960, 1280)
WEAK = tone(760, 10000, 6400, 8800) + tone(2500, 560, 10720, 12800)  # as 'happy', a stop between
FILLED_UP = (noise(200) + word(2000, 4500)) * (np.arange(16000) < 5000)


@pytest.mark.parametrize(
    "clip, begin, end",
    [
        pytest.param(noise(50) + word(4000, 9000), 4000, 9000, id="in noise"),
        pytest.param(noise(20) + word(14000, 16000), 14000, 16000, id="at the end"),
        pytest.param(noise(20) + KNOCK + WEAK, 6400, 12800, id="weak syllable, a knock before"),
        pytest.param(noise(10) + tone(150, 1000, 0, 16000) + WEAK, 6400, 12800, id="under hum"),
        pytest.param(noise(20) + word(1600, 4800) + word(8000, 11200), 1600, 11200, id="slow"),
        pytest.param(FILLED_UP, 2000, 4500, id="zeros that fill a clip up are no noise"),
        pytest.param(noise(20) + word(1600, 6400) + RUMBLE, 1600, 6400, id="a rumble is no word"),
        pytest.param(noise(3000) + tone(760, 1000, 6400, 8800), 0, 16000, id="drowned: the clip"),
    ],
)
@pytest.mark.parametrize("gain", [0.3, 1.0])
def test_a_span_is_the_word(clip, begin, end, gain):
    found = word_span(np.clip(np.round(gain * clip), -32768, 32767).astype(np.int16))
    assert begin - SLACK <= found[0] <= begin and end <= found[1] <= end + SLACK, found


@pytest.mark.parametrize("samples", [0, 1, 100, 16000])
def test_silence_is_the_whole_clip(samples):
    assert word_span(np.zeros(samples, np.int16)) == (0, samples)
    assert word_span(np.full(samples, 7, np.int16)) == (0, samples)


@pytest.fixture(scope="module")
def material():
    """Clips of one level from 0.2 to 0.6 s: the keyword's 100 and 200, others' 1000 and 2000."""
    clips, spans = np.zeros((4, 16000), np.int16), np.tile([3200, 9600], (4, 1))
    clips[:, 3200:9600] = np.array([[100], [200], [1000], [2000]])
    talk = (np.full(100000, 5000, np.int16),)
    return Material(clips, spans, np.array([0, 1]), np.array([2, 3]), (), talk)


def make(material, seed, samples=64000):
    return training_track(material, samples, np.random.default_rng(seed))


def test_the_same_generator_makes_the_same_track(material):
    one, again, another = (make(material, seed)[0] for seed in (3, 3, 4))
    assert one.dtype == np.float32 and one.shape == (64000,) and np.abs(one).max() <= 1
    assert np.array_equal(one, again) and not np.array_equal(one, another)


def test_keywords_and_fragments_are_as_long_and_as_frequent_as_stated(material):
    made = [make(material, seed) for seed in range(20)]
    words, fragments = (np.concatenate([track[n] for track in made]) for n in (1, 2))
    for spans, (least, most) in ((words, (1, 1)), (fragments, tracks.FRAGMENT_LENGTH)):
        lengths = np.diff(spans, axis=1) / 0.4
        assert lengths.min() >= least / tracks.PACE[1] - 1e-2
        assert lengths.max() <= most / tracks.PACE[0] + 1e-2
    expected = tracks.KEYWORD / (tracks.KEYWORD + tracks.FRAGMENT)
    assert len(words) / (len(words) + len(fragments)) == pytest.approx(expected, abs=0.2)


def test_a_keyword_sounds_where_the_track_says(material, monkeypatch):
    """Alone on the track, over noise that is 30 dB lower: loud within the span, quiet outside."""
    for name in ("ROOM", "OVER_TALK", "CODED", "FRAGMENT"):
        monkeypatch.setattr(tracks, name, 0.0)
    monkeypatch.setattr(tracks, "KEYWORD", 1.0)
    track, words, fragments = make(replace(material, talk=()), 2)
    at = np.arange(64000) / 16000
    inside = np.any([(at > b + 0.01) & (at < e - 0.01) for b, e in words], axis=0)
    outside = ~np.any([(at > b) & (at < e) for b, e in words], axis=0)
    assert len(words) > 3 and not len(fragments) and outside.any()
    assert np.median(np.abs(track[inside])) > 2 * np.median(np.abs(track[outside]))


@pytest.mark.parametrize("over_talk, is_rough", [(0.0, True), (1.0, False)])
def test_talk_or_noise_lies_under_a_track(material, monkeypatch, over_talk, is_rough):
    """The talk here is a constant: it is as smooth as the white noise is rough."""
    for name in ("ROOM", "CODED", "TALK", "TALK_ALONE"):
        monkeypatch.setattr(tracks, name, 0.0)
    monkeypatch.setattr(tracks, "OVER_TALK", over_talk)
    roughness = [np.median(np.abs(np.diff(make(material, seed)[0]))) for seed in range(5)]
    assert (min(roughness) > 1e-5) if is_rough else (max(roughness) < 1e-5)


def test_a_change_of_pace_keeps_the_sound_and_its_place():
    rising = np.arange(1000, dtype=np.int16)
    for seed in range(20):
        piece = tracks.change_pace(rising, np.random.default_rng(seed))
        assert 1000 / tracks.PACE[1] - 1 <= len(piece) <= 1000 / tracks.PACE[0] + 1
        np.testing.assert_allclose(np.diff(piece), piece[1], rtol=1e-3)  # float32 of up to 1000


def test_a_room_answers_after_the_sound_and_dies_away():
    click = np.zeros(16000, np.float32)
    click[1000] = 1
    rooms = [tracks.add_room(click, np.random.default_rng(seed)) for seed in range(20)]
    for room in rooms:
        assert room.shape == click.shape and room.dtype == np.float32
        assert np.abs(room[:1000]).max() < 1e-5 and room[1000] == pytest.approx(1, abs=1e-5)
        assert -15.1 < 10 * np.log10(np.sum(room[1001:] ** 2)) < -2.9
        assert np.abs(room[1000 + 5600 :]).max() < 1e-5  # 0.35 s
        assert np.sum(room[1001:1401] ** 2) > np.sum(room[1401:1801] ** 2)
    assert not np.array_equal(rooms[0], rooms[1])


def test_opus_changes_a_track_a_little_and_keeps_its_length():
    track = (0.3 * np.sin(np.arange(16123) / 10)).astype(np.float32)
    assert tracks.code_opus(track).shape == track.shape
    assert 1e-4 < np.std(tracks.code_opus(track) - track) < 0.1 * np.std(track)


@pytest.mark.parametrize("at, first, last", [(-300, 0, 200), (800, 800, 1000)])
def test_what_lies_outside_a_track_is_cut(at, first, last):
    track = np.ones(1000, np.float32)
    tracks.overlay(track, np.full(500, 2.0), at)
    assert (track[:first] == 1).all() and (track[last:] == 1).all()
    assert track[(first + last) // 2] == 3


def test_tracks_of_words_hold_every_clip_once(material):
    joined, between = tracks.join_words(material, 0), tracks.between_words(material, 0)
    assert sorted(joined.samples[5000::16000]) == [1000, 2000] and len(joined.words) == 0
    assert joined.hours == pytest.approx(2 / 3600)
    np.testing.assert_allclose(between.words, [[1.2, 1.6], [4.2, 4.6]])
    levels = between.samples[5000::16000]
    assert levels[1::3].tolist() == [100, 200]
    assert set(levels[[0, 2, 3, 5]]) <= {1000, 2000}


@pytest.mark.parametrize("over_db", [20, 5])
def test_keywords_over_speech_are_as_loud_as_stated(material, over_db):
    speech = np.round(np.random.default_rng(0).normal(0, 3000, 16000 * 13)).astype(np.int16)
    track = tracks.over_speech(speech, material, over_db, 0)
    lowered = speech * 10 ** (-15 / 20)
    added = track.samples - lowered
    assert len(track.words) == 2 and track.words.min() > 1
    inside = np.zeros(len(speech), bool)
    for begin, end in np.round(track.words * 16000).astype(int):
        assert end - begin == 6400
        inside[begin:end] = True
        power = np.mean(added[begin + 200 : end - 200] ** 2) / np.mean(lowered**2)
        assert 10 * np.log10(power) == pytest.approx(over_db, abs=0.5)  # of 2 s, not of all
    assert np.abs(added[~inside]).max() <= 0.51  # rounding
    assert not len(tracks.over_speech(speech[:16000], material, over_db, 0).words)
