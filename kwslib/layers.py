"""What a step of a stream is made of, laid out so that it costs little: log-mels, a GRU layer for many windows,
attention with the classifier. NumPy alone.

Time goes to calls and to strides, not to arithmetic: so biases are weights of a 1 that stands beside what is
multiplied, results go where they are kept, and a window is a column, by which what is worked on together lies
together.
"""

import importlib
import math
from collections.abc import Callable

import numpy as np

from .architecture import Architecture, FrontEnd

# Arrays, as converting a number takes NumPy about as long as adding it to a small array.
_ONE, _HALF = np.array(1, np.float32), np.array(0.5, np.float32)


class LogMels:
    """Log-mels of as many frames as `out` has rows (frames, mels), into it: as `features.mel_power` and
    `features.log_mel`."""

    def __init__(self, front_end: FrontEnd, out: np.ndarray):
        hop, window = front_end.hop_samples, front_end.window_samples
        self.needed, self.taken = (len(out) - 1) * hop + window, len(out) * hop  # samples
        hann, filters = front_end.window(), front_end.filters()
        # Times its length, by which the forward norm divides: NumPy converts the default norm's 1 at each
        # call, which takes a good part of the transform's time.
        self._hann = hann * np.float32(window)
        self._filters = np.repeat(filters, 2, axis=0)  # for squares of real and imaginary parts in turn
        self._floor = np.array(front_end.floor, np.float32)
        loudest = hann.sum() ** 2 * filters.sum(axis=0).max()  # samples are at most 1
        self._ceiling = np.array(front_end.ceiling, np.float32) if loudest >= front_end.ceiling else None
        self._transform = transform(window)
        self._out, self._shape, self._strides = out, (len(out), window), (4 * hop, 4)
        self._frames = np.zeros(self._shape, np.float32)
        self._spectra = np.zeros((len(out), front_end.bins), np.complex64)
        self._parts = self._spectra.view(np.float32)

    def make(self, samples: np.ndarray, start: int) -> None:
        """Of (samples,) float32 within -1 to 1, the first frame from sample `start` on: `needed` of them."""
        out, parts = self._out, self._parts
        frames = np.ndarray(self._shape, np.float32, samples, 4 * start, self._strides)
        np.multiply(frames, self._hann, out=self._frames)
        self._transform(self._frames, self._spectra)
        np.square(parts, out=parts)
        np.dot(parts, self._filters, out=out)
        np.maximum(out, self._floor, out=out)
        if self._ceiling is not None:
            np.minimum(out, self._ceiling, out=out)
        np.log(out, out=out)


