"""The stream against the network offline, in torch."""

import copy
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soxr
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kwslib import espeak, features, files, models, quantization
from kwslib.architecture import ARCHITECTURES, Architecture, FrontEnd
from kwslib.events import Detector
from kwslib.streaming import State, Stream, ready

CHECKPOINTS = Path(__file__).parent.parent / "reports/happy/checkpoints"
RELEASED = [p for p in sorted(CHECKPOINTS.glob("*.safetensors")) if "-fold" not in p.stem]
CLOSE = 1e-5  # of probabilities: both are float32 throughout, in another order


@pytest.fixture(scope="module")
def recording():
    """1.7 s of int16: a tone, a pause, noise; a little noise everywhere, or some mels of the tone
    would hold rounding alone."""
    generator = np.random.default_rng(0)
    tone = 0.3 * np.sin(np.arange(10000) * 0.3)
    audio = np.concatenate([tone, np.zeros(4000), generator.normal(0, 0.1, 13131)])
    return np.round(32767 * (audio + generator.normal(0, 0.001, len(audio)))).astype(np.int16)


@pytest.fixture(scope="module", params=["student3", "baseline"])
def network(request, tmp_path_factory):
    """A network with random weights, far enough from zero for its probabilities to vary."""
    model = models.build(ARCHITECTURES[request.param], seed=3).eval()
    model.classifier.weight.data *= 10
    path = tmp_path_factory.mktemp("streams") / "m.safetensors"
    models.save(path, model)
    return SimpleNamespace(model=model, path=path, stream=Stream.load(path))


@pytest.fixture
def stream(network):
    network.stream.reset()
    return network.stream


def weights_of(model):
    return {name: value.detach().numpy() for name, value in model.state_dict().items()}


def as_floats(path):
    """The network of a checkpoint in torch, its int8 weights as floats."""
    arrays, metadata = files.read_checkpoint(path)
    model = models.CRNN(Architecture.from_json(metadata["architecture"])).eval()
    weights = files.float_weights(arrays)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    return model


def offline(model, samples):
    """(windows, 2) seconds and probability of a window every step of int16 samples, in torch."""
    a = model.architecture
    log_mels = features.log_mel_of(samples[None], a.front_end)
    with torch.inference_mode():
        probabilities = torch.softmax(model.windows(log_mels)[0].double(), 1)[:, 1].numpy()
    frames = (np.arange(len(probabilities)) + a.steps - 1) * a.stride[1] + a.kernel[1] - 1
    return np.stack([frames * a.front_end.hop_samples / 16000, probabilities], 1)


def feed(stream, pieces):
    return np.concatenate([*(stream.feed(piece) for piece in pieces), stream.flush()])


def test_streaming_equals_offline_in_pieces_of_any_size(network, stream, recording):
    wanted, rows = offline(network.model, recording), stream.score(recording)
    assert np.ptp(wanted[:, 1]) > 0.01  # there is something to agree on
    np.testing.assert_allclose(rows, wanted, atol=CLOSE, strict=True)
    assert all(np.array_equal(stream.score(recording, n), rows) for n in (7, 5000))


@pytest.fixture(scope="module")
def speech():
    said = soxr.resample(espeak.speak("oh happy day", "en-us", 160, 50), espeak.RATE_HZ, 16000)
    return np.round(32767 * np.pad(said, 8000)).astype(np.int16)


@pytest.mark.parametrize("path", RELEASED, ids=lambda path: path.stem)
def test_every_released_checkpoint_streams_speech_as_offline(path, speech):
    wanted = offline(as_floats(path), speech)
    np.testing.assert_allclose(Stream.load(path).score(speech), wanted, atol=CLOSE)


