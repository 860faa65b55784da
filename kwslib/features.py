"""From waveforms to the log-mel spectrograms that networks see; augmentation, on whole batches.

Waveforms are (batch, samples) float32 from -1 to 1; mel power and log-mels are
(batch, mels, frames). Everything runs on the device of what it is given. The recipe is the
reference study's, equal to torchaudio's `MelSpectrogram` (centred, reflected at the ends) to
rounding, but faster on a CPU: frames are laid out contiguously before one real FFT.
"""

import numpy as np
import torch

from .architecture import FrontEnd

NOISE_DEVIATION = 0.01
GAIN = 0.25  # a power of two: scaling audio and scaling its power round alike
BACKGROUND_DB = -1.0  # of the whole recording's norm to the clip's, see `add_background`
MASKED_MELS = 15
MASKED_FRAMES = 35
UNCHANGED, NOISE, QUIET, BACKGROUND = range(4)  # what augmentation does to a clip


def mel_power(waveforms: torch.Tensor, front_end: FrontEnd) -> torch.Tensor:
    """Mel power spectrogram.

    Shape: waveforms (batch, samples) -> (batch, mels, 1 + samples // hop)
    """
    half = front_end.window_samples // 2
    padded = torch.nn.functional.pad(waveforms[:, None], (half, half), mode="reflect")[:, 0]
    frames = padded.unfold(1, front_end.window_samples, front_end.hop_samples)
    window = torch.from_numpy(front_end.window()).to(waveforms.device)
    spectrum = torch.view_as_real(torch.fft.rfft(frames * window))
    power = spectrum[..., 0].square()
    power.addcmul_(spectrum[..., 1], spectrum[..., 1])
    filters = torch.from_numpy(front_end.filters()).to(waveforms.device)
    return (power @ filters).transpose(1, 2)  # (batch, frames, mels) -> (batch, mels, frames)


def log_mel(power: torch.Tensor, front_end: FrontEnd) -> torch.Tensor:
    """Natural logarithm of the mel power between floor and ceiling; same shape."""
    return power.clamp(front_end.floor, front_end.ceiling).log()


def mask(power: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Zeroes one band of at most 15 mels and one stretch of at most 35 frames, the same for the
    whole batch, in place (SpecAugment, arXiv 1904.08779; on the power, as the reference did)."""
    for axis, longest in ((1, MASKED_MELS), (2, MASKED_FRAMES)):
        width, place = torch.rand(2, generator=generator, device=generator.device).tolist()
        width = width * longest
        start = int(place * (power.shape[axis] - width))
        power.narrow(axis, start, int(width)).zero_()
    return power


def add_noise(waveforms: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """White noise of standard deviation 0.01, clamped to [-1, 1]."""
    noise = torch.randn(waveforms.shape, generator=generator, device=waveforms.device)
    return noise.mul_(NOISE_DEVIATION).add_(waveforms).clamp_(-1, 1)


def add_background(
    waveforms: torch.Tensor, recordings: list[torch.Tensor], generator: torch.Generator
) -> torch.Tensor:
    """A random second of a random recording under each clip, clamped to [-1, 1].

    Scaled by |clip| / |whole recording| * 10 ** (-1 / 20), norms over all samples: as a recording
    lasts a minute or so, about 19 dB under the clip. `recordings` are given with norm 1.
    """
    batch, samples = waveforms.shape
    which = torch.randint(len(recordings), (batch,), generator=generator, device=generator.device)
    place = torch.rand(batch, generator=generator, device=generator.device)
    scale = torch.linalg.vector_norm(waveforms, dim=1) * 10 ** (BACKGROUND_DB / 20)
    mixed = waveforms.clone()
    for row, (index, at) in enumerate(zip(which.tolist(), place.tolist(), strict=True)):
        recording = recordings[index]
        start = int(at * (len(recording) - samples))
        mixed[row].addcmul_(recording[start : start + samples], scale[row])
    return mixed.clamp_(-1, 1)


class ClipFeatures:
    """Log-mels of a fixed set of clips, plain or augmented as in training.

    The mel power of an untouched clip is computed once and kept (16 KB a clip): half of all
    training rows are untouched or only scaled, and need nothing else.

    clips: (clips, samples) int16; background: recordings, (samples,) int16 each, may be empty, then
    augmentation leaves alone the clips that would have had one; digest: names the corpus.
    """

    def __init__(self, clips: np.ndarray, background, front_end: FrontEnd, device="cpu", digest: str = ""):
        self.digest = digest
        self.clips, self.front_end, self.device = clips, front_end, torch.device(device)
        recordings = [self._waveform(recording) for recording in background]
        self._recordings = [r / torch.linalg.vector_norm(r).clamp_min(1e-12) for r in recordings]
        shape = (len(clips), front_end.mels, front_end.frames)
        self._power = torch.empty(shape, device=self.device)
        self._known = np.zeros(len(clips), dtype=bool)

    def plain(self, positions: np.ndarray) -> torch.Tensor:
        """(batch, mels, frames) log-mels without augmentation."""
        return log_mel(self._plain_power(positions), self.front_end)

    def augmented(
        self, positions: np.ndarray, generator: torch.Generator, masked: bool = True
    ) -> torch.Tensor:
        """(batch, mels, frames) log-mels: each clip left alone, in white noise, at a quarter of its
        amplitude or over background noise, one of the four at random; then the masks, if `masked`."""
        kinds = torch.randint(4, (len(positions),), generator=generator, device=generator.device)
        kinds = kinds.cpu().numpy()
        power = self._plain_power(positions)
        power[torch.from_numpy(kinds == QUIET).to(self.device)] *= GAIN**2
        changed = {NOISE: lambda w: add_noise(w, generator)}
        if self._recordings:
            changed[BACKGROUND] = lambda w: add_background(w, self._recordings, generator)
        for kind, change in changed.items():
            rows = np.flatnonzero(kinds == kind)
            if len(rows):
                waveforms = change(self._waveform(self.clips[positions[rows]]))
                power[torch.from_numpy(rows).to(self.device)] = mel_power(waveforms, self.front_end)
        return log_mel(mask(power, generator) if masked else power, self.front_end)

    def _plain_power(self, positions: np.ndarray) -> torch.Tensor:
        missing = np.unique(positions[~self._known[positions]])
        for some in np.array_split(missing, -(-len(missing) // 256) or 1):
            if len(some):
                waveforms = self._waveform(self.clips[some])
                self._power[torch.from_numpy(some)] = mel_power(waveforms, self.front_end)
        self._known[missing] = True
        return self._power[torch.from_numpy(positions)]

    def _waveform(self, samples: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(samples.astype(np.float32) / 32768).to(self.device)