def transform(window: int) -> Callable[[np.ndarray, np.ndarray], object]:
    """What `np.fft.rfft(frames, norm="forward", out=spectra)` does with float32 frames (frames, window), without what
    comes before the transform there, which takes a good part of a step: NumPy's own ufunc, whose name is not public.
    So it is tried; where it is not what it was, the public way stays."""

    def public(frames: np.ndarray, spectra: np.ndarray) -> np.ndarray:
        return np.fft.rfft(frames, norm="forward", out=spectra)

    tried = np.linspace(-1, 1, 2 * window, dtype=np.float32).reshape(2, window) ** 3
    wanted, found = np.zeros((2, 2, window // 2 + 1), np.complex64)
    share = np.reciprocal(window, dtype=np.float32)
    try:
        ufuncs = importlib.import_module("numpy.fft._pocketfft_umath")
        direct = ufuncs.rfft_n_odd if window % 2 else ufuncs.rfft_n_even
        direct(tried, share, found)
    except (ImportError, AttributeError, TypeError, ValueError):
        return public
    same = np.array_equal(found, public(tried, wanted))
    return (lambda frames, spectra: direct(frames, share, spectra)) if same else public


class GruLayer:
    """A GRU layer for any number of windows, in one product a step; states change in place. With t = tanh(x / 2),
    sigmoid(x) is (1 + t) / 2: the halves are in the weights, but for the one of the update gate. Of its own state h
    and that of the layer below, x, biases left out:

        t_r, t_z = tanh((x W + h U) / 2)
        b = h U_n / 2,  n = tanh(x W_n + b + t_r b)
        h' = n + (1 + t_z) / 2 (h - n)
    """

    def __init__(self, weights: dict[str, np.ndarray], layer: int, size: int, states: np.ndarray):
        """states: (layers * (size + 1), windows), of all layers, the last one's first, a row of 1 after each: so
        that what a layer reads, its own and that of the layer below, are neighbours."""
        inputs, hidden, input_bias, hidden_bias = (
            weights[f"gru.{kind}_{side}_l{layer}"].T for kind in ("weight", "bias") for side in ("ih", "hh")
        )
        halves = np.repeat(np.float32([0.5, 0.5, 1]), size)
        # (inputs + 1, 3 size): from what lies below, to both gates and to n; last the biases, b's too.
        self.from_below = np.vstack([inputs * halves, input_bias * halves + hidden_bias / 2])
        # (rows that are read, 4 size): from its own state, the 1 and the state below, to the same and to b.
        below = self.from_below[:-1] if layer else self.from_below[:0]
        read = np.zeros((size + 1 + len(below), 4 * size), np.float32)
        read[:size] = np.hstack([hidden, hidden[:, -size:]]) / 2
        read[size] = np.hstack([self.from_below[-1], hidden_bias[-size:] / 2])
        read[size + 1 :, : 3 * size] = below
        # (3 size,): where the first layer is told at each step what lies below it, which is the same for all windows.
        self.told = read[size, : 3 * size]
        self._weights = read.T
        own = len(states) - (layer + 1) * (size + 1)
        self._states, self.hidden = states[own : own + len(read)], states[own : own + size]
        self._products = np.zeros((4 * size, states.shape[1]), np.float32)
        # Views, as making one takes as long as adding two rows.
        self._gates = self._products[: 2 * size]
        self._reset, self._update, self._new, self._recalled = np.split(self._products, 4)

    def advance(self) -> None:
        """The next step of every window."""
        hidden, reset, update, new = self.hidden, self._reset, self._update, self._new
        np.dot(self._weights, self._states, out=self._products)
        np.tanh(self._gates, out=self._gates)
        np.multiply(reset, self._recalled, out=reset)
        np.add(new, reset, out=new)
        np.tanh(new, out=new)
        np.add(update, _ONE, out=update)
        np.subtract(hidden, new, out=hidden)
        np.multiply(hidden, update, out=hidden)
        np.multiply(hidden, _HALF, out=hidden)
        np.add(hidden, new, out=hidden)


class Attention:
    """Attention over steps, and the classifier of two classes."""

    def __init__(self, weights: dict[str, np.ndarray], size: int):
        self._energy = weights["attention.2.weight"][0].copy()  # its bias shifts all energies alike
        # An energy is at most the sum of these weights: small enough for exp, or the largest is taken off.
        self._fits_exp = np.abs(self._energy).sum() < 80
        other, keyword = _with_bias(weights, "classifier")
        # (size + 2, size + 1): to the attention; to the difference of logits, which decides between two classes;
        # and the 1 that outputs end in.
        one = np.eye(size + 1, dtype=np.float32)[-1]
        self._weights = np.vstack([_with_bias(weights, "attention.0"), keyword - other, one])

    def probability(self, outputs: np.ndarray) -> float:
        """Of the keyword, of (size + 1, steps) outputs of the last GRU layer that end in a 1."""
        products = np.dot(self._weights, outputs)
        energies = np.dot(self._energy, np.tanh(products[:-2]))
        weights = np.exp(energies if self._fits_exp else energies - energies.max())
        logit, total = np.dot(products[-2:], weights).tolist()
        return 0.0 if logit <= -700 * total else 1 / (1 + math.exp(-logit / total))  # NaN stays NaN


def convolved(weights: dict[str, np.ndarray], a: Architecture, input_weights: np.ndarray) -> np.ndarray:
    """(kernel frames * mels + 1, 3 hidden): convolution and the first layer's input weights in one, as
    there is nothing but a sum between them. input_weights: (channels * conv_mels + 1, 3 hidden)."""
    kernel = weights["convolution.weight"][:, 0].astype(np.float64)  # (channels, kernel mels, frames)
    of_maps = input_weights[:-1].astype(np.float64).reshape(a.channels, a.conv_mels, -1)
    made = np.zeros((a.kernel[1], a.front_end.mels, of_maps.shape[2]))
    for row in range(a.conv_mels):
        under = slice(row * a.stride[0], row * a.stride[0] + a.kernel[0])
        made[:, under] += np.einsum("cmf,ch->fmh", kernel, of_maps[:, row])
    bias = np.einsum("c,cmh->h", weights["convolution.bias"].astype(np.float64), of_maps) + input_weights[-1]
    return np.concatenate([made.reshape(-1, made.shape[2]), bias[None]]).astype(np.float32)


def moved(array: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Views of an array's values, one after another: all but the last `count`, and all but the first. They have one
    dimension, as NumPy assigns overlapping ones of more by way of a copy."""
    flat = array.reshape(-1)
    return flat[: len(flat) - count], flat[count:]


def _with_bias(weights: dict[str, np.ndarray], name: str) -> np.ndarray:
    """(outputs, inputs + 1): a linear layer's weights for inputs that end in a 1."""
    return np.concatenate([weights[f"{name}.weight"], weights[f"{name}.bias"][:, None]], axis=1)
