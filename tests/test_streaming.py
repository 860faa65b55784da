"""The stream against the network offline, in torch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kwslib import audio, files, judging, models
from kwslib.architecture import ARCHITECTURES, Architecture, FrontEnd
from kwslib.events import Detector
from kwslib.streaming import Stream, ready

ROOT = Path(__file__).parent.parent
RELEASED = sorted(ROOT.glob("reports/happy/checkpoints/*.safetensors"))
RELEASED = [path for path in RELEASED if "-fold" not in path.stem]
CLOSE = 1e-5  # of probabilities: both are float32 throughout, in another order
# 1.7 s of tone, pause and noise, some noise everywhere: rounding alone would fill mels of the tone.
TONE, NOISE = 0.3 * np.sin(np.arange(10000) * 0.3), np.random.default_rng(0).normal(0, 1, 27131)
LEVELS = np.repeat([0.001, 0.1], [14000, 13131])
RECORDING = np.round(32767 * (np.pad(TONE, (0, 17131)) + NOISE * LEVELS)).astype(np.int16)


@pytest.fixture(scope="module", params=["student3", "baseline"])
def model(request):
    """A network with random weights, far enough from zero for its probabilities to vary."""
    model = models.build(ARCHITECTURES[request.param], seed=3).eval()
    model.classifier.weight.data *= 10
    return model


@pytest.fixture(scope="module")
def stream(model):
    return Stream(model.architecture, weights_of(model))


def weights_of(model):
    return {name: value.detach().numpy() for name, value in model.state_dict().items()}


def as_floats(path):
    """The network of a checkpoint in torch, its int8 weights as floats."""
    arrays, metadata = files.read_checkpoint(path)
    model = models.CRNN(Architecture.from_json(metadata["architecture"])).eval()
    weights = files.float_weights(arrays)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    return model


def feed(stream, pieces):
    return np.concatenate([*(stream.feed(piece) for piece in pieces), stream.flush()])


def test_streaming_equals_offline(model, stream):
    wanted = np.array(judging.offline(model, RECORDING))
    assert np.ptp(wanted[1]) > 0.01  # there is something to agree on
    np.testing.assert_allclose(stream.score(RECORDING).T, wanted, atol=CLOSE, strict=True)


@pytest.mark.parametrize("path", RELEASED, ids=lambda path: path.stem)
def test_every_released_checkpoint_streams_speech_as_offline(path):
    speech = audio.read_clip(ROOT / "data/sample.flac")[120_000:160_000]
    rows = Stream.load(path).score(speech)
    np.testing.assert_allclose(rows.T, judging.offline(as_floats(path), speech), atol=CLOSE)


def test_streaming_without_memory_differs(stream):
    """The control: were this equal, the test above would prove nothing."""
    whole = stream.score(RECORDING)
    stream.reset()
    forgetful = feed(stream, [0 * RECORDING[:18000], RECORDING[18000:]])
    assert forgetful.shape == whole.shape and np.abs(forgetful - whole)[-5:, 1].max() > CLOSE


@pytest.mark.parametrize("samples", [0, 1, 200, 201, 16000, 16159, 16160, 20001])
def test_flush_completes_as_many_windows_as_offline(model, stream, samples):
    rows = stream.score(RECORDING[:samples])
    assert len(rows) == max(0, (samples // 160 + 1 - 101) // 8 + 1)
    if len(rows):
        wanted = judging.offline(model, RECORDING[:samples])
        np.testing.assert_allclose(rows.T, wanted, atol=CLOSE)


@settings(max_examples=15)
@given(st.lists(st.integers(0, 27131), max_size=12))
def test_any_cut_gives_the_same_bits(stream, places):
    whole = stream.score(RECORDING)
    stream.reset()
    pieces = np.split(RECORDING, sorted([*places, *places[:1]]))  # some are empty
    assert np.array_equal(feed(stream, pieces), whole)


def test_a_flushed_stream_has_to_be_reset(stream):
    stream.score(RECORDING)
    for go_on in (stream.flush, lambda: stream.feed(RECORDING)):
        with pytest.raises(ValueError, match="flushed; reset it"):
            go_on()
    assert stream.position_s == len(RECORDING) / 16000


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4", ">i2"])
def test_int16_and_float_agree(stream, dtype):
    coarse = RECORDING // 32 * 32  # exact in all of them
    scaled = (coarse if dtype == ">i2" else coarse / 32768).astype(dtype)
    assert np.array_equal(stream.score(scaled), stream.score(coarse))


@pytest.mark.parametrize(
    "samples, complaint",
    [
        (np.zeros((2, 400), np.float32), r"float32 \(2, 400\), not"),
        (np.zeros(400, np.int32), "int16 or float"),
        (np.float32([0, 32768]), "is 32768; full scale is 1"),  # fault 19
        (np.float64([0, np.nan, -1.6]), "is 1.6; full scale is 1"),
    ],
)
def test_other_input_is_refused_and_not_heard(stream, samples, complaint):
    stream.reset()
    with pytest.raises(ValueError, match=complaint):
        stream.feed(samples)
    assert stream.position_s == 0


def test_a_broken_sample_is_silence_and_overshoot_is_cut(stream):
    broken, wanted = RECORDING / 32768, RECORDING / 32768
    broken[5000:5005] = np.nan, np.inf, -np.inf, 1.2, -1.4
    wanted[5000:5005] = 0, 0, 0, 1, -1
    assert np.array_equal(stream.score(broken), stream.score(wanted))


def test_what_is_older_than_a_second_leaves_no_trace(stream):
    """To the bit, so that no error can build up over hours."""
    alone = stream.score(RECORDING)
    stream.reset()
    stream.feed(np.full(22 * 1280, np.nan, np.float32))  # a window keeps its place every 11 steps
    after = feed(stream, [RECORDING])
    # the first window that holds no frame of before, save the reflected start's
    assert np.array_equal(after[-5:, 1], alone[-5:, 1])


def test_times_are_exact_after_a_minute(stream):
    stream.reset()
    rows = stream.feed(np.zeros(960_000, np.int16))
    np.testing.assert_allclose(rows[:, 0], 0.99 + 0.08 * np.arange(len(rows)), atol=1e-9)
    assert stream.position_s == 60 and 59.8 < rows[-1, 0] < 60


@pytest.mark.parametrize("depth, window_samples", [(1, 400), (3, 401), (5, 400)])
def test_rare_architectures_stream_as_offline_too(depth, window_samples):
    """A ceiling that audio reaches, large energies, an odd window."""
    front_end = FrontEnd(ceiling=0.5, window_samples=window_samples, centre=0.0, spread=1.0)
    size = Architecture(channels=2, hidden=6, layers=depth, kernel=(4, 11), front_end=front_end)
    model = models.build(size, 1).eval()
    model.attention[2].weight.data *= 300  # a softmax over some 100 turns 1e-7 into 1e-5
    rows = Stream(size, weights_of(model)).score(RECORDING)
    np.testing.assert_allclose(rows.T, judging.offline(model, RECORDING), atol=1e-4)


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
    models.save(path, model, detector='{"threshold": 0.8, "smoothing": 5}')
    assert ready(path)[1] == Detector(0.8, 5)
    assert ready(path, threshold=0.0, smoothing=2)[1] == Detector(0.0, 2)
    models.save(path, model, detector='{"threshold": 2}')
    with pytest.raises(files.FileError, match=r"c\.safetensors"):
        ready(path)
