import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kwslib import checkpoints, experiments, models, quantization
from kwslib.architecture import ARCHITECTURES
from kwslib.streaming import Stream, detections, plateau_s

CHUNKS = (1, 7, 160, 1280, 5000)


@pytest.fixture(scope="module")
def recording():
    """1.7 s of audio, int16: a tone, a pause, noise; a little noise everywhere, so that no mel of a
    pure tone holds rounding alone."""
    generator = np.random.default_rng(0)
    tone = 0.3 * np.sin(np.arange(10000) * 0.3)
    audio = np.concatenate([tone, np.zeros(4000), generator.normal(0, 0.1, 13131)])
    return np.round(32767 * (audio + generator.normal(0, 0.001, len(audio)))).astype(np.int16)


@pytest.fixture(scope="module")
def waveform(recording):
    return recording.astype(np.float32) / 32768


@pytest.fixture(scope="module", params=["student3", "baseline"])
def network(request, tmp_path_factory):
    """A network with random weights, far from zero so that its probabilities vary, and its stream."""
    model = models.build(ARCHITECTURES[request.param], seed=3).eval()
    model.classifier.weight.data *= 10
    path = tmp_path_factory.mktemp("streams") / "m.safetensors"
    models.save(path, model)
    return SimpleNamespace(model=model, path=path, stream=Stream.load(path))


@pytest.fixture
def stream(network):
    network.stream.reset()
    return network.stream


def cut(samples, places):
    return np.split(samples, sorted(places))


def heard(stream, pieces):
    return np.concatenate([*(stream.feed(piece) for piece in pieces), stream.flush()])


def test_streaming_equals_offline(network, stream, waveform):
    times, probabilities = experiments.offline_track(network.model, waveform, carried=True)
    streamed = stream.hear(waveform)
    assert streamed.shape == (len(times), 2)
    assert np.array_equal(streamed[:, 0], times)
    assert np.ptp(probabilities) > 0.01  # there is something to agree on
    # log-mels and sums are float32 in both, in another order
    np.testing.assert_allclose(streamed[:, 1], probabilities, atol=1e-5)


def test_streaming_without_memory_differs(stream, waveform):
    """The control: were this equal, the test above would prove nothing."""
    whole = stream.hear(waveform)
    stream.reset()
    first = stream.feed(waveform[:8000])
    stream.reset()
    second = np.concatenate([stream.feed(waveform[8000:]), stream.flush()])
    assert len(first) + len(second) < len(whole)
    assert np.abs(second[-1, 1] - whole[-1, 1]) > 1e-5
    stream.reset()
    first = stream.feed(waveform[:8000])
    kept = stream.state  # the GRU alone forgets: as many steps, other values
    kept.hidden[:], kept.outputs = 0, kept.outputs[:0]
    stream.state = kept
    forgetful = np.concatenate([first, stream.feed(waveform[8000:]), stream.flush()])
    assert forgetful.shape == whole.shape
    assert np.abs(forgetful[:, 1] - whole[:, 1]).max() > 1e-5


def test_every_chunking_gives_the_same_bits(stream, recording):
    whole = heard(stream, [recording])
    for chunk in CHUNKS:
        chunked = stream.hear(recording, chunk)
        assert chunked.shape == whole.shape
        assert np.array_equal(chunked, whole)


@settings(max_examples=25)
@given(st.lists(st.integers(0, 27131), max_size=12))
def test_any_cut_gives_the_same_bits(network, recording, places):
    whole = network.stream.hear(recording)
    network.stream.reset()
    pieces = [recording[:0], *cut(recording, [*places, *places[:1]]), recording[:0]]  # some are empty
    assert np.array_equal(heard(network.stream, pieces), whole)


