"""Labels by hand, augmentation by what it does to the power, windows as a stream scores them."""

import numpy as np
import pytest
import torch

from kwslib import features, models, tracks, windows
from kwslib.architecture import ARCHITECTURES
from kwslib.streaming import Stream
from kwslib.windows import ClipPool, TrackPool, window_labels

BASELINE = ARCHITECTURES["baseline"]
FRONT_END, NONE, ALL = BASELINE.front_end, np.zeros((0, 2)), np.arange(24)
STOP = np.arange(99, 501, 8) * 0.01  # of the windows of 5 s: the last of their 100 frames
START = STOP - 0.99


def labels(words, fragments=NONE):
    return window_labels(np.reshape(words, (-1, 2)), np.array(fragments), BASELINE, 80000)


@pytest.mark.parametrize("begin", [2.01, 2.04, 2.06])
def test_a_window_is_labelled_by_what_it_holds_of_the_keyword(begin):
    """The keyword where all of it is inside, no label from a fifth on, else something else."""
    found, end = labels([begin, begin + 0.4]), begin + 0.4
    assert np.array_equal(found == 1, (end - 1e-9 <= STOP) & (begin + 1e-9 >= START))
    inside = np.clip(np.minimum(STOP, end) - np.maximum(START, begin), 0, None)
    assert np.array_equal(found == 0, inside < 0.2 * 0.4)
    beside = labels([[begin, end], [2.7, 3.1]])  # part of another takes nothing away
    assert np.all(beside[found == 1] == 1) and np.sum(beside == 1) > np.sum(found == 1) > 6
    assert not labels(NONE).any()


def test_a_fragment_is_another_word_where_the_window_goes_on_around_it():
    """A fragment from 2.0 to 2.2 s: no label where the window begins or ends within 0.1 s of it."""
    found = labels(NONE, [[2.0, 2.2]])
    near = [(edge > 1.9) & (edge < 2.3) for edge in (STOP, START)]
    assert np.array_equal(found == -1, near[0] | near[1])
    assert not found[(STOP > 2.3) & (START < 1.9)].any()  # the fragment is inside
    assert np.sum(labels([2.2, 2.6], [[2.0, 2.2]]) == 1) == np.sum(labels([2.2, 2.6]) == 1)


@pytest.fixture
def pool(corpus):
    return ClipPool(corpus.clips[::5], list(corpus.background.values()), BASELINE)


def generator(seed=0):
    return np.random.default_rng(seed)


def shifts_and_kinds(count):
    """What `augmented` draws first, of so many clips; shifts in frames."""
    draw = generator()
    return draw.integers(17, size=count) - 8, draw.integers(4, size=count)


@pytest.mark.parametrize("has_background", [True, False])
def test_shifts_are_frames_and_a_gain_is_exact(pool, corpus, has_background):
    """A quarter of the waveform, to the last bit; what a shift moves in repeats the edge. Without
    recordings, clips that background noise was drawn for stay as they are."""
    pool = pool if has_background else ClipPool(corpus.clips[::5], [], BASELINE)
    shifts, kinds = shifts_and_kinds(24)
    alone = {0, windows.QUIET} if has_background else {0, windows.QUIET, windows.BACKGROUND}
    found = pool.augmented(ALL, generator(), is_masked=False)
    quarter = features.mel_power(features.to_waveforms(corpus.clips[::5]) / 4, FRONT_END)
    plain = features.log_mel_of(corpus.clips[::5], FRONT_END)
    quiet = features.log_mel(quarter, FRONT_END)
    assert torch.equal(pool.log_mels(ALL), plain)  # whatever was computed before
    for n in ALL:
        wanted = quiet[n] if kinds[n] == windows.QUIET else plain[n]
        moved = wanted[:, np.clip(np.arange(101) + shifts[n], 0, 100)]
        assert torch.equal(found[n], moved) == (kinds[n] in alone)
    assert (found != plain).any(dim=(1, 2)).sum() > 20  # the control


@pytest.mark.parametrize("kind", [windows.NOISE, windows.BACKGROUND])
def test_noise_adds_its_expected_power(kind):
    """Of a bin: the variance of a sample times the sum of the squared window. A recording of 2 s
    has the norm of the clip, but for 1 dB."""
    tone = (3000 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)).astype(np.int16)
    recording = generator(1).normal(0, 1000, 32000).astype(np.int16)
    pool, clips = ClipPool(tone[None], [recording], BASELINE), np.zeros(800, int)
    found = pool.augmented(clips, generator(), is_masked=False)[shifts_and_kinds(800)[1] == kind]
    both = (torch.exp(5 * x.double() - 7)[:, :, 10:-10] for x in (found, pool.log_mels(clips[:1])))
    power, clean = (x.mean((0, 2)).numpy() for x in both)
    variance = 0.01**2 if kind == windows.NOISE else 10**-0.1 * np.mean((tone / 32768) ** 2) / 2
    wanted = variance * np.sum(FRONT_END.window() ** 2.0) * FRONT_END.filters().sum(0)
    ratios = ((power - clean) / wanted)[12:]  # from 700 Hz on the tone is less than it
    np.testing.assert_allclose(ratios, 1, atol=0.2)  # 64 pieces, or 2 s, in bands of 4 bins and up
    assert ratios.mean() == pytest.approx(1, abs=0.03)


