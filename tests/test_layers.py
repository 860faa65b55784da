"""Parts of a step against torch's; the stream that they make is tested in test_streaming."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from kwslib import features, layers, models
from kwslib.architecture import Architecture, FrontEnd


@pytest.fixture(params=[1, 2, 4], ids=lambda n: f"{n} layers")
def network(request):
    return models.build(Architecture(channels=2, hidden=5, layers=request.param), seed=3).eval()


@pytest.fixture
def weights(network):
    return {name: value.detach().numpy() for name, value in network.state_dict().items()}


@pytest.mark.parametrize("ceiling", [1e9, 0.5])
def test_log_mels_are_those_of_training(ceiling):
    waveform = np.random.default_rng(0).normal(0, 0.1, 4000).astype(np.float32)
    front_end, out = FrontEnd(ceiling=ceiling), np.zeros((8, 40), np.float32)
    made = layers.LogMels(front_end, out)
    made.make(waveform, 5 * 160 - 200)  # training's frames are centred: this is its frame 5
    power = features.mel_power(torch.from_numpy(waveform)[None], front_end)
    wanted = features.log_mel(power, front_end)[0].T[5:13].numpy()
    np.testing.assert_allclose(out, wanted, atol=1e-4)
    assert made.taken == 1280 and made.needed == 7 * 160 + 400


@pytest.mark.parametrize("window", [400, 401])
@pytest.mark.parametrize("ufuncs", [None, "gone", "other values"])
def test_the_transform_is_numpy_s_to_the_last_bit(window, ufuncs, monkeypatch):
    """By the ufunc that is there, and by the public way where it is gone or does something else."""
    if ufuncs:
        there = SimpleNamespace()
        if ufuncs == "other values":
            there.rfft_n_even = there.rfft_n_odd = lambda frames, share, out: np.copyto(out, 1)
        monkeypatch.setitem(sys.modules, "numpy.fft._pocketfft_umath", there)
    transform = layers.transform(window)
    assert (transform.__name__ == "public") == bool(ufuncs)
    frames = np.random.default_rng(window).normal(size=(8, window)).astype(np.float32)
    found = np.zeros((8, window // 2 + 1), np.complex64)
    transform(frames, found)
    assert np.array_equal(found, np.fft.rfft(frames, norm="forward", out=np.empty_like(found)))


@pytest.mark.parametrize("windows", [1, 3])
def test_layers_advance_as_torch_s_gru(network, weights, windows):
    """Every window with a state of its own, all with the same inputs."""
    a, draw = network.architecture, np.random.default_rng(0)
    before = draw.uniform(-1, 1, (a.layers, windows, a.hidden)).astype(np.float32)
    inputs = draw.normal(size=(windows, 1, a.gru_inputs)).astype(np.float32)
    inputs[:] = inputs[:1]
    states = np.ones((a.layers * (a.hidden + 1), windows), np.float32)
    stack = [layers.GruLayer(weights, n, a.hidden, states) for n in range(a.layers)]
    for layer, state in zip(stack, before, strict=True):
        layer.hidden[:] = state.T
    stack[0].told[:] = np.append(inputs[0, 0], 1) @ stack[0].from_below
    for layer in stack:
        layer.advance()
    with torch.no_grad():
        _, wanted = network.gru(torch.from_numpy(inputs), torch.from_numpy(before))
    np.testing.assert_allclose(np.stack([layer.hidden.T for layer in stack]), wanted.numpy(), atol=1e-6)


@pytest.mark.parametrize("scale", [1, 500])  # energies too large for exp
@pytest.mark.parametrize("steps", [1, 11])
def test_attention_says_what_the_network_says(network, scale, steps):
    network.attention[2].weight.data *= scale
    weights = {name: value.detach().numpy() for name, value in network.state_dict().items()}
    outputs = np.random.default_rng(1).uniform(-1, 1, (steps, network.architecture.hidden)).astype(np.float32)
    with torch.no_grad():
        wanted = torch.softmax(network.classify(torch.from_numpy(outputs)[None]).double(), 1)[0, 1]
    with_one = np.vstack([outputs.T, np.ones(steps, np.float32)])
    said = layers.Attention(weights, network.architecture.hidden).probability(with_one)
    assert said == pytest.approx(float(wanted), abs=1e-5 if scale == 1 else 1e-4)


def test_convolution_and_input_weights_are_one_product(network, weights):
    a = network.architecture
    log_mels = np.random.default_rng(2).normal(-7, 5, (a.kernel[1], a.front_end.mels)).astype(np.float32)
    first = layers.GruLayer(weights, 0, a.hidden, np.ones((a.layers * (a.hidden + 1), 1), np.float32))
    said = np.append(log_mels.ravel(), 1) @ layers.convolved(weights, a, first.from_below)
    with torch.no_grad():
        maps = network.convolve(torch.from_numpy(log_mels.T.copy())[None])[0, 0].numpy()
    np.testing.assert_allclose(said, np.append(maps, 1) @ first.from_below, atol=1e-4)


def test_moving_overlapping_values_loses_none():
    values = np.arange(12.0).reshape(3, 4)
    to, origin = layers.moved(values, 4)
    to[:] = origin
    assert np.array_equal(values, [[4, 5, 6, 7], [8, 9, 10, 11], [8, 9, 10, 11]])
