"""What a network is trained on: windows of one second with labels, seeded by (seed, step).

Two pools hold mel power, on which noise adds, gain is a factor and a shift is frames: a tenth of
the work of changing waveforms. `ClipPool` holds clips, `TrackPool` made tracks, whose windows are
cut as a stream scores them. Log-mels are (batch, mels, frames), labels (batch,) int64.
"""

import numpy as np
import torch

from .architecture import Architecture
from .features import log_mel, mel_power, to_waveforms
from .tracks import Material, training_track

NOISE_DEVIATION = 0.01  # of white noise, where full scale is 1
GAIN = 0.25
BACKGROUND_DB = -1.0  # of a whole recording's norm to the clip's: about 19 dB under the clip
SHIFT = 8  # frames, at most, earlier or later
MASKED_MELS, MASKED_FRAMES = 15, 35
NOISE, QUIET, BACKGROUND = 1, 2, 3  # what is done to a clip; to one in four, nothing
WHITE = 64  # pieces of white noise to draw from
TRACK_S = 4.0
POSITIVES = 0.25  # of the windows drawn from tracks
MIXED, UNDER_DB = 0.5, (0.0, 25.0)  # of the windows lie over another one, so many dB above it
MASKED, BAND, STRETCH = 0.5, 8, 20  # of the windows lack a band of mels, a stretch of frames
TILT, BEND = 1.2, 0.8  # largest change of ln power by a microphone, at the ends and in the middle
LEAST_HELD = 0.2  # of a keyword: a window that holds as much has no label, unless it holds all
AROUND_S = 0.1  # of audio that must follow and precede a fragment within its window


class ClipPool:
    """Mel power of clips (clips, samples) int16, computed when first asked for and kept (19 KB a
    clip). noises: recordings (samples,) int16; without any, no clip is put over one."""

    def __init__(self, clips: np.ndarray, noises, architecture: Architecture, device: str = "cpu"):
        self.clips, self.front_end, self.device = clips, architecture.front_end, device
        self.frames = self.front_end.frames
        shape = (len(clips), self.front_end.mels, self.frames + 2 * SHIFT)
        self._power = torch.empty(shape, device=device)
        self._energy = torch.empty(len(clips), device=device)
        self._known = np.zeros(len(clips), bool)
        white = torch.randn(WHITE, self.front_end.clip_samples, generator=torch.Generator())
        self._white = mel_power(white * NOISE_DEVIATION, self.front_end).to(device)
        # Of every recording, at norm 1; windows of them start at any frame.
        self._noises = [self._noise(noise) for noise in noises if np.any(noise)]

    def log_mels(self, positions: np.ndarray) -> torch.Tensor:
        """Log-mels of clips as they are."""
        self._compute(positions)
        power = self._power[torch.from_numpy(positions), :, SHIFT : SHIFT + self.frames]
        return log_mel(power, self.front_end)

    def augmented(
        self, positions: np.ndarray, generator: np.random.Generator, is_masked: bool
    ) -> torch.Tensor:
        """Log-mels of clips, each shifted in time, and left alone, in white noise, at a quarter of
        its amplitude, or over background noise, one of the four at random; then masked."""
        self._compute(positions)
        index = torch.from_numpy(positions)
        shifts = torch.from_numpy(generator.integers(2 * SHIFT + 1, size=len(positions)))
        power = self._power.unfold(2, self.frames, 1)[index, :, shifts]  # (batch, mels, frames)
        kinds = generator.integers(4, size=len(positions))
        power[torch.from_numpy(kinds == QUIET)] *= GAIN**2
        rows = torch.from_numpy(np.flatnonzero(kinds == NOISE))
        power[rows] += self._white[torch.from_numpy(generator.integers(WHITE, size=len(rows)))]
        if self._noises:
            rows = np.flatnonzero(kinds == BACKGROUND)
            scale = self._energy[index[rows]] * 10 ** (BACKGROUND_DB / 10)
            background = self._background(len(rows), generator)
            power[torch.from_numpy(rows)] += scale[:, None, None] * background
        if is_masked:
            mask(power, generator)
        return log_mel(power, self.front_end)

    def _background(self, count: int, generator: np.random.Generator) -> torch.Tensor:
        """(count, mels, frames) mel power of random windows of random recordings of norm 1."""
        chosen = [self._noises[n] for n in generator.integers(len(self._noises), size=count)]
        starts = [generator.integers(noise.shape[1] - self.frames + 1) for noise in chosen]
        windows = [n[:, s : s + self.frames] for n, s in zip(chosen, starts, strict=True)]
        return torch.stack(windows) if windows else torch.empty(0, *self._white.shape[1:])

    def _noise(self, recording: np.ndarray) -> torch.Tensor:
        recording = np.resize(recording, max(len(recording), self.clips.shape[1]))
        waveform = to_waveforms(recording)
        return mel_power((waveform / waveform.norm())[None], self.front_end)[0].to(self.device)

    def _compute(self, positions: np.ndarray) -> None:
        missing = np.unique(positions[~self._known[positions]])
        for some in torch.from_numpy(missing).split(256) if len(missing) else ():
            waveforms = to_waveforms(self.clips[some.numpy()])
            power = mel_power(waveforms, self.front_end)
            padded = torch.nn.functional.pad(power, (SHIFT, SHIFT), mode="replicate")
            self._power[some] = padded.to(self.device)
            self._energy[some] = waveforms.square().sum(1).to(self.device)
        self._known[missing] = True


