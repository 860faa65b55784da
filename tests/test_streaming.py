import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kwslib import checkpoints, excerpts, features, models, quantization, runs, talk
from kwslib.architecture import ARCHITECTURES, Architecture, FrontEnd
from kwslib.streaming import MODES, ROUNDING, State, Stream, ready

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


@pytest.fixture(
    scope="module",
    params=[(setting, mode) for setting in ("student3", "baseline") for mode in MODES],
    ids="-".join,
)
def network(request, tmp_path_factory):
    """A network with random weights, far from zero so that its probabilities vary, and its stream."""
    setting, mode = request.param
    model = models.build(ARCHITECTURES[setting], seed=3).eval()
    model.classifier.weight.data *= 10
    path = tmp_path_factory.mktemp("streams") / "m.safetensors"
    models.save(path, model)
    return SimpleNamespace(model=model, path=path, mode=mode, stream=Stream.load(path, mode))


@pytest.fixture
def stream(network):
    network.stream.reset()
    return network.stream


def cut(samples, places):
    return np.split(samples, sorted(places))


def heard(stream, pieces):
    return np.concatenate([*(stream.feed(piece) for piece in pieces), stream.flush()])


def offline(network, waveform):
    return excerpts.offline_track(network.model, waveform, network.mode)


def test_streaming_equals_offline(network, stream, waveform):
    times, probabilities = offline(network, waveform)
    streamed = stream.hear(waveform)
    assert streamed.shape == (len(times), 2)
    np.testing.assert_allclose(streamed[:, 0], times, atol=1e-9)
    assert np.ptp(probabilities) > 0.01  # there is something to agree on
    # log-mels and sums are float32 in both, in another order
    np.testing.assert_allclose(streamed[:, 1], probabilities, atol=1e-5)


def test_window_scores_a_clip_as_offline_does(network, waveform):
    """A clip of a second is one window, whose score is the network's own of the clip."""
    if network.mode != "window":
        pytest.skip("carried gives a row before the second is over")
    clip = waveform[3000:19000]
    power = features.mel_power(torch.from_numpy(clip)[None], network.model.architecture.front_end)
    log_mels = features.log_mel(power, network.model.architecture.front_end)
    with torch.inference_mode():
        wanted = torch.softmax(network.model(log_mels).double(), dim=1)[0, 1].item()
    (row,) = network.stream.hear(clip)
    assert row[1] == pytest.approx(wanted, abs=1e-5)  # float32, as above


def test_streaming_without_memory_differs(network, stream, waveform):
    """The control: were this equal, the test above would prove nothing."""
    whole = stream.hear(waveform)
    stream.reset()
    first = stream.feed(waveform[:18000])
    kept = stream.state  # the GRU alone forgets: as many steps, other values
    kept.hidden[:] = 0
    stream.state = kept
    forgetful = np.concatenate([first, stream.feed(waveform[18000:]), stream.flush()])
    assert forgetful.shape == whole.shape
    assert np.abs(forgetful[:, 1] - whole[:, 1]).max() > 1e-5
    stream.reset()
    first = stream.feed(waveform[:8000])
    stream.reset()
    second = np.concatenate([stream.feed(waveform[8000:]), stream.flush()])
    assert len(first) + len(second) < len(whole)


RUN = Path(__file__).parent.parent / "reports/speech-commands-happy"
SETTINGS_RELEASED = (
    *runs.SETTINGS,
    *(f"student{n}-labels" for n in (1, 2, 3)),
    *("teacher-stream", "baseline-stream", "student3-stream"),
)
RELEASED = [RUN / "checkpoints" / f"{setting}.safetensors" for setting in SETTINGS_RELEASED]


