"""The network on a stream: audio in pieces of any size in, a probability every 80 ms out. No torch.

What offline scoring recomputes for every window, a stream keeps: the last samples that the next
frame overlaps, the last frames under the convolution's kernel, the GRU's state, and the GRU's last
outputs, over which attention runs (as many as a one-second clip has). The GRU's state is *carried*
from the stream's start, so outputs equal the offline network run over the whole recording at once,
with attention over the same window; they do not depend on how the stream is cut, to the last bit.
An int8 checkpoint runs with its weights as floats (int8 times scale).
"""

import copy
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import checkpoints
from .architecture import Architecture


@dataclass
class State:
    """Everything a stream remembers. A plain value: copy it, keep it, set it back."""

    samples: np.ndarray  # (pending,) float32 from the next frame's first sample on
    heard: int  # samples fed since the start
    frames: np.ndarray  # (mels, kept) log-mels that the next convolution step still needs
    step: int  # steps made since the start
    hidden: np.ndarray  # (layers, hidden) GRU state
    outputs: np.ndarray  # (at most window, hidden) last GRU outputs, oldest first


class Stream:
    """A keyword spotter on one stream.

    weights: float32 arrays by name, as `checkpoints.float_weights` gives them. The attention's
    window is as long as a clip (11 steps in the named architectures); until the stream is that long,
    it is over what there is, after an initial call that waits for the first full kernel (20 frames).
    """

    def __init__(self, architecture: Architecture, weights: dict[str, np.ndarray]):
        self.architecture = a = architecture
        if a.steps < 2 or a.stride[1] > a.kernel[1]:
            raise ValueError("a stream needs two steps a clip, and a kernel at least as long as its stride")
        front_end = a.front_end
        self._window, self._filters = front_end.window(), front_end.filters()
        self._kernel = weights["convolution.weight"].reshape(a.channels, -1)
        self._kernel_bias = weights["convolution.bias"][:, None]
        self._gru = [
            tuple(
                weights[f"gru.{kind}_{side}_l{layer}"] for kind in ("weight", "bias") for side in ("ih", "hh")
            )
            for layer in range(a.layers)
        ]
        self._attend = weights["attention.0.weight"], weights["attention.0.bias"]
        self._energy = weights["attention.2.weight"][0], weights["attention.2.bias"][0]
        self._classify = weights["classifier.weight"], weights["classifier.bias"]
        self.reset()

    @classmethod
    def load(cls, path: Path) -> "Stream":
        """The stream of a checkpoint, or `CheckpointError`."""
        arrays, metadata = checkpoints.read(path)
        architecture = checkpoints.architecture_of(metadata, path, arrays)
        try:
            return cls(architecture, checkpoints.float_weights(arrays, path))
        except KeyError as error:
            raise checkpoints.CheckpointError(f"{path}: {error} is neither float32 nor int8") from None

    @property
    def latency_s(self) -> float:
        """Seconds of audio past a step's last frame centre that the step waits for."""
        front_end = self.architecture.front_end
        return front_end.window_samples / 2 / front_end.sample_rate_hz

    def reset(self) -> None:
        """Forgets everything heard."""
        a = self.architecture
        self._state = State(
            samples=np.zeros(0, np.float32),
            heard=0,
            frames=np.zeros((a.front_end.mels, 0), np.float32),
            step=0,
            hidden=np.zeros((a.layers, a.hidden), np.float32),
            outputs=np.zeros((0, a.hidden), np.float32),
        )

    @property
    def state(self) -> State:
        """A copy of the state; assign one to go on from there."""
        return copy.deepcopy(self._state)

    @state.setter
    def state(self, state: State) -> None:
        self._state = copy.deepcopy(state)

    def feed(self, samples: np.ndarray) -> np.ndarray:
        """Hears (samples,) int16, or float from -1 to 1; any number of them, none included.

        Returns (steps, 2) float64: time in seconds from the stream's start of the step's last
        frame, and the probability of the keyword in the last second.
        """
        samples = np.asarray(samples)
        if samples.ndim != 1:
            raise ValueError(f"samples are {samples.shape}; a stream hears (samples,), one channel")
        if samples.dtype == np.int16:
            samples = samples.astype(np.float32) / 32768
        elif not np.issubdtype(samples.dtype, np.floating):
            raise ValueError(f"samples are {samples.dtype}; they must be int16 or float")
        samples = np.where(np.isfinite(samples), samples, 0)  # a broken sample is silence, not NaN for ever
        state, half = self._state, self.architecture.front_end.window_samples // 2
        waiting = state.heard <= half  # the start is reflected about sample 0: it takes half + 1
        state.heard += len(samples)
        state.samples = np.concatenate([state.samples, samples.astype(np.float32, copy=False)])
        if waiting and state.heard > half:
            state.samples = np.concatenate([state.samples[half:0:-1], state.samples])
        return self._advance() if state.heard > half else np.zeros((0, 2))

    def flush(self) -> np.ndarray:
        """Ends the stream: reflects its last half window, as offline framing does, and returns the
        steps that this completes. After it the stream must be reset."""
        state, half = self._state, self.architecture.front_end.window_samples // 2
        if state.heard <= half:
            return np.zeros((0, 2))
        state.samples = np.concatenate([state.samples, state.samples[-2 : -half - 2 : -1]])
        return self._advance()

    def hear(self, samples: np.ndarray, chunk: int = 1280) -> np.ndarray:
        """A recording from a fresh start, `chunk` samples at a time: (steps, 2) as from `feed`."""
        self.reset()
        pieces = [self.feed(samples[start : start + chunk]) for start in range(0, len(samples), chunk)]
        return np.concatenate([*pieces, self.flush()])

    def _advance(self) -> np.ndarray:
        """Makes every step that the pending samples allow. Each step's arrays have the same shapes
        however the samples came, which is what makes the results equal to the last bit."""
        a, state = self.architecture, self._state
        hop, window = a.front_end.hop_samples, a.front_end.window_samples
        kernel_frames, stride = a.kernel[1], a.stride[1]
        rows, start = [], 0
        while True:
            wanted = kernel_frames - state.frames.shape[1]
            if len(state.samples) - start < (wanted - 1) * hop + window:
                break
            log_mels = self._log_mels(state.samples[start : start + (wanted - 1) * hop + window])
            start += wanted * hop
            frames = np.concatenate([state.frames, log_mels], axis=1)
            state.frames = frames[:, stride:]
            rows.append((self._time_s(state.step), self._step(frames)))
            state.step += 1
        state.samples = state.samples[start:]
        return np.array(rows).reshape(-1, 2)

    def _time_s(self, step: int) -> float:
        a = self.architecture
        frame = step * a.stride[1] + a.kernel[1] - 1
        return frame * a.front_end.hop_samples / a.front_end.sample_rate_hz

    def _log_mels(self, samples: np.ndarray) -> np.ndarray:
        """(samples,) -> (mels, frames): as `features.mel_power` and `features.log_mel`."""
        front_end = self.architecture.front_end
        strided = np.lib.stride_tricks.sliding_window_view(samples, front_end.window_samples)
        spectrum = np.fft.rfft(strided[:: front_end.hop_samples] * self._window)
        power = (spectrum.real**2 + spectrum.imag**2) @ self._filters
        return np.log(np.clip(power, front_end.floor, front_end.ceiling)).T

    def _step(self, frames: np.ndarray) -> float:
        """(mels, kernel frames) under the kernel -> probability of the keyword."""
        a, state = self.architecture, self._state
        height, width = a.kernel
        patches = np.lib.stride_tricks.sliding_window_view(frames, a.kernel)[:: a.stride[0], 0]
        maps = self._kernel @ patches.reshape(a.conv_mels, height * width).T + self._kernel_bias
        inputs = maps.reshape(-1)  # (channels, conv_mels) flattened, as CRNN.convolve
        for layer, (w_ih, w_hh, b_ih, b_hh) in enumerate(self._gru):
            hidden = state.hidden[layer]
            reset_i, update_i, new_i = np.split(w_ih @ inputs + b_ih, 3)
            reset_h, update_h, new_h = np.split(w_hh @ hidden + b_hh, 3)
            reset, update = _sigmoid(reset_i + reset_h), _sigmoid(update_i + update_h)
            new = np.tanh(new_i + reset * new_h)
            inputs = (1 - update) * new + update * hidden
            state.hidden[layer] = inputs
        state.outputs = np.concatenate([state.outputs[-(a.steps - 1) :], inputs[None]])
        weight, bias = self._attend
        energies = np.tanh(state.outputs @ weight.T + bias) @ self._energy[0] + self._energy[1]
        weights = np.exp(energies - energies.max())
        context = (weights / weights.sum()) @ state.outputs
        other, keyword = self._classify[0] @ context + self._classify[1]
        return float(1 / (1 + np.exp(np.float64(other - keyword))))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * np.tanh(0.5 * x) + 0.5


def detections(
    stream: Stream, pieces: Iterable[np.ndarray], threshold: float
) -> Iterator[tuple[float, float]]:
    """(time in seconds, probability) whenever the probability rises to the threshold from below.

    pieces: (samples,) arrays, as they come; the stream is flushed after the last.
    """
    was_over = False
    for piece in itertools.chain(pieces, [None]):
        for time_s, probability in stream.flush() if piece is None else stream.feed(piece):
            if probability >= threshold and not was_over:
                yield float(time_s), float(probability)
            was_over = probability >= threshold


def plateau_s(times: np.ndarray, probabilities: np.ndarray, threshold: float, end_s: float) -> float:
    """Seconds for which the probability stays at or over the threshold after the keyword's end.

    times, probabilities: (steps,); end_s: where the keyword's clip ends. 0.0 when it is below at
    the first step past the end.
    """
    after = np.flatnonzero(times >= end_s)
    if not len(after):
        raise ValueError(f"the stream ends before {end_s:.2f} s")
    below = after[probabilities[after] < threshold]
    last = times[below[0]] if len(below) else times[-1]
    return float(max(0.0, last - end_s)) if not len(below) or below[0] != after[0] else 0.0