def test_masks_are_one_band_and_one_stretch_for_the_whole_batch():
    drawn = []
    for seed in range(150):
        power = torch.ones(2, 40, 101)
        windows.mask(power, generator(seed))
        masked = power[0] == 0
        mels, frames = masked.all(1), masked.all(0)
        assert torch.equal(power[0], power[1])
        assert torch.equal(masked, mels[:, None] | frames[None])
        for rows in (mels, frames):  # one stretch starts at most once
            assert (torch.diff(rows.int()) == 1).sum() + rows[0] <= 1
        drawn.append([int(n) for n in (mels.sum(), frames.sum(), mels.int().argmax())])
    bands, stretches, starts = map(set, zip(*drawn, strict=True))
    assert bands == set(range(15)) and 33 <= max(stretches) <= 35 and len(starts) > 25


def test_a_seed_gives_one_batch_and_masked_cells_are_the_floor(pool):
    one, again, whole = (pool.augmented(ALL, generator(3), m) for m in (True, True, False))
    assert torch.equal(one, again)
    assert not torch.equal(one, pool.augmented(ALL, generator(4), True))
    floor = torch.tensor([(np.log(1e-9) + 7) / 5], dtype=torch.float32)
    torch.testing.assert_close(one[one != whole].unique(), floor)


def test_both_classes_are_as_likely_however_rare():
    drawn = windows.balanced(np.array([0] * 99 + [1]), 4000, generator())
    assert set(drawn) == set(range(100)) and abs(np.mean(drawn == 99) - 0.5) < 0.04  # 5 deviations


@pytest.fixture(scope="module")
def material(corpus):
    keyword = np.flatnonzero(corpus.labels("sheila"))
    spans, others = np.tile([2000, 14000], (120, 1)), np.setdiff1d(np.arange(120), keyword)
    return tracks.Material(corpus.clips, spans, keyword, others)


def test_windows_of_a_track_are_what_a_stream_scores_there(material, monkeypatch):
    plain = {"TILT": 0.0, "BEND": 0.0, "MIXED": 0.0, "MASKED": 0.0}
    for name, value in plain.items():  # no microphone, speech or mask
        monkeypatch.setattr(windows, name, value)
    pool, network = TrackPool(material, BASELINE, 1, seed=3), models.build(BASELINE, 0).eval()
    track, *_ = tracks.training_track(material, 64000, np.random.default_rng([3, 29, 0]))
    weights = {name: value.numpy() for name, value in network.state_dict().items()}
    times, probabilities = Stream(BASELINE, weights).score(track).T
    np.testing.assert_allclose(times, windows.window_edges_s(BASELINE, 64000)[1], atol=1e-9)
    log_mels, labels = pool.draw(400, generator())
    with torch.inference_mode():
        found = torch.softmax(network(log_mels), 1)[:, 1].numpy()
    apart = np.abs(found[:, None] - probabilities)
    assert apart.min(1).max() < 1e-6 and np.quantile(apart, 0.1) > 1e-5  # windows are told apart
    assert np.array_equal(pool.labels[0, apart.argmin(1)], labels.numpy())
    assert set(apart.argmin(1)) == set(np.flatnonzero(pool.labels[0] >= 0))


def test_speech_lies_under_windows_and_masks_are_each_window_s_own(material, monkeypatch):
    pool = TrackPool(material, BASELINE, 2, seed=3)
    monkeypatch.setattr(windows, "MASKED", 0.0)
    heard = {}
    for mixed in (0.0, 1.0):
        monkeypatch.setattr(windows, "MIXED", mixed)
        heard[mixed] = torch.exp(5 * pool.draw(64, generator())[0].double())
    added = (heard[1.0] / heard[0.0]).mean((1, 2))
    assert (heard[1.0] >= heard[0.0] * 0.999).all() and (added > 1).all()
    power = torch.ones(200, 40, 101)
    monkeypatch.setattr(windows, "MASKED", 0.5)
    windows.mask_each(power, generator())
    bands, stretches = (power == 0).all(2).sum(1), (power == 0).all(1).sum(1)
    assert 0.3 < (bands > 0).double().mean() < 0.6 and 0.3 < (stretches > 0).double().mean() < 0.6
    assert bands.max() <= windows.BAND and stretches.max() <= windows.STRETCH
    assert torch.equal(
        power, 1 - ((power == 0).all(2)[..., None] | (power == 0).all(1)[:, None]) * 1.0
    )


def test_a_quarter_of_the_windows_are_the_keyword_s(material):
    made = [TrackPool(material, BASELINE, 3, seed).draw(128, generator()) for seed in (0, 0, 1)]
    log_mels, labels = made[0]
    assert log_mels.shape == (128, 40, 101) and labels.tolist() == [0] * 96 + [1] * 32
    assert torch.equal(log_mels, made[1][0]) and not torch.equal(log_mels, made[2][0])
