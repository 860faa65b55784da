from dataclasses import replace

import numpy as np
import pytest

from kwslib import tracks
from kwslib.architecture import ARCHITECTURES
from kwslib.tracks import (
    Mix,
    in_room,
    targets,
    training_track,
)

BASELINE = ARCHITECTURES["baseline"]


def test_targets_are_of_the_last_second():
    """A word from 2.01 to 2.41 s: asked for at steps whose last second holds all of it, nothing asked
    where it holds a fifth or more."""
    wanted = targets(np.array([[2.01, 2.41]]), BASELINE, 5 * 16000)
    stop = (np.arange(len(wanted)) * 8 + 19) * 0.01
    start = stop - 0.99
    assert np.array_equal(wanted == 1, (stop >= 2.41 - 1e-9) & (start <= 2.01 + 1e-9))
    inside = np.clip(np.minimum(stop, 2.41) - np.maximum(start, 2.01), 0, None)
    assert np.array_equal(wanted == 0, inside < 0.2 * 0.4)
    assert np.sum(wanted == 1) == pytest.approx(0.59 / 0.08, abs=1) and np.any(wanted == -1)


def test_a_word_beside_part_of_another_is_still_asked_for():
    one = targets(np.array([[2.0, 2.4]]), BASELINE, 5 * 16000)
    two = targets(np.array([[2.0, 2.4], [2.7, 3.1]]), BASELINE, 5 * 16000)
    assert np.all(two[one == 1] == 1)
    assert np.sum(two == 1) > np.sum(one == 1)
    assert not targets(np.zeros((0, 2)), BASELINE, 16000).any()


def test_a_fragment_is_another_word_once_the_second_goes_on_around_it():
    """A fragment from 2.0 to 2.2 s: nothing is asked where the second begins or ends within 0.1 s of it."""
    wanted = targets(np.zeros((0, 2)), BASELINE, 5 * 16000, np.array([[2.0, 2.2]]))
    stop = (np.arange(len(wanted)) * 8 + 19) * 0.01
    near = [(edge > 1.9) & (edge < 2.3) for edge in (stop, stop - 0.99)]
    assert np.array_equal(wanted == -1, near[0] | near[1])
    assert np.any((wanted == 0) & (stop > 2.3) & (stop < 2.8))  # the fragment is inside
    beside = targets(np.array([[2.2, 2.6]]), BASELINE, 5 * 16000, np.array([[2.0, 2.2]]))
    assert np.array_equal(beside == 1, targets(np.array([[2.2, 2.6]]), BASELINE, 5 * 16000) == 1)


def test_targets_have_a_step_for_every_row_of_a_network():
    for samples in (16000, 16159, 16160, 64000):
        frames = samples // 160 + 1
        assert len(targets(np.zeros((0, 2)), BASELINE, samples)) == (frames - 20) // 8 + 1


def test_training_tracks_repeat_and_hold_what_they_say(sources):
    def made(seed):
        return training_track(sources, Mix(keyword=0.5), 64000, np.random.default_rng(seed))

    track, again = made(3)[0], made(3)[0]
    assert track.dtype == np.float32 and track.shape == (64000,) and np.abs(track).max() <= 1
    assert np.array_equal(track, again)
    assert not np.array_equal(track, made(4)[0])
    assert sum(len(made(seed)[1]) for seed in range(10)) > 10
    lengths = np.concatenate([np.diff(made(seed)[1], axis=1)[:, 0] for seed in range(10)])
    assert lengths.min() >= 0.4 / 1.16 and lengths.max() <= 0.4 / 0.86  # at another pace


