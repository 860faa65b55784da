import numpy as np
import pytest
import torch

from kwslib import files, models, quantization
from kwslib.architecture import ARCHITECTURES


@pytest.fixture(scope="module")
def log_mels():
    """Log-mels of the size that centred ones have, within 3 of 0 or so."""
    return torch.randn(16, 40, 101, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=("baseline", "student3"))
def model(request):
    return models.build(ARCHITECTURES[request.param], seed=1).eval()


@pytest.fixture(params=("dynamic", "static"))
def quantized(request, model, log_mels):
    if request.param == "static":
        return quantization.quantize_static(model, log_mels)
    return quantization.quantize_dynamic(model)


def int8_weights(quantized):
    """Quantized tensors by name."""
    weights = {f"gru.{name}": value for name, value in quantized.gru.get_weight().items()}
    for name in quantization.LINEAR:
        weights[f"{name}.weight"] = quantized.get_submodule(name).weight()
    if not hasattr(quantized.convolution, "weight"):
        weights["convolution.weight"] = quantized.convolution.module.weight()
    return weights


def test_weights_are_within_half_a_step_and_do_not_wrap(model, quantized):
    for name, weight in int8_weights(quantized).items():
        integers, floats = weight.int_repr().int(), model.state_dict()[name]
        is_convolution = name.startswith("conv")
        scales = weight.q_per_channel_scales() if is_convolution else torch.tensor(weight.q_scale())
        error = (weight.dequantize() - floats).abs() / scales.reshape(-1, *[1] * (floats.ndim - 1))
        # 127.5 steps cover the largest weight: at the very end rounding down costs half a step too
        assert error.max() <= 0.5 + 1e-4, name
        # 7 bits in a static convolution: its sums must not saturate
        assert integers.abs().max() in ((63,) if is_convolution else (127, 128)), name
        assert ((integers * floats.sign()) >= 0).all(), name  # wrapped, it would change sign


def test_extremes_and_zeros_survive_and_packed_weights_are_no_parameters(model):
    """The latter is what notebook 6 says of the study's 87 times."""
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.weight[0, 0], model.classifier.weight[1, 0] = 100.0, -100.0
    quantized = quantization.quantize_dynamic(model)
    convolution = model.architecture.parameters()["convolution"]
    assert sum(each.nbytes for each in quantized.parameters()) == 4 * convolution
    weight = quantized.classifier.weight()
    assert weight.int_repr()[0, 0] == 127 and weight.int_repr()[1, 0] in (-127, -128)
    assert (weight.dequantize()[:, 1:] == 0).all()


def test_static_ranges_hold_zero_and_nearly_all_that_was_seen(model, log_mels):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    convolution = quantization.quantize_static(model, log_mels).convolution
    seen = log_mels[:, None]
    error = (convolution.quant(seen).dequantize() - seen).abs().flatten()
    # float32 rounding of value / step; rare extremes may be cut off
    assert 0 < error.quantile(0.99) <= 0.5 * convolution.quant.scale * (1 + 1e-4)
    assert (convolution.quant(torch.zeros(1)).dequantize() == 0).all()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_int8_output_is_close_to_float(model, quantized, log_mels):
    with torch.inference_mode():
        wanted, ours = model(log_mels), quantized(log_mels)
        other = models.build(model.architecture, seed=2).eval()(log_mels)
    assert ours.shape == wanted.shape
    # a step is 1/127 of the range of activations, logits are within 1 of 0: some steps at most
    assert (ours - wanted).abs().max() < 0.03
    assert (other - wanted).abs().max() > 0.15  # the control: another network is not


def test_a_clip_s_score_does_not_depend_on_its_batch(quantized, log_mels):
    loud = log_mels.clone()
    loud[1:] *= 5  # with a common range the first clip would be rounded five times as coarsely
    with torch.inference_mode():
        alone = quantized(log_mels[:1])
        assert torch.equal(quantized(loud)[:1], alone)
        together = models.CRNN.forward(quantized, loud)[:1]
    assert not torch.equal(together, alone)  # the control: the kernels do what we guard against


def test_a_loaded_network_gives_the_same_bits(model, quantized, log_mels, tmp_path):
    models.save(tmp_path / "f.safetensors", model)  # a float one too
    assert torch.equal(quantization.load(tmp_path / "f.safetensors")(log_mels), model(log_mels))
    first, again = tmp_path / "first.safetensors", tmp_path / "again.safetensors"
    quantization.save(first, quantized, setting="mine")
    loaded = quantization.load(first)
    with torch.inference_mode():
        assert torch.equal(loaded(log_mels), quantized(log_mels))
    quantization.save(again, loaded, setting="mine")
    assert first.read_bytes() == again.read_bytes()
    with pytest.raises(files.FileError, match="int8"):
        models.load(first)
    arrays, _ = files.read_checkpoint(first)
    weights = files.float_weights(arrays)
    assert weights.keys() == arrays.keys() - {"scales"}
    for name, weight in int8_weights(quantized).items():
        assert arrays[name].dtype == np.int8
        # int8 times scale in float64 and then float32, or in float32 at once
        np.testing.assert_allclose(weights[name], weight.dequantize().numpy(), rtol=2e-7)
