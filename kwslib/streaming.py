"""The network on a stream: audio in pieces of any size in, a probability every 80 ms out. No torch.

Each step scores the last second exactly as offline: one window is complete, another begins with a
GRU that has heard nothing. Results do not depend on how the stream is cut, to the last bit.

A sample that is not finite is silence, and one a little beyond full scale is cut to it. Both are
forgotten after a second. An int8 checkpoint runs with its weights as floats (int8 times scale).
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import files
from .architecture import Architecture
from .events import Detector
from .layers import FULL_SCALE, LogMels, Windows

LOUDEST = 1.5  # of float samples: resampling overshoots 1 by less, int16 as float is far beyond


@dataclass
class State:
    """All that a stream remembers, as plain values: copy it, keep it, set it back. `numpy.savez`
    takes `vars(state)`, and State(**numpy.load(path)) is the state again."""

    samples: np.ndarray  # (samples of a step,) float32, those that wait for it first
    frames: np.ndarray  # (kernel, mels) log-mels
    states: np.ndarray  # (layers * (hidden + 1), windows) of the GRU, see `layers.GruLayer`
    sums: np.ndarray  # (2, windows) of the attention
    began: int  # samples heard or skipped before this stretch
    heard: int  # samples of this stretch
    step: int  # steps made in this stretch
    is_over: bool  # whether the stream was flushed
    network: str  # digest of the architecture and the weights that it belongs to


class Stream:
    """A keyword spotter on one stream.

    A step makes as many frames as the convolution moves on, and ends where a kernel ends. So the
    first steps also make frames from before the stream. No window that is reported holds them.
    """

    def __init__(self, architecture: Architecture, weights: dict[str, np.ndarray]):
        """weights: float32 arrays, see `files.float_weights`. `ValueError`: cannot be streamed."""
        self.architecture, self._weights, front_end = architecture, weights, architecture.front_end
        kernel, stride = architecture.kernel[1], architecture.stride[1]  # frames
        hop, window = front_end.hop_samples, front_end.window_samples
        if hop > window or stride > kernel or kernel % stride == 1 % stride:
            raise ValueError(
                f"kernel {kernel}, stride {stride}: a stream needs frames that overlap, and a "
                "kernel that is at least a stride and not one frame over a multiple of it"
            )
        steps, self._half = -(-kernel // stride), window // 2  # steps that fill a kernel
        self._first = steps + architecture.steps - 2  # the step that completes the first window
        # Samples of step 0 from before the stream, samples by which a step moves on.
        self._before, self._taken = (steps * stride - kernel) * hop + self._half, stride * hop
        self._samples = np.zeros(self._taken - hop + window, np.float32)  # of the next step
        self._late = window - self._half  # samples that a step hears after its last frame's middle
        self._windows = Windows(architecture, weights)
        self._log_mels = LogMels(front_end, self._samples, self._windows.frames[-stride:])
        content = [architecture.to_json().encode()]
        content += [weights[name].tobytes() for name in sorted(weights)]
        self._network = hashlib.sha256(b"".join(content)).hexdigest()[:16]
        self.reset()

    @classmethod
    def load(cls, path: Path) -> "Stream":
        """The stream of a checkpoint, float or int8, or `FileError`."""
        arrays, metadata = files.read_checkpoint(path)
        architecture = Architecture.from_json(metadata["architecture"])
        try:
            return cls(architecture, files.float_weights(arrays))
        except ValueError as error:
            raise files.FileError(f"{path}: {error}") from None

    def reset(self) -> None:
        """Forgets everything; the next sample is at 0 s."""
        self._began = self._heard = self._step = 0
        self._is_over = False
        self._samples[:] = 0
        self._windows.reset()

    def skip(self, samples: int) -> None:
        """So many samples were lost. Forgets all but the time; the next sample comes after them."""
        if samples < 0:
            raise ValueError(f"samples is {samples}; a gap must not be negative")
        began = self._began + self._heard + int(samples)
        self.reset()
        self._began = began

    @property
    def position_s(self) -> float:
        """Seconds of audio since the stream's start, heard or skipped."""
        return (self._began + self._heard) / self.architecture.front_end.sample_rate_hz

    def feed(self, samples: np.ndarray) -> np.ndarray:
        """Hears (samples,) int16, or float from -1 to 1, any number of them. Returns (steps, 2):
        seconds from the stream's start to the step's last frame, and probability of the keyword in
        the second that ends there."""
        if self._is_over:
            raise ValueError("the stream was flushed; reset it, or skip to where it goes on")
        return self._hear(_scale(samples))

    def flush(self) -> np.ndarray:
        """Ends the stream and returns its last rows, with the last half frame reflected, as offline
        framing does. Before the next sample, reset or skip."""
        rows, heard = self.feed(self._samples[:0]), self._heard
        if heard > self._half:
            tail = self._samples[: self._waiting][-2 : -self._half - 2 : -1]
            rows = np.concatenate([rows, self._hear(tail.copy())])
        self._heard, self._is_over = heard, True
        return rows

    def score(self, samples: np.ndarray, chunk: int = 1280) -> np.ndarray:
        """All rows of a recording from a fresh start, `chunk` samples at a time."""
        self.reset()
        pieces = [self.feed(samples[at : at + chunk]) for at in range(0, len(samples), chunk)]
        return np.concatenate([*pieces, self.flush()])

    def _hear(self, samples: np.ndarray) -> np.ndarray:
        """Samples within FULL_SCALE -> rows. Each step computes on the same arrays however the
        samples came, so its result has the same bits."""
        rows, zero, half = [], self._before, self._half
        while True:
            waiting = self._waiting
            piece = samples[: len(self._samples) - waiting]
            samples = samples[len(piece) :]
            self._samples[waiting : waiting + len(piece)] = piece
            self._heard += len(piece)
            if waiting + len(piece) < len(self._samples):
                return np.array(rows).reshape(-1, 2)
            if self._step == 0:  # offline framing reflects the start about sample 0
                self._samples[zero - half : zero] = self._samples[zero + half : zero : -1]
            self._log_mels.compute()
            probability = self._windows.advance(self._step)
            if self._step >= self._first:
                middle = self._began + self._heard - self._late
                rows.append((middle / self.architecture.front_end.sample_rate_hz, probability))
            self._step += 1
            self._samples[: -self._taken] = self._samples[self._taken :]

    @property
    def _waiting(self) -> int:  # samples that wait for the next step
        return self._before + self._heard - self._step * self._taken

    @property
    def state(self) -> State:
        """A copy of the state. Assign one to go on from there; `ValueError` if it is another
        network's, or no state."""
        counts = self._began, self._heard, self._step, self._is_over
        return State(*(array.copy() for array in self._arrays()), *counts, self._network)

    @state.setter
    def state(self, state: State) -> None:
        if not isinstance(state, State):
            raise ValueError(f"a state is what Stream.state gives, not {type(state).__name__}")
        own, new = self._arrays(), (state.samples, state.frames, state.states, state.sums)
        is_same = [np.shape(array) for array in new] == [array.shape for array in own]
        if str(state.network) != self._network or not is_same:
            raise ValueError("not a state of this network: it belongs to another one")
        self._began, self._heard = int(state.began), int(state.heard)
        self._step, self._is_over = int(state.step), bool(state.is_over)
        for array, value in zip(own, new, strict=True):
            array[:] = value

    def _arrays(self) -> tuple[np.ndarray, ...]:
        return self._samples, self._windows.frames, self._windows.states, self._windows.sums

    def __reduce__(self):  # array by array, a copy would lose which ones are views
        return Stream, (self.architecture, self._weights), self.state

    def __setstate__(self, state: State) -> None:
        self.state = state


