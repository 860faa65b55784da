from dataclasses import replace

import pytest
import torch

from kwslib import files, models
from kwslib.architecture import ARCHITECTURES, Architecture

SMALL = Architecture(channels=2, hidden=4)


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


LOG_MELS = noise(3, 40, 101)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_network_has_the_parameters_its_architecture_states(name):
    by_part = dict.fromkeys(ARCHITECTURES[name].parameters(), 0)
    for parameter, value in models.build(ARCHITECTURES[name], 0).named_parameters():
        by_part[parameter.split(".")[0]] += value.numel()
    assert by_part == ARCHITECTURES[name].parameters()


def test_convolution_features_run_over_channels_then_mels():
    model = models.build(SMALL, 0).eval()
    inputs, maps = model.convolve(LOG_MELS), model.convolution(LOG_MELS[:, None])
    assert inputs.shape == (3, SMALL.steps, SMALL.gru_inputs)
    assert torch.equal(inputs[1, 4, 1 * SMALL.conv_mels + 7], maps[1, 1, 7, 4])


def test_attention_without_preference_takes_the_mean():
    model = models.build(SMALL, 0).eval()
    torch.nn.init.zeros_(model.attention[2].weight)
    outputs = noise(3, 11, 4)
    assert model.classify(outputs).shape == (3, 2)
    # equal weights of 1/11, summed instead of divided: float32 rounding
    torch.testing.assert_close(model.classify(outputs), model.classifier(outputs.mean(1)))


def test_a_seed_draws_one_network_and_leaves_the_generator_alone():
    before = torch.random.get_rng_state()
    first, again, other = (models.build(SMALL, seed).classifier.weight for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("architecture", [SMALL, replace(SMALL, layers=1)])
def test_a_loaded_network_gives_the_same_bits(tmp_path, architecture):
    model = models.build(architecture, 3).eval()
    models.save(tmp_path / "m.safetensors", model, setting="mine")
    loaded = models.load(tmp_path / "m.safetensors")
    assert loaded.architecture == architecture and not loaded.training
    assert torch.equal(loaded(LOG_MELS), model(LOG_MELS))
    assert not torch.equal(models.build(architecture, 4).eval()(LOG_MELS), model(LOG_MELS))
    assert files.read_checkpoint(tmp_path / "m.safetensors")[1]["setting"] == "mine"


def test_windows_are_the_seconds_of_a_recording():
    network = models.build(ARCHITECTURES["student3"], 1).eval()
    log_mels = noise(2, 40, 101 + 8 * 6)
    with torch.inference_mode():
        found = network.windows(log_mels, every=3)
        alone = [network(log_mels[:, :, start : start + 101]) for start in (0, 24, 48)]
    # float32 sums in another order
    torch.testing.assert_close(found, torch.stack(alone, 1), rtol=0, atol=1e-5)


def test_carried_runs_on_where_windows_start_anew():
    """What carried gives at a step depends on nothing after it, and equals a window's at the end of
    the first second. Later it differs: there its GRU has run for longer."""
    network = models.build(ARCHITECTURES["student3"], 1).eval()
    log_mels = noise(2, 40, 20 + 8 * 29)
    with torch.inference_mode():
        carried, windows = network.carried(log_mels), network.windows(log_mels)
        first = network.carried(log_mels[:, :, : 20 + 8 * 4])
    assert carried.shape == (2, 30, 2) and windows.shape == (2, 20, 2)
    # float32 sums in another order
    torch.testing.assert_close(first, carried[:, :5], rtol=0, atol=1e-5)
    torch.testing.assert_close(carried[:, 10], windows[:, 0], rtol=0, atol=1e-5)
    assert (carried[:, 11:] - windows[:, 1:]).abs().max() > 1e-3
