"""The network on a stream: audio in pieces of any size in, a probability every 80 ms out. No torch.

Two modes. `window` scores the last second at every step exactly as offline scoring does: each second
begins with a GRU that has heard nothing, so as many windows as a second has steps (11) advance side
by side, in one product each step. `carried` lets one GRU run on from the stream's start, with
attention over its outputs of the last second: offline, that is the network run over the whole
recording at once. Either way the results do not depend on how the stream is cut, to the last bit.

What is no audio is defined. A sample that is no number is silence, one beyond full scale is cut to
it; neither lasts longer than its second (in `carried`, than the GRU remembers). Digital silence is
log-mels at their floor. A gap that is known is `skip`ped: time goes on, the rest is forgotten. An
int8 checkpoint runs with its weights as floats (int8 times scale).
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import checkpoints
from .architecture import Architecture
from .events import Detector

MODES = ("window", "carried")
# Arrays, as converting a number takes NumPy about as long as adding it to a small array.
_ONE, _HALF, _FULL_SCALE = (np.array(value, np.float32) for value in (1, 0.5, 1 / 32768))


@dataclass
class State:
    """Everything a stream remembers, a plain value: copy it, keep it, set it back. `vars(state)` is
    what `numpy.savez` takes, and State(**numpy.load(path)) what it gives back."""

    samples: np.ndarray  # (pending,) float32 from the next frame's first sample on
    began: int  # samples skipped or heard before the first one of this stretch
    heard: int  # samples heard since then
    frames: np.ndarray  # (kept, mels) log-mels that the next step still needs
    step: int  # steps made in this stretch
    hidden: np.ndarray  # (layers, windows, hidden) GRU states, the oldest window first
    outputs: np.ndarray  # (windows, steps, hidden) last GRU outputs of each window, the oldest first
    is_over: bool = False  # whether it was flushed


class Stream:
    """A keyword spotter on one stream.

    weights: float32 arrays by name, as `checkpoints.float_weights` gives them. `window` gives its
    first row when the first second is complete; `carried` at the first full kernel (20 frames), with
    attention over what there is until it has a second.
    """

    def __init__(self, architecture: Architecture, weights: dict[str, np.ndarray], mode: str = "carried"):
        self.architecture = a = architecture
        _check(mode)
        if a.steps < 2 or a.stride[1] > a.kernel[1]:
            raise ValueError("a stream needs two steps a clip, and a kernel at least as long as its stride")
        self.mode, front_end, self._weights = mode, a.front_end, weights
        if front_end.hop_samples > front_end.window_samples:
            raise ValueError("a stream needs windows at least as long as their hop")
        windows = a.steps if mode == "window" else 1
        self._first = a.steps - 1 if mode == "window" else 0  # step that is the first to have a row
        # Times its length, by which the forward norm divides: NumPy converts the default norm's 1 at each
        # call, which takes a good part of the transform's time.
        self._hann = front_end.window() * np.float32(front_end.window_samples)
        self._filters = front_end.filters()
        loudest = front_end.window().sum() ** 2 * self._filters.sum(axis=0).max()
        self._floor = np.array(front_end.floor, np.float32)
        self._reaches_ceiling = loudest >= front_end.ceiling  # samples are at most 1
        self._spectra = np.zeros((a.kernel[1], front_end.bins), np.complex64)
        self._power = np.zeros(self._spectra.shape, np.float32)
        # Log-mels under the kernel; after them a 1, by which biases are part of the weights.
        self._inputs = np.ones(a.kernel[1] * front_end.mels + 1, np.float32)
        self._block = self._inputs[:-1].reshape(a.kernel[1], front_end.mels)
        sizes = [1] + [windows] * (a.layers - 1)
        self._gru = [_Layer(weights, n, a.hidden, rows, windows) for n, rows in enumerate(sizes)]
        self._gru[0].read(_convolved(weights, a, self._gru[0].input_weights))
        self._outputs = np.ones((windows, a.steps, a.hidden + 1), np.float32)
        # The newest output of each window: in `window` the newest window's first, the oldest one's last.
        flat = self._outputs.reshape(windows * a.steps, a.hidden + 1)
        self._newest = flat[a.steps - 1 : -1 : a.steps - 1] if windows > 1 else flat[-1:]
        # Where a step moves what is kept, and from where: outputs by a window or a step, log-mels by the stride.
        self._outputs_to, self._outputs_from = _moved(
            self._outputs, 1 if mode == "carried" else a.steps, a.hidden + 1
        )
        self._frames_to, self._frames_from = _moved(self._block, a.stride[1], front_end.mels)
        attend, energy, classify = "attention.0", "attention.2", "classifier"
        self._attend = np.ascontiguousarray(_with_bias(weights, attend).T)
        self._energy = weights[f"{energy}.weight"][0]  # its bias shifts all energies alike
        # An energy is at most the sum of these weights: small enough for exp, or the largest is taken off.
        self._is_small = np.abs(self._energy).sum() < 80
        other, keyword = _with_bias(weights, classify)
        # Of two classes the difference of logits decides; beside it the 1 that the outputs end in.
        self._classify = np.stack([keyword - other, np.eye(a.hidden + 1, dtype=np.float32)[-1]], axis=1)
        self.reset()

    @classmethod
    def load(cls, path: Path, mode: str = "carried") -> "Stream":
        """The stream of a checkpoint, or `CheckpointError`."""
        _check(mode)
        arrays, metadata = checkpoints.read(path)
        architecture = checkpoints.architecture_of(metadata, path, arrays)
        weights = checkpoints.float_weights(arrays, path)
        try:
            return cls(architecture, weights, mode)
        except KeyError as error:
            raise checkpoints.CheckpointError(f"{path}: {error} is neither float32 nor int8") from None
        except ValueError as error:
            raise checkpoints.CheckpointError(f"{path}: {error}") from None

    def __reduce__(self):
        return Stream, (self.architecture, self._weights, self.mode), self.state

    def __setstate__(self, state: State) -> None:
        self.state = state

    @property
    def latency_s(self) -> float:
        """Seconds of audio past a step's last frame centre that the step waits for."""
        front_end = self.architecture.front_end
        return front_end.window_samples / 2 / front_end.sample_rate_hz

    @property
    def position_s(self) -> float:
        """Seconds of audio since the stream's start, heard or skipped."""
        return (self._began + self._heard) / self.architecture.front_end.sample_rate_hz

    def reset(self) -> None:
        """Forgets everything heard; the next sample is at 0 s."""
        self._samples, self._began, self._heard = np.zeros(0, np.float32), 0, 0
        self._kept, self._steps, self._is_over = 0, 0, False
        self._outputs[..., :-1] = 0
        for layer in self._gru:
            layer.hidden[:] = 0

    def skip(self, samples: int) -> None:
        """A gap: so many samples were lost. Forgets everything heard; the next sample comes after it."""
        if samples < 0:
            raise ValueError(f"a gap of {samples} samples; it must not be negative")
        began = self._began + self._heard + int(samples)
        self.reset()
        self._began = began

    @property
    def state(self) -> State:
        """A copy of the state; assign one to go on from there."""
        return State(
            samples=self._samples.copy(),
            began=self._began,
            heard=self._heard,
            frames=self._block[: self._kept].copy(),
            step=self._steps,
            hidden=np.stack([layer.hidden for layer in self._gru]),
            outputs=self._outputs[..., :-1].copy(),
            is_over=self._is_over,
        )

    @state.setter
    def state(self, state: State) -> None:
        a = self.architecture
        kept = 0 if int(state.step) == 0 else a.kernel[1] - a.stride[1]
        shapes = {
            "samples": (np.size(state.samples),),
            "frames": (kept, a.front_end.mels),
            "hidden": (a.layers, *self._gru[0].hidden.shape),
            "outputs": self._outputs[..., :-1].shape,
        }
        values = {name: np.array(getattr(state, name), np.float32) for name in shapes}
        for name, shape in shapes.items():
            if values[name].shape != shape:
                raise ValueError(
                    f"not a state of a {self.mode} stream of this architecture: {name} is "
                    f"{values[name].shape}, not {shape}"
                )
            if not np.isfinite(values[name]).all():
                raise ValueError(f"not a state: {name} holds values that are not finite")
        # Arrays after numpy.load.
        began, heard, step = (int(n) for n in (state.began, state.heard, state.step))
        if min(began, heard, step) < 0:
            raise ValueError(f"not a state: began {began}, heard {heard}, step {step}; none may be negative")
        self._samples, self._began, self._heard = values["samples"], began, heard
        self._kept, self._steps, self._is_over = kept, step, bool(state.is_over)
        self._block[:kept] = values["frames"]
        self._outputs[..., :-1] = values["outputs"]
        for layer, hidden in zip(self._gru, values["hidden"], strict=True):
            layer.hidden[:] = hidden

    def feed(self, samples: np.ndarray) -> np.ndarray:
        """Hears (samples,) int16, or float from -1 to 1; any number of them, none included.

        Returns (steps, 2) float64: time in seconds from the stream's start of the step's last
        frame, and the probability of the keyword in the last second.
        """
        self._goes_on()
        samples, half = _clean(samples), self.architecture.front_end.window_samples // 2
        waiting = self._heard <= half  # the start is reflected about sample 0: it takes half + 1
        self._heard += len(samples)
        self._samples = np.concatenate((self._samples, samples))
        if waiting and self._heard > half:
            self._samples = np.concatenate((self._samples[half:0:-1], self._samples))
        return self._advance() if self._heard > half else np.zeros((0, 2))

    def flush(self) -> np.ndarray:
        """Ends the stream: reflects its last half window, as offline framing does, and returns the
        steps that this completes. After it the stream must be reset, or skip to where it goes on."""
        self._goes_on()
        self._is_over, half = True, self.architecture.front_end.window_samples // 2
        if self._heard <= half:
            return np.zeros((0, 2))
        self._samples = np.concatenate((self._samples, self._samples[-2 : -half - 2 : -1]))
        return self._advance()

    def hear(self, samples: np.ndarray, chunk: int = 1280) -> np.ndarray:
        """A recording from a fresh start, `chunk` samples at a time: (steps, 2) as from `feed`."""
        if chunk < 1:
            raise ValueError(f"chunk is {chunk}; it must be at least 1 sample")
        self.reset()
        pieces = [self.feed(samples[start : start + chunk]) for start in range(0, len(samples), chunk)]
        return np.concatenate([*pieces, self.flush()])

    def _goes_on(self) -> None:
        if self._is_over:
            raise ValueError("the stream was flushed; reset it, or skip to where it goes on")

    def _advance(self) -> np.ndarray:
        """Makes every step that the pending samples allow. Each step's arrays have the same shapes
        however the samples came, which is what makes the results equal to the last bit."""
        a, samples, rows, start = self.architecture, self._samples, [], 0
        hop, window = a.front_end.hop_samples, a.front_end.window_samples
        kernel, stride = a.kernel[1], a.stride[1]
        while True:
            wanted = kernel - self._kept
            if len(samples) - start < (wanted - 1) * hop + window:
                break
            self._log_mels(samples[start:], self._block[self._kept :])
            start += wanted * hop
            probability = self._step()
            if self._steps >= self._first:
                frame = self._steps * stride + kernel - 1
                rows.append(((self._began + frame * hop) / a.front_end.sample_rate_hz, probability))
            self._steps += 1
            self._kept = kernel - stride
            self._frames_to[:] = self._frames_from
        self._samples = samples[start:].copy()  # no view: it would keep all that was fed
        return np.array(rows) if rows else np.zeros((0, 2))

    def _log_mels(self, samples: np.ndarray, out: np.ndarray) -> None:
        """(samples,) float32 -> out (frames, mels): as `features.mel_power` and `features.log_mel`."""
        front_end, size = self.architecture.front_end, samples.itemsize
        frames = np.ndarray(
            (len(out), front_end.window_samples),
            np.float32,
            samples,
            strides=(front_end.hop_samples * size, size),
        )
        spectra = np.fft.rfft(frames * self._hann, norm="forward", out=self._spectra[: len(out)])
        parts = spectra.view(np.float32)  # real and imaginary in turn
        np.square(parts, out=parts)
        power = np.add(parts[:, ::2], parts[:, 1::2], out=self._power[: len(out)])
        np.matmul(power, self._filters, out=out)
        np.maximum(out, self._floor, out=out)
        if self._reaches_ceiling:
            np.minimum(out, front_end.ceiling, out=out)
        np.log(out, out=out)

    def _step(self) -> float:
        """One step on the log-mels in the block -> probability of the keyword in the last second."""
        outputs, inputs = self._outputs, self._inputs[None]
        self._outputs_to[:] = self._outputs_from
        if self.mode == "window":  # the window that is complete makes room for a new one
            for layer in self._gru:
                layer.begin()
            last = outputs[0]
        else:
            last = outputs[0, -min(self._steps + 1, len(outputs[0])) :]
        for layer in self._gru:
            inputs = layer.advance(inputs)
        self._newest[:] = inputs
        energies = np.dot(np.tanh(np.dot(last, self._attend)), self._energy)
        weights = np.exp(energies if self._is_small else energies - energies.max())
        logit, total = np.dot(weights, np.dot(last, self._classify)).tolist()
        return 0.0 if logit <= -700 * total else 1 / (1 + math.exp(-logit / total))  # NaN stays NaN