def ready(path: Path, threshold=None, smoothing=None) -> tuple[Stream, Detector]:
    """The stream and the detector of a checkpoint. `threshold` and `smoothing` override the stored
    values. Without a stored detector, the defaults of `Detector` hold."""
    values = json.loads(files.read_checkpoint(path)[1].get("detector", "{}"))
    if threshold is not None:
        values["threshold"] = threshold
    if smoothing is not None:
        values["smoothing"] = smoothing
    return Stream.load(path), Detector(**values)


def _scale(samples: np.ndarray) -> np.ndarray:
    """(samples,) int16, or float of full scale 1 -> within FULL_SCALE, silent where not finite."""
    samples = np.asarray(samples)
    is_int16 = samples.dtype.kind == "i" and samples.dtype.itemsize == 2  # of either byte order
    if samples.ndim != 1 or not (is_int16 or samples.dtype.kind == "f"):
        raise ValueError(f"samples are {samples.dtype} {samples.shape}, not (n,) int16 or float")
    if is_int16:
        return samples
    if len(samples) and not (samples.max() <= 1 and samples.min() >= -1):  # so NaN comes here too
        samples = np.where(np.isfinite(samples), samples, 0)
        if (loudest := np.abs(samples).max()) > LOUDEST:
            raise ValueError(f"a float sample is {loudest:g}; full scale is 1, or pass int16")
        samples = samples.clip(-1, 1)
    return samples.astype(np.float32) * np.float32(FULL_SCALE)
