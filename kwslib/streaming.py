"""The network on a stream: audio in pieces of any size in, a probability every 80 ms out. No torch.

Each step scores the last second exactly as offline: one window is complete, another begins with a
GRU that has heard nothing. Results do not depend on how the stream is cut, to the last bit. A
sample that is not finite is silence, one a little beyond full scale is cut to it, and both are
forgotten after a second. An int8 checkpoint runs with its weights as floats (int8 times scale).
Calls cost more than arithmetic on small arrays. So all windows that overlap (11) are columns of
one array, a bias is the weight of a 1 beside the values, and arrays are made once.
"""

import json
import math
from pathlib import Path

import numpy as np

from . import files
from .architecture import Architecture, FrontEnd
from .events import Detector

FULL_SCALE = 32768  # of samples
ONE, HALF = np.array(1, np.float32), np.array(0.5, np.float32)  # to convert a number takes time


class LogMels:
    """Log-mels as `features.log_mel` makes them. Each call reads `samples` (samples,) within
    FULL_SCALE, frames that overlap, and writes `out` (frames, mels)."""

    def __init__(self, front_end: FrontEnd, samples: np.ndarray, out: np.ndarray):
        frames = np.lib.stride_tricks.sliding_window_view(samples, front_end.window_samples)
        self._frames = frames[:: front_end.hop_samples][: len(out)]  # (frames, window samples)
        # The norm "forward" is the quickest. It divides by the length, so the window multiplies.
        self._hann = front_end.window() * np.float32(front_end.window_samples / FULL_SCALE)
        self._windowed = np.zeros(self._frames.shape, np.float32)
        self._spectra = np.zeros((len(out), front_end.window_samples // 2 + 1), np.complex64)
        self._parts = self._spectra.view(np.float32)  # (frames, 2 * bins): real, imaginary in turn
        self._filters = np.repeat(front_end.filters(), 2, axis=0)  # so each stands twice
        limits = front_end.floor, front_end.ceiling, front_end.centre, front_end.spread
        self._limits, self._out = [np.array(limit, np.float32) for limit in limits], out

    def compute(self) -> None:
        parts, out, (floor, ceiling, centre, spread) = self._parts, self._out, self._limits
        np.multiply(self._frames, self._hann, out=self._windowed)
        np.fft.rfft(self._windowed, norm="forward", out=self._spectra)
        np.square(parts, out=parts)
        np.dot(parts, self._filters, out=out)
        np.maximum(out, floor, out=out)
        np.minimum(out, ceiling, out=out)
        np.log(out, out=out)
        out -= centre
        out /= spread


class GruLayer:
    """A GRU layer for all windows. Of its input x and its state h, biases left out:
        r, z = sigmoid(x W + h U),  n = tanh(x W_n + r (h U_n)),  h' = n + z (h - n)
    sigmoid(a) is (1 + t) / 2 with t = tanh(a / 2), so r (h U_n) is b + t b with b = h U_n / 2."""

    def __init__(self, weights: dict[str, np.ndarray], layer: int, size: int, states: np.ndarray):
        """states: (layers * (size + 1), windows), the last layer first, a row of 1 after each. So a
        layer reads one block of rows: its own state, the 1, the state of the layer below."""
        kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        inputs, hidden, input_bias, hidden_bias = (weights[f"gru.{k}_l{layer}"].T for k in kinds)
        halves = np.repeat(np.float32([0.5, 0.5, 1]), size)
        # (inputs + 1, 3 * size): from the input and the 1 to r, z and n
        self.input_weights = np.vstack([inputs * halves, input_bias * halves + hidden_bias / 2])
        # (size + 1 + size below, 4 * size): from the rows that are read to r, z, n and b
        below = self.input_weights[: -1 if layer else 0]
        to_rzn = np.vstack([hidden / 2, self.input_weights[-1], below])
        to_b = np.vstack([hidden, hidden_bias, np.zeros_like(below)])[:, -size:] / 2
        self._weights = np.hstack([to_rzn, to_b]).T
        self.from_input = self._weights[: 3 * size, size]  # no bias: what a step's input adds
        own = states[-(layer + 1) * (size + 1) :]
        self._read, self._hidden = own[: self._weights.shape[1]], own[:size]
        self._products = np.zeros((4 * size, states.shape[1]), np.float32)
        self._gates, self._split = self._products[: 2 * size], np.split(self._products, 4)

    def advance(self) -> None:
        h, (r, z, n, b) = self._hidden, self._split
        np.dot(self._weights, self._read, out=self._products)
        np.tanh(self._gates, out=self._gates)
        r *= b
        n += r
        np.tanh(n, out=n)
        z += ONE
        z *= HALF
        h -= n
        h *= z
        h += n


class Windows:
    """The network on all windows that overlap. Write a stride of log-mels to the last rows of
    `frames` (kernel, mels), and advance. Attention weighs a step by exp(v . tanh(W h)), h the last
    layer's state. Sums of the weights and of weighted logits grow, so no outputs are kept."""

    def __init__(self, a: Architecture, weights: dict[str, np.ndarray]):
        mels, kernel = a.front_end.mels, a.kernel[1]
        self._inputs = np.ones(kernel * mels + 1, np.float32)  # frames, and the 1 of the bias
        self.frames, self._moved = self._inputs[:-1].reshape(kernel, mels), a.stride[1] * mels
        one = np.eye(a.hidden + 1, dtype=np.float32)[-1]
        self._new = np.tile(one, a.layers)  # a window's first states, and the 1s
        self.states = np.zeros((len(self._new), a.steps), np.float32)  # see `GruLayer`
        self.sums = np.zeros((2, a.steps))  # of weighted logits, of weights
        self._layers = [GruLayer(weights, n, a.hidden, self.states) for n in range(a.layers)]
        self._from_inputs = fold_convolution(weights, a, self._layers[0].input_weights)
        self._energy = weights["attention.2.weight"][0].copy()  # a bias would cancel out
        if np.abs(self._energy).sum() > 700:  # its exponential would overflow
            raise ValueError("attention.2.weight: its sizes add up to over 700")
        tanh = np.column_stack([weights["attention.0.weight"], weights["attention.0.bias"]])
        classes = np.column_stack([weights["classifier.weight"], weights["classifier.bias"]])
        # (hidden + 2, hidden + 1): to the tanh, to the logit, and the 1 as it is
        self._weights = np.vstack([tanh, classes[1] - classes[0], one])
        self._outputs = self.states[: a.hidden + 1]
        self._products = np.zeros((a.hidden + 2, a.steps), np.float32)
        self._tanh, self._logit_and_one = self._products[:-2], self._products[-2:]

    def reset(self) -> None:
        self.frames[:], self.sums[:], self.states[:] = 0, 0, self._new[:, None]

    def advance(self, step: int) -> float:
        """Step number `step` -> probability of the keyword in the window that it completes."""
        np.dot(self._inputs, self._from_inputs, out=self._layers[0].from_input)
        for layer in self._layers:
            layer.advance()
        np.dot(self._weights, self._outputs, out=self._products)
        np.tanh(self._tanh, out=self._tanh)
        weights = np.exp(np.dot(self._energy, self._tanh), dtype=np.float64)
        self.sums += self._logit_and_one * weights
        complete = step % self.sums.shape[1]
        logit, total = self.sums[:, complete].tolist()
        self.states[:, complete], self.sums[:, complete] = self._new, 0  # another window begins
        self._inputs[: -1 - self._moved] = self._inputs[self._moved : -1]
        return 1 / (1 + math.exp(min(-logit / total, 700)))  # NaN stays NaN


def fold_convolution(weights: dict, a: Architecture, inputs: np.ndarray) -> np.ndarray:
    """Convolution and the first layer's input weights in one, as both are linear.
    inputs: (channels * conv_mels + 1, outputs) -> (kernel frames * mels + 1, outputs)"""
    kernel = weights["convolution.weight"][:, 0].astype(float)  # (channels, kernel mels, frames)
    maps = inputs[:-1].astype(float).reshape(a.channels, a.conv_mels, -1)
    folded = np.zeros((a.kernel[1], a.front_end.mels, inputs.shape[1]))
    for row in range(a.conv_mels):
        first = row * a.stride[0]
        folded[:, first : first + a.kernel[0]] += np.einsum("cmf,co->fmo", kernel, maps[:, row])
    bias = np.einsum("c,cmo->o", weights["convolution.bias"], maps) + inputs[-1]
    return np.vstack([folded.reshape(-1, len(bias)), bias]).astype(np.float32)


class Stream:
    """A keyword spotter on one stream. Do not copy one: arrays are views of each other. A step
    makes as many frames as the convolution moves on, and ends where a kernel ends. So the first
    steps also make frames from before the stream. No window that is reported holds them."""

    def __init__(self, architecture: Architecture, weights: dict[str, np.ndarray]):
        """weights: float32 arrays, see `files.float_weights`. `ValueError`: cannot be streamed."""
        front_end, self._hz = architecture.front_end, architecture.front_end.sample_rate_hz
        kernel, stride = architecture.kernel[1], architecture.stride[1]  # frames
        hop, window = front_end.hop_samples, front_end.window_samples
        if hop > window or stride > kernel or kernel % stride == 1 % stride:
            needs = "a stream needs hop <= window, 1 < stride <= kernel, kernel % stride not 1"
            raise ValueError(f"hop {hop}, kernel {kernel}, stride {stride}: {needs}")
        steps, self._half = -(-kernel // stride), window // 2  # steps that fill a kernel
        self._first = steps + architecture.steps - 2  # the step that completes the first window
        self._middle = (kernel - 1 - (steps - 1) * stride) * hop  # of step 0's last frame, a sample
        # Samples of step 0 from before the stream, samples by which a step moves on.
        self._before, self._taken = (steps * stride - kernel) * hop + self._half, stride * hop
        self._samples = np.zeros(self._taken - hop + window, np.float32)  # of the next step
        self._windows = Windows(architecture, weights)
        self._log_mels = LogMels(front_end, self._samples, self._windows.frames[-stride:])
        self.reset()

    @classmethod
    def load(cls, path: Path) -> "Stream":
        """The stream of a checkpoint, float or int8, or `FileError`."""
        arrays, stated = files.read_checkpoint(path)
        try:
            return cls(Architecture.from_json(stated["architecture"]), files.float_weights(arrays))
        except ValueError as error:
            raise files.FileError(f"{path}: {error}") from None

    def reset(self) -> None:
        """Forgets everything; the next sample is at 0 s."""
        self._heard, self._step, self._is_over = 0, 0, False  # samples, steps
        self._waiting, self._samples[:] = self._before, 0  # samples that wait for the next step
        self._windows.reset()

    @property
    def position_s(self) -> float:
        """Seconds of audio since the stream's start."""
        return self._heard / self._hz

    def feed(self, samples: np.ndarray) -> np.ndarray:
        """Hears (samples,) int16, or float from -1 to 1, any number of them. Returns (steps, 2):
        seconds from the stream's start to the step's last frame, and probability of the keyword in
        the second that ends there."""
        if self._is_over:
            raise ValueError("the stream was flushed; reset it")
        scaled = _scale(samples)
        self._heard += len(scaled)
        return self._hear(scaled)

    def flush(self) -> np.ndarray:
        """Ends the stream and returns its last rows, with the last half frame reflected, as offline
        framing does. Before the next sample, reset."""
        self.feed(self._samples[:0])  # complains of a stream that was flushed
        self._is_over = True
        tail = self._samples[: self._waiting][-2 : -self._half - 2 : -1]
        return self._hear(tail.copy())

    def score(self, samples: np.ndarray, chunk: int = 1280) -> np.ndarray:
        """All rows of a recording from a fresh start, `chunk` samples at a time."""
        self.reset()
        pieces = [self.feed(samples[at : at + chunk]) for at in range(0, len(samples), chunk)]
        return np.concatenate([*pieces, self.flush()])

    def _hear(self, samples: np.ndarray) -> np.ndarray:
        """Samples within FULL_SCALE -> rows, of the same bits however the samples came."""
        rows, zero, half = [], self._before, self._half
        while True:
            piece = samples[: len(self._samples) - self._waiting]
            samples = samples[len(piece) :]
            self._samples[self._waiting : self._waiting + len(piece)] = piece
            self._waiting += len(piece)
            if self._waiting < len(self._samples):
                return np.array(rows).reshape(-1, 2)
            if self._step == 0:  # offline framing reflects the start about sample 0
                self._samples[zero - half : zero] = self._samples[zero + half : zero : -1]
            self._log_mels.compute()
            probability = self._windows.advance(self._step)
            if self._step >= self._first:
                rows.append(((self._middle + self._step * self._taken) / self._hz, probability))
            self._samples[: -self._taken] = self._samples[self._taken :]
            self._step, self._waiting = self._step + 1, self._waiting - self._taken


def ready(path: Path, threshold=None, smoothing=None) -> tuple[Stream, Detector]:
    """The stream and the detector of a checkpoint. `threshold` and `smoothing` override the stored
    values. Without a stored detector, the defaults of `Detector` hold."""
    values = json.loads(files.read_checkpoint(path)[1].get("detector", "{}"))
    asked = {"threshold": threshold, "smoothing": smoothing}
    values |= {name: value for name, value in asked.items() if value is not None}
    return Stream.load(path), Detector(**values)


def _scale(samples: np.ndarray) -> np.ndarray:
    """(samples,) int16, or float of full scale 1 -> within FULL_SCALE, silent where not finite."""
    samples = np.asarray(samples)
    if samples.ndim != 1 or samples.dtype.str[1:] not in ("i2", "f2", "f4", "f8"):
        raise ValueError(f"samples are {samples.dtype} {samples.shape}, not (n,) int16 or float")
    if samples.dtype.kind == "i":
        return samples
    if len(samples) and not (samples.max() <= 1 and samples.min() >= -1):  # so NaN comes here too
        samples = np.where(np.isfinite(samples), samples, 0)
        if (loudest := np.abs(samples).max()) > 1.5:  # resampling overshoots by less
            raise ValueError(f"a float sample is {loudest:g}; full scale is 1, or pass int16")
        samples = samples.clip(-1, 1)
    return samples.astype(np.float32) * np.float32(FULL_SCALE)