class _Layer:
    """A GRU layer for any number of windows; states change in place. Biases stand below the weights,
    for states and inputs that end in a 1. With t = tanh(x / 2), sigmoid(x) is (t + 1) / 2: the halves
    are in the weights, but for the one of the update gate.

        1 + t_r, 1 + t_z = 1 + tanh((x W + h U) / 2)
        n = tanh(x W_n + (1 + t_r) (h U_n) / 2)
        h' = n + (1 + t_z) / 2 (h - n)
    """

    def __init__(self, weights: dict[str, np.ndarray], layer: int, size: int, rows: int, windows: int):
        inputs, hidden, input_bias, hidden_bias = (
            weights[f"gru.{kind}_{side}_l{layer}"] for kind in ("weight", "bias") for side in ("ih", "hh")
        )
        self.input_weights = np.concatenate([inputs, input_bias[:, None]], axis=1).T
        self._hidden_weights = np.concatenate([hidden, hidden_bias[:, None]], axis=1).T * np.float32(0.5)
        self._hidden_weights = np.ascontiguousarray(self._hidden_weights)
        self._with_one = np.ones((windows, size + 1), np.float32)
        self.hidden = self._with_one[:, :size]
        self._hidden_to, self._hidden_from = _moved(self._with_one, 1, size + 1)
        self._ours, self._theirs = (np.zeros((n, 3 * size), np.float32) for n in (rows, windows))
        self._gates, self._new = np.zeros((windows, 2 * size), np.float32), np.zeros_like(self.hidden)
        self._halves = np.repeat(np.float32([0.5, 0.5, 1]), size)
        # Views, as making one takes as long as adding two rows.
        self._our_gates, self._our_new = self._ours[:, : 2 * size], self._ours[:, 2 * size :]
        self._their_gates, self._their_new = self._theirs[:, : 2 * size], self._theirs[:, 2 * size :]
        self._reset, self._update = self._gates[:, :size], self._gates[:, size:]
        self.read(self.input_weights)

    def read(self, input_weights: np.ndarray) -> None:
        """Takes (inputs + 1, 3 hidden) as the weights of inputs that end in a 1."""
        self._input_weights = np.ascontiguousarray(input_weights * self._halves)

    def begin(self) -> None:
        """Makes room for a new window, the last, in place of the first."""
        self._hidden_to[:] = self._hidden_from
        self.hidden[-1] = 0

    def advance(self, inputs: np.ndarray) -> np.ndarray:
        """(windows or 1, inputs + 1) -> the new states (windows, hidden + 1), ending in a 1."""
        hidden, gates, new = self.hidden, self._gates, self._new
        np.dot(inputs, self._input_weights, out=self._ours)
        np.dot(self._with_one, self._hidden_weights, out=self._theirs)
        np.add(self._our_gates, self._their_gates, out=gates)
        np.tanh(gates, out=gates)
        np.add(gates, _ONE, out=gates)
        np.multiply(self._reset, self._their_new, out=new)
        new += self._our_new
        np.tanh(new, out=new)
        np.subtract(hidden, new, out=hidden)
        np.multiply(hidden, self._update, out=hidden)
        np.multiply(hidden, _HALF, out=hidden)
        np.add(hidden, new, out=hidden)
        return self._with_one


