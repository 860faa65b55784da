import numpy as np
import pytest
import torch
import torchaudio

from kwslib import features
from kwslib.architecture import FrontEnd
from kwslib.features import BACKGROUND, NOISE, QUIET, UNCHANGED, ClipFeatures

FRONT_END = FrontEnd()
ALL = np.arange(24)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def kinds_drawn(count, seed=0):
    """What `augmented` does to each row: its first draw, repeated here."""
    return torch.randint(4, (count,), generator=generator(seed)).numpy()


@pytest.fixture
def clips(corpus):
    """24 clips of the tiny corpus, int16."""
    return corpus.clips[np.arange(24) * 5]


@pytest.fixture
def clip_features(clips, corpus):
    return ClipFeatures(clips, list(corpus.background.values()), FRONT_END)


@pytest.fixture
def without_masks(monkeypatch):
    monkeypatch.setattr(features, "mask", lambda power, generator: power)


def test_window_is_torch_s_hann_window():
    # torch takes the cosine of an angle rounded to float32: 2.4e-7 of up to 2 pi
    np.testing.assert_allclose(FRONT_END.window(), torch.hann_window(400).numpy(), rtol=0, atol=5e-7)


def test_filters_are_torchaudio_s():
    theirs = torchaudio.functional.melscale_fbanks(201, 0.0, 8000.0, 40, 16000, norm=None, mel_scale="htk")
    ours = FRONT_END.filters()
    assert ours.shape == theirs.shape
    # torchaudio places the corners of the triangles in float32: 1e-8 of 8,000 Hz in a width of 50 Hz
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-5)