def mask(power: torch.Tensor, generator: np.random.Generator) -> None:
    """Zeroes one band of at most 15 mels and one stretch of at most 35 frames, the same for the
    whole batch, in place (SpecAugment, arXiv 1904.08779; on the power, as the study did)."""
    for axis, longest in ((1, MASKED_MELS), (2, MASKED_FRAMES)):
        width = generator.random() * longest
        start = int(generator.random() * (power.shape[axis] - width))
        power.narrow(axis, start, int(width)).zero_()


def balanced(labels: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """(count,) positions into labels, drawn with replacement, both classes as likely."""
    classes = [np.flatnonzero(labels == value) for value in (0, 1)]
    of_keyword = generator.random(count) < 0.5
    drawn = [generator.choice(positions, count) for positions in classes]
    return np.where(of_keyword, drawn[1], drawn[0])


class TrackPool:
    """Mel power of so many training tracks, 64 KB each, and the labels of their windows. Track n is
    made from (seed, n) alone."""

    def __init__(self, material: Material, a: Architecture, tracks: int, seed: int, say=None):
        self.architecture, front_end = a, a.front_end
        samples = round(TRACK_S * front_end.sample_rate_hz)
        self._power = torch.empty(tracks, front_end.mels, samples // front_end.hop_samples + 1)
        found = []
        for number in range(tracks):
            generator = np.random.default_rng([seed, 29, number])
            track, words, fragments = training_track(material, samples, generator)
            self._power[number] = mel_power(torch.from_numpy(track)[None], front_end)[0]
            found.append(window_labels(words, fragments, a, samples))
            if say and (number + 1) % 1024 == 0:
                say(f"{number + 1:,} of {tracks:,} training tracks")
        whole = (self._power.shape[2] - front_end.frames) // a.stride[1] + 1
        self.labels = np.array(found)[:, :whole]  # (tracks, windows)
        self._places = [np.argwhere(self.labels == value) for value in (0, 1)]

    def draw(self, count: int, generator: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-mels and labels of windows, a quarter of them the keyword's. Half lie over another
        window; each is heard through a microphone of its own, and may lack a band or a stretch."""
        positives = round(count * POSITIVES) if len(self._places[1]) else 0
        sizes = count - positives, positives
        labels = torch.from_numpy(np.repeat([0, 1], sizes))
        power = torch.cat([self._cut(label, sizes[label], generator) for label in (0, 1)])
        under = self._cut(0, count, generator)
        gain = (generator.random(count) < MIXED) * 10 ** (-generator.uniform(*UNDER_DB, count) / 10)
        gain = torch.from_numpy(gain.astype(np.float32)) * power.mean((1, 2))
        power += under * (gain / under.mean((1, 2)).clamp_min(1e-9))[:, None, None]
        front_end = self.architecture.front_end
        power *= torch.from_numpy(np.exp(microphones(count, front_end.mels, generator)))[..., None]
        mask_each(power, generator)
        return log_mel(power, front_end), labels

    def _cut(self, label: int, count: int, generator: np.random.Generator) -> torch.Tensor:
        """(count, mels, frames) power of windows of a label, with replacement."""
        places = self._places[label]  # (n, 2): track, window
        track, window = torch.from_numpy(places[generator.integers(len(places), size=count)]).T
        frames, stride = self.architecture.front_end.frames, self.architecture.stride[1]
        return self._power.unfold(2, frames, stride)[track, :, window]


def mask_each(power: torch.Tensor, generator: np.random.Generator) -> None:
    """Zeroes a band of at most `BAND` mels in half of the windows, and a stretch of at most
    `STRETCH` frames in half, for each window another, in place (SpecAugment)."""
    count, *sizes = power.shape
    for axis, size, longest in zip((2, 1), sizes, (BAND, STRETCH), strict=True):
        width = generator.integers(longest + 1, size=count) * (generator.random(count) < MASKED)
        start = generator.integers(size - width + 1)
        place = np.arange(size) - start[:, None]
        keeps = torch.from_numpy((place < 0) | (place >= width[:, None]))
        power *= keeps.unsqueeze(axis)


def microphones(count: int, mels: int, generator: np.random.Generator) -> np.ndarray:
    """(count, mels) float32 to add to ln power: tilted and bent frequency responses."""
    place = np.linspace(-1, 1, mels, dtype=np.float32)
    tilt = generator.uniform(-TILT, TILT, (count, 1)).astype(np.float32)
    bend = generator.uniform(-BEND, BEND, (count, 1)).astype(np.float32)
    return tilt * place + bend * (1 - 2 * place**2)


def window_edges_s(architecture: Architecture, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """(windows,) seconds of the first and the last frame of each window of so many samples."""
    front_end, stride = architecture.front_end, architecture.stride[1]
    length = (architecture.steps - 1) * stride + architecture.kernel[1]  # frames
    first = np.arange(0, samples // front_end.hop_samples + 2 - length, stride)
    hop_s = front_end.hop_samples / front_end.sample_rate_hz
    return first * hop_s, (first + length - 1) * hop_s


def window_labels(
    words: np.ndarray, fragments: np.ndarray, architecture: Architecture, samples: int
) -> np.ndarray:
    """(windows,) int64 labels of a track's windows: 1 where the window holds a whole keyword, 0
    where it holds less than `LEAST_HELD` of any, -1 (no label) between: corpora hold cut-off words
    that are labelled as the keyword. So a fragment is another word only where the window goes on
    around it. words, fragments: (n, 2) seconds, of keywords and of parts of keywords."""
    start, stop = window_edges_s(architecture, samples)
    labels = np.zeros(len(stop), np.int64)
    for begin, end in words:
        inside = np.clip(np.minimum(stop, end) - np.maximum(start, begin), 0, None)
        held = inside / max(end - begin, 1e-9)
        labels = np.where((held >= LEAST_HELD) & (labels == 0), -1, labels)
        labels = np.where(held > 0.999, 1, labels)
    for begin, end in fragments:
        edges = [(edge > begin - AROUND_S) & (edge < end + AROUND_S) for edge in (start, stop)]
        labels = np.where((edges[0] | edges[1]) & (labels == 0), -1, labels)
    return labels
