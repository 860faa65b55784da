import numpy as np
import pytest
import torch
import torchaudio
from hypothesis import given
from hypothesis import strategies as st

from kwslib import features
from kwslib.architecture import FrontEnd

FRONT_END = FrontEnd()


def noise(samples, batch=1):
    return 0.1 * torch.randn(batch, samples, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("samples", [16000, 15999, 401, 40000])
def test_mel_power_is_torchaudio_s(samples):
    theirs = torchaudio.transforms.MelSpectrogram(16000, n_fft=400, hop_length=160, n_mels=40)
    waveforms = noise(samples, batch=3)
    wanted, ours = theirs(waveforms), features.mel_power(waveforms, FRONT_END)
    assert ours.shape == wanted.shape == (3, 40, samples // 160 + 1)
    # torchaudio places the corners of the triangles in float32, and both sum in float32
    torch.testing.assert_close(ours, wanted, rtol=5e-5, atol=0)


def test_a_tone_is_loudest_in_its_own_mel():
    tone = torch.sin(2 * np.pi * 1000 * torch.arange(16000) / 16000)[None]
    loudest = features.mel_power(tone, FRONT_END)[0, :, 50].argmax()
    # 1,000 Hz is 1,000 mel; 41 equal steps reach 2,840 mel at 8 kHz; filter n peaks at step n + 1
    assert loudest == round(1000 / (2840.02 / 41)) - 1


@given(st.integers(-8, 8))
def test_a_gain_is_a_factor_of_the_power(exponent):
    """Of powers of two, to the last bit: so that a gain may be applied after the spectrum."""
    gain, waveforms = 2.0**exponent, noise(1600)
    power = features.mel_power(waveforms, FRONT_END)
    assert torch.equal(features.mel_power(gain * waveforms, FRONT_END), gain**2 * power)


def test_log_mels_by_hand():
    """e^3 is two spreads over the centre; below the floor counts as the floor, and so on."""
    power = torch.tensor([np.e**3, 0.0, 1e-12, 1e30, 1.0])
    before, lowest, highest = power.clone(), (np.log(1e-9) + 7) / 5, (np.log(1e9) + 7) / 5
    wanted = torch.tensor([2.0, lowest, lowest, highest, 1.4], dtype=torch.float32)
    torch.testing.assert_close(features.log_mel(power, FRONT_END), wanted, atol=1e-6, rtol=0)
    assert torch.equal(power, before)  # pools keep power, so it must stay as it is


def test_samples_become_waveforms_of_full_scale_one_and_their_log_mels():
    waveforms = features.to_waveforms(np.array([[-32768, 0, 16384, 32767]], np.int16))
    assert waveforms.dtype == torch.float32
    assert waveforms.tolist() == [[-1, 0, 0.5, 32767 / 32768]]
    samples = np.random.default_rng(0).integers(-3000, 3000, (2, 16000)).astype(np.int16)
    power = features.mel_power(torch.from_numpy(samples / np.float32(32768)), FRONT_END)
    assert power.shape == (2, 40, 101)
    assert torch.equal(features.log_mel_of(samples, FRONT_END), features.log_mel(power, FRONT_END))