def as_floats(path):
    """The network of a checkpoint, its weights as floats."""
    arrays, metadata = checkpoints.read(path)
    model = models.CRNN(checkpoints.architecture_of(metadata, path, arrays)).eval()
    weights = checkpoints.float_weights(arrays, path)
    model.load_state_dict({name: torch.from_numpy(weights[name].copy()) for name in model.state_dict()})
    return model


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", RELEASED, ids=lambda path: path.stem)
def test_every_released_checkpoint_streams_as_offline(path, mode, waveform, recording):
    """Offline: the network with the checkpoint's weights as floats. (torch's int8 kernels round what
    flows between layers as well, by a range that depends on the clips scored together.)"""
    times, probabilities = excerpts.offline_track(as_floats(path), waveform, mode)
    stream = Stream.load(path, mode)
    whole = stream.hear(waveform)
    np.testing.assert_allclose(whole[:, 0], times, atol=1e-9)
    np.testing.assert_allclose(whole[:, 1], probabilities, atol=1e-5)  # float32, as above
    assert np.array_equal(stream.hear(recording, 777), whole)
    stream.reset()
    first = stream.feed(waveform[:12345])
    other = Stream.load(path, mode)
    other.state = stream.state
    rest = np.concatenate([first, other.feed(waveform[12345:]), other.flush()])
    assert np.array_equal(rest, whole)


@pytest.fixture(scope="module")
def read_speech(data_root):
    """Twenty seconds of read speech from -1 to 1, with pauses of digital silence."""
    return talk.read("happy", "test", 1 / 3, workers=1).astype(np.float32) / 32768


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", RELEASED, ids=lambda path: path.stem)
def test_every_released_checkpoint_streams_speech_as_offline(path, mode, read_speech):
    """Beside loud low bands, quiet high ones hold float32 rounding of the transform, which a network may amplify:
    by more than 1e-5 in one step of some thousands (`benchmarks/equality.py`), so in one here at most, and not by 1e-4."""
    _, probabilities = excerpts.offline_track(as_floats(path), read_speech, mode)
    differences = np.abs(Stream.load(path, mode).hear(read_speech)[:, 1] - probabilities)
    assert len(differences) > 200
    assert differences.max() < ROUNDING
    assert np.sum(differences > 1e-5) <= 1