def _convolved(weights: dict[str, np.ndarray], a: Architecture, input_weights: np.ndarray) -> np.ndarray:
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


def _moved(array: np.ndarray, rows: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Views of an array of rows of a size: all but the last `rows`, and all but the first `rows`. They have one
    dimension, as NumPy assigns overlapping ones of more by way of a copy."""
    flat = array.reshape(-1)
    return flat[: len(flat) - rows * size], flat[rows * size :]


def _with_bias(weights: dict[str, np.ndarray], name: str) -> np.ndarray:
    """(outputs, inputs + 1): a linear layer's weights for inputs that end in a 1."""
    return np.concatenate([weights[f"{name}.weight"], weights[f"{name}.bias"][:, None]], axis=1)


def ready(path: Path, mode: str | None = None, **wanted) -> tuple[Stream, Detector]:
    """The stream and the detector of a checkpoint. mode None: that of its detector, else `window`.
    wanted: values of `Detector` that take the place of the checkpoint's (None: the checkpoint's, or,
    where it has no detector for the mode, the default)."""
    _, metadata = checkpoints.read(path)
    kept = checkpoints.detectors_of(metadata, path)
    try:
        for name, values in kept.items():
            Detector(**values)
            _check(name)
    except ValueError as error:
        raise checkpoints.CheckpointError(f"{path}: its detectors cannot be used ({error})") from None
    mode = mode or next(iter(kept), "window")
    stream = Stream.load(path, mode)
    values = kept.get(mode, {}) | {name: value for name, value in wanted.items() if value is not None}
    return stream, Detector(**values)


def _check(mode: str) -> None:
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}; it must be {' or '.join(MODES)}")


def _clean(samples: np.ndarray) -> np.ndarray:
    """(samples,) float32 from -1 to 1 of what may be int16 or float, and broken."""
    samples = np.asarray(samples)
    if samples.ndim != 1:
        raise ValueError(f"samples are {samples.shape}; a stream hears (samples,), one channel")
    if samples.dtype == np.int16:
        return samples * _FULL_SCALE
    if not np.issubdtype(samples.dtype, np.floating):
        raise ValueError(f"samples are {samples.dtype}; they must be int16 or float")
    if len(samples) and not np.abs(samples).max() <= 1:  # not: so that NaN goes there as well
        samples = np.clip(np.where(np.isfinite(samples), samples, 0), -1, 1)
    return samples.astype(np.float32, copy=False)
