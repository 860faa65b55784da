import numpy as np
import pytest
import torch

from kwslib import checkpoints, models, quantization
from kwslib.architecture import ARCHITECTURES

SETTINGS = ("baseline", "student3")
LINEARS = ("attention.0", "attention.2", "classifier")


@pytest.fixture(scope="module")
def log_mels():
    """Log-mels of the size that real ones have, from -20 to 10 or so."""
    return 4 * torch.randn(16, 40, 101, generator=torch.Generator().manual_seed(0)) - 5


@pytest.fixture(params=SETTINGS)
def model(request):
    return models.build(ARCHITECTURES[request.param], seed=1).eval()


@pytest.fixture(params=quantization.MODES)
def quantized(request, model, log_mels):
    if request.param == "static":
        return quantization.quantize_static(model, log_mels)
    return quantization.quantize_dynamic(model)


def int8_weights(quantized):
    """Quantized tensors by name."""
    weights = {f"gru.{name}": value for name, value in quantized.gru.get_weight().items()}
    weights |= {f"{name}.weight": quantized.get_submodule(name).weight() for name in LINEARS}
    if not hasattr(quantized.convolution, "weight"):
        weights["convolution.weight"] = quantized.convolution.module.weight()
    return weights


def steps_of(weight):
    """The size of one step, shaped to divide the weight."""
    if weight.qscheme() == torch.per_channel_affine:
        return weight.q_per_channel_scales().reshape(-1, 1, 1, 1)
    return torch.tensor(weight.q_scale())


def test_weights_are_within_half_a_step(model, quantized):
    for name, weight in int8_weights(quantized).items():
        error = (weight.dequantize() - model.state_dict()[name]).abs() / steps_of(weight)
        # 127.5 steps cover the largest weight: at the very end rounding down costs half a step too
        assert error.max() <= 0.5 + 1e-4, name


def test_int8_weights_use_the_whole_range_and_do_not_wrap(model, quantized):
    for name, weight in int8_weights(quantized).items():
        integers, floats = weight.int_repr().int(), model.state_dict()[name]
        # 7 bits in a static convolution: its sums must not saturate
        assert integers.abs().max() == 63 if name.startswith("conv") else integers.abs().max() >= 127, name
        assert ((integers * floats.sign()) >= 0).all(), name  # wrapped, an extreme would change sign


def test_extremes_and_zeros_survive():
    model = models.build(ARCHITECTURES["student3"]).eval()
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.weight[0, 0], model.classifier.weight[1, 0] = 100.0, -100.0
    weight = quantization.quantize_dynamic(model).classifier.weight()
    assert weight.int_repr()[0, 0] == 127
    assert weight.int_repr()[1, 0] in (-127, -128)
    assert (weight.int_repr()[:, 1:] == 0).all()
    assert (weight.dequantize()[:, 1:] == 0).all()


def test_static_ranges_hold_zero_and_nearly_all_that_was_seen(model, log_mels):
    convolution = quantization.quantize_static(model, log_mels).convolution
    seen = log_mels[:, None]
    assert not torch.equal(seen, convolution.quant(seen).dequantize())  # it does quantize
    error = (convolution.quant(seen).dequantize() - seen).abs().flatten()
    # float32 rounding of value / step; rare extremes may be cut off
    assert error.quantile(0.99) <= 0.5 * convolution.quant.scale * (1 + 1e-4)
    assert error.mean() < 0.5 * convolution.quant.scale
    assert (convolution.quant(torch.zeros(1)).dequantize() == 0).all()


def test_the_float_network_is_left_as_it_was(model, log_mels):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    quantization.quantize_dynamic(model)
    quantization.quantize_static(model, log_mels)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_int8_output_is_close_to_float(model, quantized, log_mels):
    with torch.inference_mode():
        wanted, ours = model(log_mels), quantized(log_mels)
        other = models.build(model.architecture, seed=2).eval()(log_mels)
    assert ours.shape == wanted.shape
    # a step is 1/127 of the range of activations, logits are within 1 of 0: some steps at most
    assert (ours - wanted).abs().max() < 0.03
    assert (other - wanted).abs().max() > 0.15  # the control: another network is not


def test_a_clip_s_score_does_not_hang_on_its_batch(quantized, log_mels):
    loud = log_mels.clone()
    loud[1:] *= 5  # with a common range the first clip would be rounded five times as coarsely
    with torch.inference_mode():
        alone = quantized(log_mels[:1])
        assert torch.equal(quantized(loud)[:1], alone)
        together = super(quantization.ClipByClip, quantized).forward(loud)[:1]
    assert not torch.equal(together, alone)  # the control: the kernels do what we guard against


def test_rounding_is_measured_against_float(model, quantized, log_mels):
    found = quantization.rounding(quantized, model, log_mels)
    with torch.inference_mode():
        ours, wanted = (network(log_mels).numpy() for network in (quantized, model))
    odds = (ours[:, 1] - ours[:, 0]) - (wanted[:, 1] - wanted[:, 0])
    assert found["alone"] == pytest.approx(np.sqrt(np.mean(odds**2)), rel=1e-4)
    assert found["in a batch"] != found["alone"] > 0


def test_a_loaded_network_gives_the_same_bits(quantized, log_mels, tmp_path):
    path = tmp_path / "q.safetensors"
    quantization.save(path, quantized)
    loaded = quantization.load(path)
    with torch.inference_mode():
        assert torch.equal(loaded(log_mels), quantized(log_mels))
    quantization.save(tmp_path / "again.safetensors", loaded)
    (first, about), (again, about_again) = (
        checkpoints.read(tmp_path / n) for n in ("q.safetensors", "again.safetensors")
    )
    assert about == about_again
    assert first.keys() == again.keys()
    assert all(np.array_equal(first[name], again[name]) for name in first)


def test_weights_of_the_file_are_those_of_the_network(quantized, tmp_path):
    path = tmp_path / "q.safetensors"
    quantization.save(path, quantized)
    arrays, _ = checkpoints.read(path)
    weights = checkpoints.float_weights(arrays)
    assert weights.keys() == arrays.keys() - {"scales"}
    for name, weight in int8_weights(quantized).items():
        assert arrays[name].dtype == np.int8
        assert np.array_equal(arrays[name], weight.int_repr().numpy())
        # int8 times scale in float64 and then float32, or in float32 at once
        np.testing.assert_allclose(weights[name], weight.dequantize().numpy(), rtol=2e-7)


def test_a_float_checkpoint_loads_as_float(model, log_mels, tmp_path):
    models.save(tmp_path / "f.safetensors", model)
    loaded = quantization.load(tmp_path / "f.safetensors")
    assert torch.equal(loaded(log_mels), model(log_mels))


def test_an_int8_checkpoint_does_not_load_as_float(quantized, tmp_path):
    quantization.save(tmp_path / "q.safetensors", quantized)
    with pytest.raises(checkpoints.CheckpointError):
        models.load(tmp_path / "q.safetensors")
