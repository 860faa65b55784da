"""What a step of a stream computes: log-mels, GRU layers, attention and classifier. NumPy alone.

Calls cost more than arithmetic on small arrays. So all windows that overlap (11) are columns of
one array, a bias is the weight of a 1 beside the values, and arrays are made once.
"""

import math

import numpy as np

from .architecture import Architecture, FrontEnd

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
        self._spectra = np.zeros((len(out), front_end.bins), np.complex64)
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
    sigmoid(a) is (1 + t) / 2 with t = tanh(a / 2), so r (h U_n) is b + t b with b = h U_n / 2.
    """

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
