"""Synthetic words whose ends are known: within 40 ms of each, never inside."""

import numpy as np
import pytest

from kwslib import endpoints

SLACK = 640


def noise(level: float, samples: int = 16000) -> np.ndarray:
    return np.random.default_rng(0).normal(0, level, samples)


def tone(hz: float, amplitude: float, begin: int, end: int, samples: int = 16000) -> np.ndarray:
    at = np.arange(samples)
    return np.where((at >= begin) & (at < end), amplitude * np.sin(2 * np.pi * hz * at / 16000), 0)


def assert_span(clip: np.ndarray, begin: int, end: int) -> None:
    found = endpoints.word_span(np.clip(np.round(clip), -32768, 32767).astype(np.int16))
    assert begin - SLACK <= found[0] <= begin and end <= found[1] <= end + SLACK, found


def test_a_word_in_noise():
    assert_span(noise(50) + tone(760, 3000, 4000, 9000), 4000, 9000)


def test_a_word_at_the_edges_of_its_clip():
    """As in clips that cut a word off."""
    found = endpoints.word_span((noise(20) + tone(760, 3000, 0, 3000)).astype(np.int16))
    assert found[0] == 0 and 3000 <= found[1] <= 3000 + SLACK
    found = endpoints.word_span((noise(20) + tone(760, 3000, 14000, 16000)).astype(np.int16))
    assert 14000 - SLACK <= found[0] <= 14000 and found[1] == 16000


def test_a_weak_second_syllable_and_no_other_sound():
    """As in 'happy': the second syllable 25 dB below the first, a stop of 120 ms between; a knock 0.3 s
    before, louder than both, belongs to neither."""
    knock, first, second = (
        tone(2000, 20000, 960, 1280),
        tone(760, 10000, 6400, 8800),
        tone(2500, 560, 10720, 12800),
    )
    assert_span(noise(20) + knock + first + second, 6400, 12800)


def test_a_weak_second_syllable_under_noise_of_another_band():
    """The second syllable, at 2.5 kHz, has a tenth of the power of a rumble at 150 Hz."""
    rumble = tone(150, 1000, 0, 16000)
    clip = noise(10) + rumble + tone(760, 8000, 6400, 8800) + tone(2500, 316, 10720, 12800)
    assert_span(clip, 6400, 12800)


def test_both_halves_of_a_word_said_slowly():
    clip = noise(20) + tone(760, 5000, 1600, 4800) + tone(760, 5000, 8000, 11200)
    assert_span(clip, 1600, 11200)


def test_zeros_that_fill_a_clip_up_are_no_noise():
    """Noise of 5,000 samples and a word; the rest of the clip has been filled up with zeros."""
    clip = noise(200) + tone(760, 3000, 2000, 4500)
    clip[5000:] = 0
    assert_span(clip, 2000, 4500)


@pytest.mark.parametrize("gain", [0.1, 1.0, 3.0])
def test_a_level_changes_nothing(gain):
    clip = noise(200) + tone(760, 6000, 4000, 9000)
    assert_span(gain * clip, 4000, 9000)


def test_what_drowns_in_noise_is_the_whole_clip():
    clip = noise(3000) + tone(760, 1000, 6400, 8800)
    assert endpoints.word_span(clip.astype(np.int16)) == (0, 16000)


@pytest.mark.parametrize("samples", [0, 1, 100, 16000])
def test_silence_is_the_whole_clip(samples):
    assert endpoints.word_span(np.zeros(samples, np.int16)) == (0, samples)
    assert endpoints.word_span(np.full(samples, 7, np.int16)) == (0, samples)


def test_spans_are_of_each_clip():
    clips = np.stack([noise(50) + tone(760, 3000, at, at + 4000) for at in (2000, 8000)]).astype(np.int16)
    assert endpoints.spans(clips).tolist() == [list(endpoints.word_span(clip)) for clip in clips]
    assert endpoints.spans(clips[:0]).shape == (0, 2)


def test_a_rumble_louder_than_the_word_is_no_word():
    clip = noise(20) + tone(760, 2000, 1600, 6400)
    clip += tone(90, 15000, 9600, 16000) * np.hanning(16000)
    assert_span(clip, 1600, 6400)