def test_streaming_without_memory_differs(stream, recording):
    """The control: were this equal, the test above would prove nothing."""
    whole = stream.score(recording)
    stream.reset()
    first, forgetful = stream.feed(recording[:18000]), stream.state
    forgetful.sums[:] = 1
    stream.state = forgetful
    rows = np.concatenate([first, feed(stream, [recording[18000:]])])
    assert rows.shape == whole.shape
    assert np.abs(rows[:, 1] - whole[:, 1]).max() > CLOSE


@pytest.mark.parametrize("samples", [0, 1, 200, 201, 16000, 16159, 16160, 20001])
def test_flush_completes_as_many_windows_as_offline(network, stream, recording, samples):
    rows = stream.score(recording[:samples])
    assert len(rows) == max(0, (samples // 160 + 1 - 101) // 8 + 1)
    if len(rows):
        np.testing.assert_allclose(rows, offline(network.model, recording[:samples]), atol=CLOSE)


@settings(max_examples=15)
@given(st.lists(st.integers(0, 27131), max_size=12))
def test_any_cut_gives_the_same_bits(network, recording, places):
    whole = network.stream.score(recording)
    network.stream.reset()
    pieces = np.split(recording, sorted([*places, *places[:1]]))  # some are empty
    assert np.array_equal(feed(network.stream, pieces), whole)


@pytest.mark.parametrize("samples", [100, 17000])
def test_a_saved_state_goes_on_where_it_was(network, stream, recording, tmp_path, samples):
    """So does a copy of the stream."""
    stream.feed(recording[:samples])
    np.savez(tmp_path / "state.npz", **vars(stream.state))
    others = [copy.copy(stream), copy.deepcopy(stream), Stream.load(network.path)]
    with np.load(tmp_path / "state.npz", allow_pickle=False) as kept:
        others[2].state = State(**kept)
    rest = feed(stream, [recording[samples:]])
    assert all(np.array_equal(feed(other, [recording[samples:]]), rest) for other in others)


def test_a_state_knows_its_network(network, stream):
    """Fault 26: another network's state is refused, also one of the same sizes."""
    size = network.model.architecture
    other = Stream(size, weights_of(models.build(size, seed=4)))
    with pytest.raises(ValueError, match="belongs to another"):
        stream.state = other.state
    with pytest.raises(ValueError, match=r"is what Stream\.state gives, not NoneType"):
        stream.state = None
    cut = stream.state
    cut.frames = cut.frames[:-1]
    with pytest.raises(ValueError, match="not a state of this network"):
        stream.state = cut


def test_after_flush_and_a_gap_a_stream_starts_afresh_at_the_right_time(stream, recording):
    fresh = stream.score(recording)
    for go_on in (stream.flush, lambda: stream.feed(recording)):
        with pytest.raises(ValueError, match="flushed; reset it, or skip"):
            go_on()
    stream.reset()
    stream.feed(recording[:7777])
    stream.skip(8223)
    assert stream.position_s == 1.0
    np.testing.assert_allclose(feed(stream, [recording]), fresh + np.array([1, 0]), atol=1e-9)
    with pytest.raises(ValueError, match="must not be negative"):
        stream.skip(-1)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4", ">i2"])
def test_int16_and_float_agree(stream, recording, dtype):
    coarse = recording // 32 * 32  # exact in all of them
    scaled = (coarse if dtype == ">i2" else coarse / 32768).astype(dtype)
    assert np.array_equal(stream.score(scaled), stream.score(coarse))


@pytest.mark.parametrize(
    "samples, complaint",
    [
        (np.zeros((2, 400), np.float32), r"float32 \(2, 400\), not"),
        (np.float32(0), r"float32 \(\), not"),
        (np.zeros(400, np.int32), "int16 or float"),
        (np.zeros(400, complex), "int16 or float"),
        (np.float32([0, 32768]), "is 32768; full scale is 1"),  # fault 19
        (np.float64([0, np.nan, -1.6]), "is 1.6; full scale is 1"),
    ],
)
def test_other_input_is_refused_and_not_heard(stream, samples, complaint):
    with pytest.raises(ValueError, match=complaint):
        stream.feed(samples)
    assert stream.position_s == 0


def test_a_broken_sample_is_silence_and_overshoot_is_cut(stream, recording):
    broken, wanted = recording / 32768, recording / 32768
    broken[5000:5005] = np.nan, np.inf, -np.inf, 1.2, -1.4
    wanted[5000:5005] = 0, 0, 0, 1, -1
    assert np.array_equal(stream.score(broken), stream.score(wanted))


def test_what_is_older_than_a_second_leaves_no_trace(stream, recording):
    """To the bit, so that no error can build up over hours."""
    alone = stream.score(recording)
    stream.reset()
    stream.feed(np.full(22 * 1280, np.nan, np.float32))  # a window keeps its place every 11 steps
    after = feed(stream, [recording])
    # the first window that holds no frame of before, save the reflected start's
    assert np.array_equal(after[-5:, 1], alone[-5:, 1])


def test_times_are_exact_after_a_minute(stream):
    rows = stream.feed(np.zeros(960_000, np.int16))
    np.testing.assert_allclose(rows[:, 0], 0.99 + 0.08 * np.arange(len(rows)), atol=1e-9)
    assert stream.position_s == 60 and 59.8 < rows[-1, 0] < 60


def test_an_int8_checkpoint_streams_with_its_weights_as_floats(network, recording, tmp_path):
    path = tmp_path / "q.safetensors"
    quantization.save(path, quantization.quantize_dynamic(network.model))
    streamed = Stream.load(path).score(recording)
    np.testing.assert_allclose(streamed, offline(as_floats(path), recording), atol=CLOSE)
    assert not np.array_equal(streamed, network.stream.score(recording))  # weights are rounded


def test_streaming_does_not_import_torch():
    script = "import sys; from kwslib import streaming, events; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


@pytest.mark.parametrize("depth, window_samples", [(1, 400), (3, 401), (5, 400)])
def test_rare_architectures_stream_as_offline_too(recording, depth, window_samples):
    """A ceiling that audio reaches, large energies, an odd window."""
    front_end = FrontEnd(ceiling=0.5, window_samples=window_samples, centre=0.0, spread=1.0)
    size = Architecture(channels=2, hidden=6, layers=depth, kernel=(4, 11), front_end=front_end)
    model = models.build(size, 1).eval()
    model.attention[2].weight.data *= 300  # a softmax over some 100 turns 1e-7 into 1e-5
    rows = Stream(size, weights_of(model)).score(recording)
    np.testing.assert_allclose(rows, offline(model, recording), atol=1e-4)


def test_what_cannot_be_streamed_is_refused(tmp_path):
    path = tmp_path / "c.safetensors"
    for sizes in ({"kernel": (5, 17)}, {"stride": (2, 1)}, {"kernel": (5, 7)}):
        models.save(path, models.build(Architecture(channels=2, hidden=4, **sizes), 0))
        with pytest.raises(files.FileError, match=r"c\.safetensors: .*a stream needs"):
            Stream.load(path)
    model = models.build(ARCHITECTURES["student3"], 0)
    model.attention[2].weight.data[:] = 100  # its exponential overflows
    with pytest.raises(ValueError, match=r"attention\.2\.weight: "):
        Stream(model.architecture, weights_of(model))


def test_a_stored_detector_can_be_overridden(tmp_path):
    path, model = tmp_path / "c.safetensors", models.build(ARCHITECTURES["student3"], 0)
    models.save(path, model)
    assert ready(path)[1] == Detector()
    models.save(path, model, detector=json.dumps({"threshold": 0.8, "smoothing": 5}))
    assert ready(path)[1] == Detector(0.8, 5)
    assert ready(path, threshold=0.0, smoothing=2)[1] == Detector(0.0, 2)
    models.save(path, model, detector='{"threshold": 2}')
    with pytest.raises(files.FileError, match=r"c\.safetensors"):
        ready(path)
