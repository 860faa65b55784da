"""The network on a stream: audio in pieces of any size in, a probability every 80 ms out. No torch.

Two modes. `window` scores the last second at every step exactly as offline scoring does: each second
begins with a GRU that has heard nothing, so as many windows as a second has steps (11) advance side
by side, in one product a layer. `carried` lets one GRU run on from the stream's start, with
attention over its outputs of the last second: offline, that is the network run over the whole
recording at once. Either way the results do not depend on how the stream is cut, to the last bit.

What is no audio is defined. A sample that is no number is silence, one beyond full scale is cut to
it; neither lasts longer than its second (in `carried`, than the GRU remembers: seconds, at times minutes;
`reports/README.md` has it by network). Digital silence is log-mels at their floor. A gap that is
known is `skip`ped: time goes on, the rest is forgotten. An int8 checkpoint runs with its weights as floats
(int8 times scale), which torch's int8 kernels differ from by what they round between layers.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import checkpoints
from .architecture import Architecture
from .events import Detector
from .layers import Attention, GruLayer, LogMels, convolved, moved

MODES = ("window", "carried")
ROUNDING = 1e-4  # by which a probability may differ from offline's; by over 1e-5 in a step of some thousands
_FULL_SCALE = np.array(1 / 32768, np.float32)  # an array, as NumPy takes its time to convert a number
_LONGEST = 1 << 60  # samples of a stream
_PIECE = 16000  # samples that are heard at a time: what is fed at once may be hours


@dataclass
class State:
    """Everything a stream remembers, a plain value: copy it, keep it, set it back. `vars(state)` is
    what `numpy.savez` takes, and State(**numpy.load(path)) what it gives back. Of `samples`, the first is the next
    frame's, or sample 0 while there is none; of `outputs`, steps that a window has not come to hold anything."""

    samples: np.ndarray  # (waiting,) float32
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
        if a.stride[1] == 1 and 2 * front_end.hop_samples >= front_end.window_samples:
            # At its end the half window that is reflected would be gone.
            raise ValueError("a stream that steps by one frame needs windows longer than two hops")
        windows = a.steps if mode == "window" else 1
        self._first = a.steps - 1 if mode == "window" else 0  # step that is the first to have a row
        # Log-mels under the kernel; after them a 1, by which biases are part of the weights.
        self._inputs = np.ones(a.kernel[1] * front_end.mels + 1, np.float32)
        self._block = self._inputs[:-1].reshape(a.kernel[1], front_end.mels)
        # Those of the first step, and those that are new at all others.
        self._log_mels = tuple(LogMels(front_end, self._block[-n:]) for n in (a.kernel[1], a.stride[1]))
        # Samples from the next frame's first one on: room for what waits for a step, a piece, and the end reflected.
        room = self._log_mels[0].needed + _PIECE + front_end.window_samples
        self._samples = np.zeros(room, np.float32)
        # (layers * (hidden + 1), windows), the oldest window first, as `GruLayer` reads them; and the column of a
        # window that has heard nothing.
        self._unheard = np.tile(np.eye(a.hidden + 1, dtype=np.float32)[-1], a.layers)
        self._states = np.zeros((len(self._unheard), windows), np.float32)
        self._gru = [GruLayer(weights, n, a.hidden, self._states) for n in range(a.layers)]
        self._from_inputs = convolved(weights, a, self._gru[0].from_below)
        # Outputs of each window, step by step, the oldest window first; last a row of 1.
        self._outputs = np.ones((a.hidden + 1, windows, a.steps), np.float32)
        flat = self._outputs.reshape(a.hidden + 1, -1)
        # What the oldest window has said. And the newest outputs (hidden, windows), which lie on a diagonal: the last
        # step of the oldest window, the first step of the newest.
        self._last = flat[:, : a.steps]
        self._newest = flat[:-1, a.steps - 1 : -1 : a.steps - 1] if windows > 1 else flat[:-1, -1:]
        # Where a step moves what is kept, and from where: outputs and states by a window, or outputs by a step;
        # log-mels by the stride. What comes from the next row of outputs stands where steps are still to come.
        self._outputs_to, self._outputs_from = moved(self._outputs, a.steps if windows > 1 else 1)
        self._states_to, self._states_from = moved(self._states, 1)
        self._frames_to, self._frames_from = moved(self._block, a.stride[1] * front_end.mels)
        self._attention = Attention(weights, a.hidden)
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
        # The start is reflected about sample 0: in front of it room for half a window.
        self._pending, self._began, self._heard = self.architecture.front_end.window_samples // 2, 0, 0
        self._steps, self._is_over = 0, False
        self._outputs[:-1] = 0
        self._states[:] = self._unheard[:, None]

    def skip(self, samples: int) -> None:
        """A gap: so many samples were lost. Forgets everything heard; the next sample comes after it."""
        if samples < 0:
            raise ValueError(f"a gap of {samples} samples; it must not be negative")
        began = self._began + self._heard + int(samples)
        if began > _LONGEST:
            raise ValueError(f"a gap of more than {_LONGEST} samples")
        self.reset()
        self._began = began

    @property
    def state(self) -> State:
        """A copy of the state; assign one to go on from there."""
        return State(
            samples=self._samples[self._unreflected(self._heard) : self._pending].copy(),
            began=self._began,
            heard=self._heard,
            frames=self._block[: self._kept(self._steps)].copy(),
            step=self._steps,
            hidden=np.stack([layer.hidden.T for layer in self._gru]),
            outputs=self._outputs[:-1].transpose(1, 2, 0).copy(),
            is_over=self._is_over,
        )

    @state.setter
    def state(self, state: State) -> None:
        a = self.architecture
        # Arrays after numpy.load.
        began, heard, step = (int(n) for n in (state.began, state.heard, state.step))
        if not all(0 <= n <= _LONGEST for n in (began, heard, step)):
            raise ValueError(
                f"not a state: began {began}, heard {heard}, step {step}; no stream comes to that"
            )
        kept, waiting = self._kept(step), np.size(state.samples)
        shapes = {
            "samples": (waiting if state.is_over else self._waiting(heard, step),),
            "frames": (kept, a.front_end.mels),
            "hidden": (a.layers, self._states.shape[1], a.hidden),
            "outputs": (*self._outputs.shape[1:], a.hidden),
        }
        values = {name: np.array(getattr(state, name), np.float32) for name in shapes}
        for name, shape in shapes.items():
            if values[name].shape != shape:
                raise ValueError(
                    f"not a state of a {self.mode} stream of this architecture: {name} is "
                    f"{values[name].shape}, not {shape}"
                )
            if not (np.abs(values[name]) <= 1000).all():
                raise ValueError(f"not a state: {name} holds values that no stream comes to")
        if waiting >= self._log_mels[step > 0].needed:
            raise ValueError(f"not a state: {waiting} samples wait, which are enough for a step")
        self._began, self._heard, self._steps, self._is_over = began, heard, step, bool(state.is_over)
        first = self._unreflected(heard)
        self._pending = first + waiting
        self._samples[first : self._pending] = values["samples"]
        self._block[:kept] = values["frames"]
        self._outputs[:-1] = values["outputs"].transpose(2, 0, 1)
        for layer, hidden in zip(self._gru, values["hidden"], strict=True):
            layer.hidden[:] = hidden.T

    def _kept(self, steps: int) -> int:
        """Log-mels that the next step still needs, after so many steps."""
        return self.architecture.kernel[1] - self.architecture.stride[1] if steps else 0

    def _waiting(self, heard: int, steps: int) -> int:
        """Samples that wait for the next step; the reflected start is of them once it is known."""
        a = self.architecture
        frames = a.kernel[1] + (steps - 1) * a.stride[1] if steps else 0
        reflected = a.front_end.window_samples // 2 - self._unreflected(heard)
        return reflected + heard - frames * a.front_end.hop_samples

    def feed(self, samples: np.ndarray) -> np.ndarray:
        """Hears (samples,) int16, or float from -1 to 1; any number of them, none included.

        Returns (steps, 2) float64: time in seconds from the stream's start of the step's last
        frame, and the probability of the keyword in the last second.
        """
        self._goes_on()
        samples, rows = _checked(samples), []
        for start in range(0, len(samples), _PIECE):
            self._take(samples[start : start + _PIECE], rows)
        return np.array(rows).reshape(-1, 2)

    def flush(self) -> np.ndarray:
        """Ends the stream: reflects its last half window, as offline framing does, and returns the
        steps that this completes. After it the stream must be reset, or skip to where it goes on."""
        self._goes_on()
        self._is_over, rows, end = True, [], self._pending
        if not self._unreflected(self._heard):
            half = self.architecture.front_end.window_samples // 2
            reflected = self._samples[:end][-2 : -half - 2 : -1]
            self._pending += len(reflected)
            self._samples[end : self._pending] = reflected
            self._advance(rows)
        return np.array(rows).reshape(-1, 2)

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

    def _unreflected(self, heard: int) -> int:
        """Room before the stream's first sample: half a window while what is reflected there is not known, which
        takes half a window and one sample; then none."""
        half = self.architecture.front_end.window_samples // 2
        return half if heard <= half else 0

    def _take(self, samples: np.ndarray, rows: list) -> None:
        """Hears a piece, and adds what each step says to the rows."""
        if self._pending + len(samples) > len(self._samples):  # what an interrupted call has left
            self._advance(rows)
        unknown, end = self._unreflected(self._heard), self._pending + len(samples)
        _scale(samples, self._samples[self._pending : end])
        self._pending = end
        self._heard += len(samples)
        if unknown:
            if self._unreflected(self._heard):
                return
            self._samples[:unknown] = self._samples[2 * unknown : unknown : -1]
        self._advance(rows)

    def _advance(self, rows: list) -> None:
        """Makes every step that the pending samples allow. Each step's arrays have the same shapes
        however the samples came, which is what makes the results equal to the last bit."""
        a, end, start = self.architecture, self._pending, 0
        log_mels = self._log_mels[self._steps > 0]
        try:
            while end - start >= log_mels.needed:
                log_mels.make(self._samples, start)
                probability = self._step()
                if self._steps >= self._first:
                    centre = (self._steps * a.stride[1] + a.kernel[1] - 1) * a.front_end.hop_samples
                    rows.append(((self._began + centre) / a.front_end.sample_rate_hz, probability))
                self._steps += 1
                start += log_mels.taken
                self._frames_to[:] = self._frames_from
                log_mels = self._log_mels[1]
        finally:  # when interrupted as well: what was taken is not pending any more
            if start:
                self._pending = end - start
                self._samples[: self._pending] = self._samples[start:end]

    def _step(self) -> float:
        """One step on the log-mels in the block -> probability of the keyword in the last second."""
        self._outputs_to[:] = self._outputs_from
        last = self._last
        if self.mode == "window":  # the window that is complete makes room for a new one
            self._states_to[:] = self._states_from
            self._states[:, -1] = self._unheard
        elif self._steps + 1 < last.shape[1]:
            last = last[:, -self._steps - 1 :]
        np.dot(self._inputs, self._from_inputs, out=self._gru[0].told)
        for layer in self._gru:
            layer.advance()
        self._newest[:] = layer.hidden
        return self._attention.probability(last)


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


def _checked(samples: np.ndarray) -> np.ndarray:
    """(samples,) int16 or float of any precision, or `ValueError`."""
    samples = np.asarray(samples)
    if samples.ndim != 1:
        raise ValueError(f"samples are {samples.shape}; a stream hears (samples,), one channel")
    kind, size = samples.dtype.kind, samples.dtype.itemsize
    if kind != "f" and (kind, size) != ("i", 2):
        raise ValueError(f"samples are {samples.dtype}; they must be int16 or float")
    return samples


def _scale(samples: np.ndarray, out: np.ndarray) -> None:
    """Samples that may be int16, or broken -> out (samples,) float32 within -1 to 1."""
    if samples.dtype.kind == "i":
        np.multiply(samples, _FULL_SCALE, out=out)
        return
    if not np.abs(samples).max() <= 1:  # not: so that NaN goes there as well
        samples = np.clip(np.where(np.isfinite(samples), samples, 0), -1, 1)
    out[:] = samples
