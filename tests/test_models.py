import pytest
import torch

from kwslib import checkpoints, models
from kwslib.architecture import ARCHITECTURES, Architecture

SMALL = Architecture(channels=2, hidden=4)


@pytest.fixture
def log_mels():
    return torch.randn(3, 40, 101, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("setting", ARCHITECTURES)
def test_a_network_has_the_parameters_its_architecture_states(setting):
    architecture, by_part = ARCHITECTURES[setting], {}
    for name, value in models.build(architecture).named_parameters():
        part = name.split(".")[0]
        by_part[part] = by_part.get(part, 0) + value.numel()
    assert by_part == architecture.parameters()


def test_log_mels_become_two_logits(log_mels):
    model = models.build(SMALL).eval()
    assert model.convolve(log_mels).shape == (3, SMALL.steps, SMALL.gru_inputs)
    assert model(log_mels).shape == (3, 2)


def test_convolution_features_run_over_channels_then_mels(log_mels):
    model = models.build(SMALL).eval()
    inputs, maps = model.convolve(log_mels), model.convolution(log_mels[:, None])
    assert torch.equal(inputs[1, 4, 1 * SMALL.conv_mels + 7], maps[1, 1, 7, 4])


def test_attention_without_preference_takes_the_mean():
    model = models.build(SMALL).eval()
    torch.nn.init.zeros_(model.attention[2].weight)
    outputs = torch.randn(3, 11, 4, generator=torch.Generator().manual_seed(0))
    # equal weights of 1/11, summed instead of divided: float32 rounding
    torch.testing.assert_close(model.classify(outputs), model.classifier(outputs.mean(1)))


def test_a_seed_draws_one_network_and_leaves_the_generator_alone():
    before = torch.random.get_rng_state()
    first, again, other = models.build(SMALL, 1), models.build(SMALL, 1), models.build(SMALL, 2)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first.classifier.weight, again.classifier.weight)
    assert not torch.equal(first.classifier.weight, other.classifier.weight)


@pytest.mark.parametrize("architecture", [SMALL, SMALL.with_sizes(layers=1), ARCHITECTURES["student2"]])
def test_a_loaded_network_gives_the_same_bits(tmp_path, log_mels, architecture):
    model = models.build(architecture, 3).eval()
    models.save(tmp_path / "m.safetensors", model)
    loaded = models.load(tmp_path / "m.safetensors")
    assert loaded.architecture == architecture
    assert not loaded.training
    assert torch.equal(loaded(log_mels), model(log_mels))
    assert not torch.equal(models.build(architecture, 4).eval()(log_mels), model(log_mels))


@pytest.mark.parametrize(
    "other", [{"hidden": 5}, {"channels": 3}, {"layers": 1}, {"layers": 3}, {"kernel": (5, 10)}]
)
def test_weights_of_another_architecture_are_refused(tmp_path, other):
    path = tmp_path / "m.safetensors"
    models.save(path, models.build(SMALL))
    arrays, _ = checkpoints.read(path)
    checkpoints.write(path, arrays, {"architecture": SMALL.with_sizes(**other).to_json()})
    with pytest.raises(checkpoints.CheckpointError, match="description") as caught:
        models.load(path)
    assert "\n" not in str(caught.value)


def test_weights_of_another_shape_are_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    models.save(path, models.build(SMALL))
    arrays, metadata = checkpoints.read(path)
    checkpoints.write(path, arrays | {"classifier.weight": arrays["classifier.weight"].T}, metadata)
    with pytest.raises(checkpoints.CheckpointError, match="by its description") as caught:
        models.load(path)
    assert "\n" not in str(caught.value)


def test_windows_are_the_seconds_of_a_recording():
    network = models.build(ARCHITECTURES["student3"], 1).eval()
    log_mels = torch.randn(2, 40, 101 + 8 * 6, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = network.windows(log_mels, every=3)
        alone = [network(log_mels[:, :, start : start + 101]) for start in (0, 24, 48)]
    # float32 sums in another order
    torch.testing.assert_close(found, torch.stack(alone, 1), rtol=0, atol=1e-5)


def test_carried_goes_on_from_its_state():
    """A recording at once, and in two parts with the state handed on: the same at every step whose
    second lies in the second part; without the state it is not."""
    network = models.build(ARCHITECTURES["student3"], 1).eval()
    log_mels = torch.randn(2, 40, 20 + 8 * 39, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        whole, last = network.carried(log_mels)
        _, state = network.carried(log_mels[:, :, : 20 + 8 * 19])
        second = log_mels[:, :, 8 * 20 :]
        found, end = network.carried(second, state)
        without, _ = network.carried(second)
    assert whole.shape == (2, 30, 2) and found.shape == (2, 10, 2)
    # float32 sums in another order
    torch.testing.assert_close(found, whole[:, -10:], rtol=0, atol=1e-5)
    torch.testing.assert_close(end, last, rtol=0, atol=1e-5)
    assert (without[:, 0] - found[:, 0]).abs().max() > 1e-5