@pytest.mark.parametrize("path", [p for p in RELEASED if "int8" in p.stem], ids=lambda path: path.stem)
def test_an_int8_checkpoint_streams_about_as_its_own_network(path, recording, waveform):
    """torch rounds what flows between layers as well: by the clip, so as a window of a second."""
    network, stream = quantization.load(path), Stream.load(path, "window")
    clip = waveform[3000:19000]
    power = features.mel_power(torch.from_numpy(clip)[None], network.architecture.front_end)
    with torch.inference_mode():
        logits = network(features.log_mel(power, network.architecture.front_end))
    wanted = torch.softmax(logits.double(), dim=1)[0, 1].item()
    assert stream.hear(clip)[-1, 1] == pytest.approx(wanted, abs=0.02)


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
    steps = max(0, (frames - 20) // 8 + 1)
    assert len(streamed) == (steps if network.mode == "carried" else max(0, steps - 10))
    if len(streamed):
        times, probabilities = offline(network, waveform[:samples])
        np.testing.assert_allclose(streamed[:, 0], times, atol=1e-9)
        np.testing.assert_allclose(streamed[:, 1], probabilities, atol=1e-5)  # float32, as above


@pytest.mark.parametrize("samples", [0, 1, 200])
def test_half_a_window_gives_nothing(stream, waveform, samples):
    assert stream.feed(waveform[:samples]).shape == (0, 2)
    assert stream.flush().shape == (0, 2)


def test_both_modes_agree_on_the_first_second(network, stream, waveform):
    row = stream.hear(waveform[:16000])[-1]
    other = Stream.load(network.path, "carried").hear(waveform[:16000])
    assert len(other) == 11
    assert other[-1, 0] == row[0]
    assert other[-1, 1] == pytest.approx(row[1], abs=1e-5)  # float32, as above


def test_a_step_waits_for_no_more_than_its_latency(stream, waveform):
    first = stream.hear(waveform)[0, 0]
    needed = round((first + stream.latency_s) * 16000)
    stream.reset()
    assert len(stream.feed(waveform[: needed - 1])) == 0
    assert len(stream.feed(waveform[needed - 1 : needed])) == 1


@pytest.mark.parametrize("samples", [100, 9999, 17000])
def test_a_saved_state_goes_on_where_it_was(network, stream, waveform, tmp_path, samples):
    stream.feed(waveform[:samples])
    saved = stream.state
    np.savez(tmp_path / "state.npz", **vars(saved))
    rest = np.concatenate([stream.feed(waveform[samples:]), stream.flush()])
    assert len(rest)
    other = Stream.load(network.path, network.mode)
    other.state = saved
    assert np.array_equal(np.concatenate([other.feed(waveform[samples:]), other.flush()]), rest)
    stream.state = saved  # untouched by what was heard since
    assert np.array_equal(np.concatenate([stream.feed(waveform[samples:]), stream.flush()]), rest)
    with np.load(tmp_path / "state.npz", allow_pickle=False) as kept:
        other.state = State(**kept)
    assert np.array_equal(np.concatenate([other.feed(waveform[samples:]), other.flush()]), rest)


def test_a_copy_is_a_stream_of_its_own(network, stream, waveform):
    stream.feed(waveform[:9999])
    copies = [copy.copy(stream), copy.deepcopy(stream), pickle.loads(pickle.dumps(stream))]
    rest = heard(stream, [waveform[9999:]])
    for each in copies:
        assert np.array_equal(heard(each, [waveform[9999:]]), rest)
        assert np.array_equal(each.hear(waveform), stream.hear(waveform))


@pytest.mark.parametrize(
    "name, change",
    [
        ("frames", lambda frames: frames[:-1]),
        ("frames", lambda frames: frames[:, :1]),
        ("samples", lambda samples: np.stack([samples, samples])),
        ("samples", lambda samples: None),
        ("samples", lambda samples: np.tile(samples, 3)),
        ("samples", lambda samples: samples[:3]),
        ("samples", lambda samples: samples * 1e30),
        ("hidden", lambda hidden: hidden * np.nan),
        ("outputs", lambda outputs: outputs + np.inf),
        ("step", lambda step: -1),
        ("step", lambda step: step + 1),
        ("heard", lambda heard: -5),
        ("heard", lambda heard: 1000),
        ("began", lambda began: 10**400),
    ],
)
def test_a_damaged_state_is_refused_and_changes_nothing(stream, waveform, name, change):
    stream.feed(waveform[:9999])
    before, damaged = stream.state, stream.state
    setattr(damaged, name, change(getattr(damaged, name)))
    with pytest.raises(ValueError, match=r"not a state"):
        stream.state = damaged
    assert all(np.array_equal(value, vars(stream.state)[name]) for name, value in vars(before).items())


def test_after_flush_a_stream_waits_for_reset_or_skip(stream, waveform):
    stream.hear(waveform)
    for over in (stream, copy.deepcopy(stream)):
        for go_on in (over.flush, lambda over=over: over.feed(waveform)):
            with pytest.raises(ValueError, match=r"flushed; reset it, or skip"):
                go_on()
    stream.skip(0)
    assert len(stream.feed(waveform))


def test_a_state_of_another_stream_is_refused(network, stream):
    size = ARCHITECTURES["student1"]
    other = Stream(size, {n: p.detach().numpy() for n, p in models.build(size).named_parameters()})
    with pytest.raises(ValueError, match=r"not a state of a \w+ stream.*hidden is"):
        stream.state = other.state


def test_other_modes_are_refused(network):
    with pytest.raises(ValueError, match=r"'both'.*window or carried"):
        Stream.load(network.path, "both")


def test_after_a_gap_a_stream_starts_afresh_at_the_right_time(network, stream, waveform):
    fresh = stream.hear(waveform)
    stream.reset()
    stream.feed(waveform[:7777])
    stream.skip(8223)
    assert stream.position_s == 1.0
    later = np.concatenate([stream.feed(waveform), stream.flush()])
    np.testing.assert_allclose(later[:, 0], fresh[:, 0] + 1, atol=1e-9)
    assert np.array_equal(later[:, 1], fresh[:, 1])
    assert stream.position_s == 1 + len(waveform) / 16000
    with pytest.raises(ValueError, match="must not be negative"):
        stream.skip(-1)


def test_reset_forgets_everything(stream, waveform):
    first = stream.hear(waveform)
    stream.reset()
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


def test_a_broken_sample_is_silence_and_not_nan_for_ever(stream, waveform):
    broken, silent = waveform.copy(), waveform.copy()
    broken[5000:5003] = np.nan, np.inf, -np.inf
    silent[5000:5003] = 0
    assert np.array_equal(stream.hear(broken), stream.hear(silent))


def test_what_is_beyond_full_scale_is_cut_to_it(stream, waveform):
    loud = 1e30 * np.sign(waveform)
    assert np.array_equal(stream.hear(loud), stream.hear(np.sign(waveform)))
    assert np.isfinite(stream.hear(loud)).all()


def test_window_forgets_what_is_older_than_a_second(network, stream, waveform):
    """Seconds of broken audio leave no trace once a second has passed; carried has its GRU."""
    if network.mode != "window":
        pytest.skip("carried remembers longer, fading")
    alone = stream.hear(waveform)
    stream.reset()
    stream.feed(np.full(16000, np.nan, np.float32))  # 12.5 steps
    stream.feed(np.zeros(640, np.float32))  # whole steps again
    after = np.concatenate([stream.feed(waveform), stream.flush()])
    # the first window that holds no frame of before, save the reflected start's
    assert np.array_equal(after[-5:, 1], alone[-5:, 1])


@pytest.mark.parametrize("layers, window_samples", [(1, 400), (3, 401), (5, 400)])
def test_rare_architectures_stream_as_offline_too(waveform, layers, window_samples):
    """A ceiling that audio reaches, energies too large for exp, other numbers of layers, an odd window."""
    front_end = FrontEnd(ceiling=0.5, window_samples=window_samples)
    size = Architecture(channels=2, hidden=6, layers=layers, front_end=front_end)
    model = models.build(size, 1).eval()
    model.attention[2].weight.data *= 500
    arrays = {name: value.detach().numpy() for name, value in model.state_dict().items()}
    for mode in MODES:
        _, wanted = excerpts.offline_track(model, waveform, mode)
        # float32, energies of some 100: the softmax over them turns 1e-7 into 1e-5
        np.testing.assert_allclose(Stream(size, arrays, mode).hear(waveform)[:, 1], wanted, atol=1e-4)


@pytest.mark.parametrize("samples", [16000, 40000])
def test_silence_gives_one_probability(network, stream, samples):
    """Digital silence: log-mels at their floor, and in `window` the same answer for ever."""
    said = stream.hear(np.zeros(samples, np.int16))
    assert np.isfinite(said).all()
    if network.mode == "window":
        assert np.ptp(said[:, 1]) == 0


def test_ten_minutes_are_exact_and_keep_no_more_than_a_second(network, stream):
    """Many times as long as the stream remembers: positions exact, memory constant."""
    generator = np.random.default_rng(0)
    minute = generator.normal(0, 3000, 60 * 16000).astype(np.int16)
    stream.reset()
    sizes = set()
    for _ in range(10):
        rows = stream.feed(minute)
        sizes.add(stream.state.outputs.nbytes + stream.state.hidden.nbytes + stream.state.frames.nbytes)
        assert len(stream.state.samples) < 1520
    assert len(sizes) == 1
    assert stream.state.heard == 10 * 60 * 16000
    assert rows[-1, 0] == pytest.approx(stream.state.step * 0.08 - 0.08 + 0.19, abs=1e-9)
    assert 600 - rows[-1, 0] < 0.1


def test_the_last_minute_is_that_of_a_fresh_engine(network, stream, recording):
    """No drift: after a while the same audio gives what a fresh engine gives, from the first second on
    in `window`, as soon as the GRU has forgotten in `carried`."""
    stream.reset()
    for _ in range(40):
        stream.feed(recording[:25600])  # 20 steps
    before = stream.feed(recording[:0])
    assert before.shape == (0, 2)
    later = np.concatenate([stream.feed(np.tile(recording[:25600], 4)), stream.flush()])
    fresh = stream.hear(np.tile(recording[:25600], 4))
    assert np.abs(later[-20:, 1] - fresh[-20:, 1]).max() < 1e-6


def test_hops_longer_than_windows_are_refused():
    size = Architecture(channels=2, hidden=4, front_end=FrontEnd(window_samples=400, hop_samples=500))
    weights = {n: p.detach().numpy() for n, p in models.build(size).named_parameters()}
    with pytest.raises(ValueError, match="windows at least as long as their hop"):
        Stream(size, weights)


def test_steps_of_a_frame_need_the_half_window_that_is_reflected():
    front_end = FrontEnd(hop_samples=200)
    size = Architecture(channels=2, hidden=4, stride=(2, 1), front_end=front_end)
    weights = {n: p.detach().numpy() for n, p in models.build(size).named_parameters()}
    with pytest.raises(ValueError, match="windows longer than two hops"):
        Stream(size, weights)


def test_after_an_interrupted_step_a_stream_goes_on(stream, recording, monkeypatch):
    step, steps = stream._step, []

    def interrupted():
        steps.append(step())
        if len(steps) == 5:
            raise KeyboardInterrupt
        return steps[-1]

    monkeypatch.setattr(stream, "_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stream.feed(recording[:32000])
    monkeypatch.undo()
    rows = np.concatenate([stream.feed(recording[:32000]) for _ in range(3)])
    assert np.diff(rows[:, 0]) == pytest.approx(0.08) and stream.position_s - rows[-1, 0] < 0.2
    whole = stream.hear(recording)
    stream.reset()
    assert np.array_equal(np.concatenate([stream.feed(recording), stream.flush()]), whole)


def test_what_cannot_be_computed_is_no_0(network, waveform):
    broken = Stream.load(network.path, network.mode)
    broken._attention._weights[:] = np.nan
    said = broken.hear(waveform)[:, 1]
    assert len(said) and np.isnan(said).all()


def test_a_piece_has_at_least_a_sample(stream, waveform):
    for chunk in (0, -1):
        with pytest.raises(ValueError, match=f"chunk is {chunk}"):
            stream.hear(waveform, chunk)


def test_a_stream_keeps_no_more_than_it_needs(stream):
    held = stream._samples
    stream.feed(np.zeros(1_000_000, np.float32))
    assert stream._samples is held and held.base is None and len(held) < 30_000
    assert len(stream.state.samples) < 1520


@pytest.mark.parametrize(
    "detectors",
    [
        "[" * 200000,
        "no json",
        '{"window": 3}',
        '{"window": {"threshold": 0.5}}',
        "[1]",
        '{"window": {"threshold": 0.5, "smoothing": 1, "release": 1, "refractory_s": 1e400}}',
        '{"window": {"threshold": "a", "smoothing": 1, "release": 1, "refractory_s": 1}}',
    ],
)
def test_damaged_detectors_are_an_error_of_one_line(tmp_path, detectors):
    models.save(tmp_path / "c.safetensors", models.build(ARCHITECTURES["student3"]))
    arrays, metadata = checkpoints.read(tmp_path / "c.safetensors")
    checkpoints.write(tmp_path / "c.safetensors", arrays, metadata | {"detectors": detectors})
    with pytest.raises(checkpoints.CheckpointError, match="detectors cannot be read"):
        ready(tmp_path / "c.safetensors")


@pytest.mark.parametrize("mode, threshold", [("window", 2), ("both", 0.5)])
def test_impossible_detectors_name_their_file(tmp_path, mode, threshold):
    models.save(tmp_path / "c.safetensors", models.build(ARCHITECTURES["student3"]))
    arrays, metadata = checkpoints.read(tmp_path / "c.safetensors")
    detectors = {mode: {"threshold": threshold, "smoothing": 3, "release": 0.5, "refractory_s": 1}}
    checkpoints.write(tmp_path / "c.safetensors", arrays, metadata | {"detectors": json.dumps(detectors)})
    with pytest.raises(checkpoints.CheckpointError, match=r"c\.safetensors: its detectors cannot be used"):
        ready(tmp_path / "c.safetensors")