def test_a_room_answers_after_the_sound_and_dies_away():
    click = np.zeros(16000, np.float32)
    click[1000] = 1
    heard = [in_room(click, np.random.default_rng(seed)) for seed in range(20)]
    for room in heard:
        assert room.shape == click.shape and room.dtype == np.float32
        assert np.abs(room[:1000]).max() < 1e-5 and room[1000] == pytest.approx(1, abs=1e-5)
        echoes = room[1001:]
        assert -15.1 < 10 * np.log10(np.sum(echoes**2)) < -2.9
        assert np.abs(echoes[5600:]).max() < 1e-5  # 0.35 s
        assert np.sum(echoes[:400] ** 2) > np.sum(echoes[400:800] ** 2)
    assert not np.array_equal(heard[0], heard[1])
    assert in_room(np.zeros(0, np.float32), np.random.default_rng(0)).shape == (0,)


@pytest.mark.parametrize("share, least, most", [(0.0, 0, 0), (0.4, 0.3, 0.5), (1.0, 1, 1)])
def test_so_many_of_the_pieces_go_through_a_room(sources, monkeypatch, share, least, most):
    roomed, laid = [], []
    monkeypatch.setattr(tracks, "in_room", lambda piece, _: roomed.append(1) or piece + 0)
    monkeypatch.setattr(tracks, "lay", lambda track, piece, at: laid.append(1))
    for seed in range(40):
        training_track(sources, Mix(room=share), 64000, np.random.default_rng(seed))
    assert len(laid) > 200 and least <= len(roomed) / len(laid) <= most


@pytest.mark.parametrize("mix, share", [(Mix(keyword=0), 0), (Mix(keyword=1, joined=1), 1)])
def test_the_share_of_keywords_is_the_mix_s(sources, mix, share):
    counts = [len(training_track(sources, mix, 64000, np.random.default_rng(s))[1]) for s in range(5)]
    assert (min(counts) >= 9) if share else (max(counts) == 0)


def test_without_talk_there_is_none(sources):
    """Talk is far the loudest here."""
    peaks = {}
    for talk in (0.0, 1.0):
        mix = Mix(keyword=0, talk=talk, cut=0, noise=0, room=0)
        tracks_ = [training_track(sources, mix, 32000, np.random.default_rng(s))[0] for s in range(8)]
        peaks[talk] = np.mean([np.abs(track).max() for track in tracks_])
    assert peaks[1.0] > 2 * peaks[0.0]


def test_a_microphone_is_bounded():
    responses = np.array([tracks.microphone(40, Mix(), np.random.default_rng(s)) for s in range(50)])
    assert responses.shape == (50, 40) and np.abs(responses).max() <= tracks.TILT + tracks.BEND
    assert responses.std() > 0.1


def test_fragments_are_beginnings_and_ends_of_keywords(sources):
    """Of clips whose words rise, what lies on the track says which part it is."""
    rising = sources.clips.copy()
    rising[:, 3200:9600] = np.linspace(100, 3000, 6400)
    mix = Mix(keyword=0, fragment=1, joined=0, varied=False)
    ends = set()
    for seed in range(20):
        track, words, fragments = training_track(
            replace(sources, clips=rising), mix, 64000, np.random.default_rng(seed)
        )
        assert not len(words) and len(fragments)
        lengths = np.diff(fragments, axis=1)
        assert np.all((lengths > 0.25 * 0.4 - 1e-3) & (lengths < 0.6 * 0.4 + 1e-3))
        for begin, end in fragments:
            piece = np.abs(track[round(begin * 16000) + 200 : round(end * 16000) - 200])
            if begin > 0 and end < 4:
                ends.add(bool(piece[:200].mean() > 0.5 * piece[-200:].mean()))
    assert ends == {True, False}


def test_nothing_paced_is_nothing():
    assert len(tracks.paced(np.zeros(0, np.int16), Mix(), np.random.default_rng(0))) == 0


def test_without_variation_words_are_as_they_were(sources):
    mix = Mix(keyword=1, fragment=0, joined=1, varied=False)
    _, words, _ = training_track(sources, mix, 64000, np.random.default_rng(0))
    np.testing.assert_allclose(np.diff(words, axis=1), 0.4)
    assert not tracks.microphone(40, mix, np.random.default_rng(0)).any()