@pytest.mark.parametrize("samples", [16000, 15999, 401, 40000])
def test_mel_power_and_log_mel_are_torchaudio_s(samples):
    theirs = torchaudio.transforms.MelSpectrogram(16000, n_fft=400, win_length=400, hop_length=160, n_mels=40)
    waveforms = 0.1 * torch.randn(3, samples, generator=generator())
    wanted, ours = theirs(waveforms), features.mel_power(waveforms, FRONT_END)
    assert ours.shape == wanted.shape == (3, 40, samples // 160 + 1)
    # filters differ by 3e-6 (above), and both sum in float32
    torch.testing.assert_close(ours, wanted, rtol=5e-5, atol=0)
    wanted = wanted.clamp(1e-9, 1e9).log()
    torch.testing.assert_close(features.log_mel(ours, FRONT_END), wanted, rtol=0, atol=5e-5)


def test_log_mel_of_silence_is_the_floor():
    log_mels = features.log_mel(features.mel_power(torch.zeros(1, 16000), FRONT_END), FRONT_END)
    assert torch.equal(log_mels, torch.full((1, 40, 101), 1e-9).log())


def test_a_tone_is_loudest_in_its_own_mel():
    hz = 1000
    tone = torch.sin(2 * np.pi * hz * torch.arange(16000) / 16000)[None]
    loudest = features.mel_power(tone, FRONT_END)[0, :, 50].argmax()
    # 1,000 Hz is 1,000 mel; 41 equal steps reach 2,840 mel at 8 kHz; filter n peaks at step n + 1
    assert loudest == round(1000 / (2840.02 / 41)) - 1


@pytest.mark.parametrize("seed", range(40))
def test_masks_are_one_band_and_one_stretch_for_the_whole_batch(seed):
    power = features.mask(torch.ones(2, 40, 101), generator(seed))
    assert torch.equal(power[0], power[1])
    masked = power[0] == 0
    mels, frames = masked.all(1), masked.all(0)
    assert mels.sum() <= 15 and frames.sum() <= 35
    assert torch.equal(masked, mels[:, None] | frames[None])
    for rows in (mels, frames):  # contiguous: it starts at most once
        assert (torch.diff(rows.int()) == 1).sum() + rows[0] <= 1


def test_masks_use_their_range():
    widths = [(features.mask(torch.ones(1, 40, 101), generator(seed)) == 0)[0] for seed in range(200)]
    assert {int(m.all(1).sum()) for m in widths} == set(range(15))
    assert max(int(m.all(0).sum()) for m in widths) >= 33


def test_a_masked_cell_is_log_of_a_billionth(clip_features, monkeypatch):
    seen = []
    original = features.mask
    monkeypatch.setattr(features, "mask", lambda p, g: seen.append(original(p, g)) or seen[-1])
    log_mels = clip_features.augmented(ALL, generator(3))
    masked = seen[0] == 0
    assert masked.any() and not masked.all()
    assert torch.equal(log_mels[masked], torch.full((int(masked.sum()),), 1e-9).log())


def test_noise_has_deviation_one_hundredth():
    noise = features.add_noise(torch.zeros(10, 16000), generator())
    # the deviation of 160,000 draws is off by 1 / sqrt(320,000) = 0.18 %: four times that
    assert noise.std() == pytest.approx(0.01, rel=0.007)
    assert abs(noise.mean()) < 1e-4


def test_noise_is_clamped():
    loud = features.add_noise(torch.ones(1, 16000), generator())
    assert loud.max() == 1 and loud.min() < 1


def unit(samples):
    return samples / torch.linalg.vector_norm(samples)


def test_background_is_one_db_under_the_clip_when_the_recording_is_as_long():
    clip = 0.01 * torch.randn(1, 16000, generator=generator())
    recording = unit(torch.randn(16000, generator=generator(1)))
    added = features.add_background(clip, [recording], generator()) - clip
    ratio = torch.linalg.vector_norm(added) / torch.linalg.vector_norm(clip)
    assert 20 * ratio.log10().item() == pytest.approx(-1, abs=1e-3)  # float32 sums


def test_background_of_a_minute_is_nineteen_db_under_the_clip():
    clip = 0.01 * torch.randn(1, 16000, generator=generator())
    recording = unit(torch.randn(60 * 16000, generator=generator(1)))
    added = features.add_background(clip, [recording], generator()) - clip
    ratio = torch.linalg.vector_norm(added) / torch.linalg.vector_norm(clip)
    # -1 - 10 log10(60) = -18.8; a second's norm varies by 1 / sqrt(32,000): 0.05 dB
    assert 20 * ratio.log10().item() == pytest.approx(-18.78, abs=0.2)


def test_background_is_clamped_and_leaves_its_input():
    clip = torch.ones(1, 16000)
    mixed = features.add_background(clip, [unit(torch.ones(16000))], generator())
    assert mixed.max() == 1
    assert torch.equal(clip, torch.ones(1, 16000))


def test_quiet_is_bit_equal_to_a_quarter_of_the_waveform(clip_features, clips, without_masks):
    kinds = kinds_drawn(24)
    waveforms = torch.from_numpy(clips.astype(np.float32) / 32768)
    quarter = features.log_mel(features.mel_power(0.25 * waveforms, FRONT_END), FRONT_END)
    plain = features.log_mel(features.mel_power(waveforms, FRONT_END), FRONT_END)
    augmented = clip_features.augmented(ALL, generator())
    assert augmented.shape == plain.shape
    assert torch.equal(augmented[kinds == QUIET], quarter[kinds == QUIET])
    assert torch.equal(augmented[kinds == UNCHANGED], plain[kinds == UNCHANGED])
    for kind in (QUIET, NOISE, BACKGROUND):  # the control: each of these does change its clips
        assert (augmented[kinds == kind] != plain[kinds == kind]).any(dim=(1, 2)).all()


def test_caching_changes_nothing(clip_features, clips):
    first, again = clip_features.plain(ALL), clip_features.plain(ALL)
    assert torch.equal(first, again)
    uncached = ClipFeatures(clips, [], FRONT_END)
    one_by_one = torch.cat([uncached.plain(ALL[n : n + 1]) for n in reversed(ALL)]).flip(0)
    assert torch.equal(first, one_by_one)


def test_augmentation_leaves_cached_rows_alone(clip_features):
    before = clip_features.plain(ALL).clone()
    for seed in range(4):
        clip_features.augmented(ALL, generator(seed))
    assert torch.equal(clip_features.plain(ALL), before)


def test_a_seed_gives_one_batch_cached_or_not(clips, corpus):
    background = list(corpus.background.values())
    warm, cold = (ClipFeatures(clips, background, FRONT_END) for _ in range(2))
    warm.plain(ALL)
    batch = np.array([5, 0, 5, 23, 7, 7, 7, 2])
    assert torch.equal(warm.augmented(batch, generator(1)), cold.augmented(batch, generator(1)))
    assert not torch.equal(warm.augmented(batch, generator(1)), warm.augmented(batch, generator(2)))


def test_without_background_recordings_those_clips_stay_as_they_are(clips, without_masks):
    bare, kinds = ClipFeatures(clips, [], FRONT_END), kinds_drawn(24)
    augmented, plain = bare.augmented(ALL, generator()), bare.plain(ALL)
    assert torch.equal(augmented[kinds == BACKGROUND], plain[kinds == BACKGROUND])
    assert not torch.equal(augmented[kinds == NOISE], plain[kinds == NOISE])