@pytest.mark.parametrize("samples", [201, 3239, 3240, 3241, 16000, 16159, 16160, 20001])
def test_flush_completes_as_many_steps_as_offline(network, stream, waveform, samples):
    streamed = stream.hear(waveform[:samples])
    frames = samples // 160 + 1
    assert len(streamed) == max(0, (frames - 20) // 8 + 1)
    if len(streamed):
        times, probabilities = experiments.offline_track(network.model, waveform[:samples], carried=True)
        assert np.array_equal(streamed[:, 0], times)
        np.testing.assert_allclose(streamed[:, 1], probabilities, atol=1e-5)  # float32, as above


@pytest.mark.parametrize("samples", [0, 1, 200])
def test_half_a_window_gives_nothing(stream, waveform, samples):
    assert stream.feed(waveform[:samples]).shape == (0, 2)
    assert stream.flush().shape == (0, 2)


def test_step_ten_is_the_offline_probability_of_the_first_clip(network, stream, waveform):
    times, probabilities = experiments.offline_track(network.model, waveform[:16000], carried=False)
    streamed = stream.hear(waveform[:16000])
    assert len(streamed) == 11 and len(probabilities) == 1
    assert streamed[10, 0] == times[0]
    assert streamed[10, 1] == pytest.approx(probabilities[0], abs=1e-5)  # float32, as above


def test_a_step_waits_for_no_more_than_its_latency(stream, waveform):
    first = stream.hear(waveform)[0, 0]
    needed = round((first + stream.latency_s) * 16000)
    stream.reset()
    assert len(stream.feed(waveform[: needed - 1])) == 0
    assert len(stream.feed(waveform[needed - 1 : needed])) == 1


def test_a_saved_state_goes_on_where_it_was(network, stream, waveform):
    stream.feed(waveform[:9999])
    saved = stream.state
    rest = np.concatenate([stream.feed(waveform[9999:]), stream.flush()])
    other = Stream.load(network.path)
    other.state = saved
    assert np.array_equal(np.concatenate([other.feed(waveform[9999:]), other.flush()]), rest)
    stream.state = saved  # untouched by what was heard since
    assert np.array_equal(np.concatenate([stream.feed(waveform[9999:]), stream.flush()]), rest)


def test_reset_forgets_everything(stream, waveform):
    first = stream.hear(waveform)
    stream.feed(waveform[:5555])
    assert np.array_equal(stream.hear(waveform), first)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_int16_and_float_agree(stream, recording, waveform, dtype):
    # n / 32768 is exact in both
    assert np.array_equal(stream.hear(waveform.astype(dtype)), stream.hear(recording))


def test_int8_checkpoint_streams_close_to_its_own_network(network, waveform, tmp_path):
    quantized = quantization.quantize_dynamic(network.model)
    quantization.save(tmp_path / "q.safetensors", quantized)
    streamed = Stream.load(tmp_path / "q.safetensors").hear(waveform)
    arrays, _ = checkpoints.read(tmp_path / "q.safetensors")
    weights = checkpoints.float_weights(arrays)
    exact = Stream(network.model.architecture, weights).hear(waveform)
    assert np.array_equal(streamed, exact)
    assert not np.array_equal(streamed, network.stream.hear(waveform))  # the control: weights are rounded


@pytest.mark.parametrize(
    "samples, complaint",
    [
        (np.zeros((2, 400), np.float32), "one channel"),
        (np.zeros((400, 1), np.int16), "one channel"),
        (np.float32(0), "one channel"),
        (np.zeros(400, np.int32), "int32"),
        (np.zeros(400, np.uint8), "uint8"),
        (np.zeros(400, bool), "bool"),
    ],
)
def test_other_input_is_refused_and_not_heard(stream, samples, complaint):
    with pytest.raises(ValueError, match=complaint):
        stream.feed(samples)
    assert stream.state.heard == 0


def test_streaming_does_not_import_torch(network):
    script = (
        "import sys, numpy as np\n"
        "from kwslib import streaming\n"
        "steps = streaming.Stream.load(sys.argv[1]).hear(np.ones(16000, np.float32))\n"
        "print(len(steps), 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", script, str(network.path)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "11 False\n"


class Said:
    """A stream that says what it is told to: a probability for each sample, a last one at the end."""

    def __init__(self, last):
        self.last, self.step = last, 0

    def feed(self, samples):
        steps = np.arange(self.step, self.step + len(samples))
        self.step += len(samples)
        return np.stack([steps, samples], 1).reshape(-1, 2)

    def flush(self):
        return np.array([[self.step, self.last]])


def test_one_rise_is_one_detection():
    said = np.array([0.1, 0.6, 0.9, 0.8, 0.7, 0.2])
    assert list(detections(Said(0.0), [said], 0.5)) == [(1.0, 0.6)]
    assert list(detections(Said(0.0), cut(said, [2, 2, 4]), 0.5)) == [(1.0, 0.6)]


def test_two_rises_are_two_detections_and_the_threshold_itself_counts():
    said = np.array([0.5, 0.4, 0.5, 0.4])
    assert list(detections(Said(0.9), [said], 0.5)) == [(0, 0.5), (2, 0.5), (4, 0.9)]
    assert list(detections(Said(0.0), [said], 0.6)) == []
    assert list(detections(Said(0.7), [], 0.6)) == [(0, 0.7)]  # from the flush


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), max_size=20), st.sets(st.integers(0, 20)))
def test_detections_are_the_rises_however_the_stream_is_cut(said, places):
    over = [False] + [p >= 0.5 for p in said]
    rises = [n for n in range(len(said)) if over[n + 1] and not over[n]]
    pieces = cut(np.array(said), [p for p in places if p <= len(said)])
    assert [time for time, _ in detections(Said(0.0), pieces, 0.5)] == rises


@pytest.mark.parametrize(
    "probabilities, plateau",
    [
        ([0.9, 0.9, 0.9, 0.9, 0.2], 2.0),  # ends at 2 s; below from 4 s on
        ([0.9, 0.9, 0.2, 0.9, 0.9], 0.0),  # below at once; a later rise is no plateau
        ([0.1, 0.1, 0.9, 0.1, 0.1], 1.0),
        ([0.9, 0.9, 0.9, 0.9, 0.9], 2.0),  # never below: as long as the stream
        ([0.1, 0.1, 0.5, 0.4, 0.1], 1.0),  # the threshold itself is over
    ],
)
def test_plateau_by_hand(probabilities, plateau):
    assert plateau_s(np.arange(5.0), np.array(probabilities), 0.5, 2.0) == plateau


def test_plateau_is_counted_from_the_end_of_the_keyword():
    assert plateau_s(np.arange(5.0), np.array([0.9, 0.9, 0.9, 0.2, 0.2]), 0.5, 1.5) == 1.5


def test_plateau_of_a_stream_that_ends_too_early_is_an_error():
    with pytest.raises(ValueError, match=r"ends before 9\.00 s"):
        plateau_s(np.arange(5.0), np.zeros(5), 0.5, 9.0)


def test_a_broken_sample_is_silence_and_not_nan_for_ever(stream, waveform):
    broken, silent = waveform.copy(), waveform.copy()
    broken[5000:5003] = np.nan, np.inf, -np.inf
    silent[5000:5003] = 0
    assert np.array_equal(stream.hear(broken), stream.hear(silent))
