"""From waveforms to the log-mel spectrograms that networks see.

The recipe is the reference study's, equal to torchaudio's `MelSpectrogram` (centred, reflected at
the ends) to rounding, but faster on a CPU: frames lie contiguously before one real FFT. Then the
logarithm is centred and scaled by two constants of the front end, which trains faster.
"""

import torch

from .architecture import FrontEnd


def mel_power(waveforms: torch.Tensor, front_end: FrontEnd) -> torch.Tensor:
    """(batch, samples) float32 from -1 to 1 -> (batch, mels, 1 + samples // hop) mel power."""
    half = front_end.window_samples // 2
    padded = torch.nn.functional.pad(waveforms[:, None], (half, half), mode="reflect")[:, 0]
    frames = padded.unfold(1, front_end.window_samples, front_end.hop_samples)
    window = torch.from_numpy(front_end.window()).to(waveforms.device)
    spectrum = torch.view_as_real(torch.fft.rfft(frames * window))
    power = spectrum[..., 0].square().addcmul_(spectrum[..., 1], spectrum[..., 1])
    filters = torch.from_numpy(front_end.filters()).to(waveforms.device)
    return (power @ filters).transpose(1, 2)  # (batch, frames, mels) -> (batch, mels, frames)


def log_mel(power: torch.Tensor, front_end: FrontEnd) -> torch.Tensor:
    """What networks take: (ln(power between floor and ceiling) - centre) / spread; same shape."""
    log_mels = power.clamp(front_end.floor, front_end.ceiling).log_()
    return log_mels.sub_(front_end.centre).div_(front_end.spread)


def log_mel_of(samples, front_end: FrontEnd) -> torch.Tensor:
    """(batch, mels, frames) log-mels of int16 audio (batch, samples)."""
    return log_mel(mel_power(to_waveforms(samples), front_end), front_end)


def to_waveforms(samples) -> torch.Tensor:
    """int16 samples of any shape as float32 from -1 to 1."""
    return torch.from_numpy(samples.astype("float32")) / 32768
