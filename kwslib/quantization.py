"""int8 networks from trained float ones, without retraining; saved without pickle, loaded exactly.

*Dynamic*: weights of GRU and Linear are int8, activations are quantized as they come. *Static*: the
convolution too, weights an output channel and activations with ranges measured beforehand on
training clips (Jacob et al., arXiv 1712.05877). Eager-mode PyTorch kernels; results depend on the
engine (pytorch #70512), so one is named rather than left to the default.
"""

import copy
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.ao import quantization as ao
from torch.ao.nn.quantized import Conv2d as Int8Conv2d

from . import checkpoints, models
from .checkpoints import CheckpointError

MODES = ("dynamic", "static")


class ClipByClip(models.CRNN):
    """A network in integers. The kernels round activations by the range of all that they are given at
    once, so that in a batch a clip's score would hang on the clips beside it, and be rounded twice as
    coarsely: every clip is given alone, as on a device, and to one thread: more would wait for each
    other far longer than a clip takes.

    Shape: as `CRNN`.
    """

    def forward(self, log_mels: torch.Tensor) -> torch.Tensor:
        score, threads = super().forward, torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return torch.cat([score(clip) for clip in log_mels.split(1)])
        finally:
            torch.set_num_threads(threads)


def engine() -> str:
    """The int8 engine in use: fbgemm on x86, qnnpack elsewhere."""
    return "fbgemm" if "fbgemm" in torch.backends.quantized.supported_engines else "qnnpack"


def quantize_dynamic(model: models.CRNN) -> models.CRNN:
    """A copy with int8 weights in GRU and Linear; the convolution stays float."""
    torch.backends.quantized.engine = engine()
    network = ClipByClip(model.architecture).eval()
    network.load_state_dict(model.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao announces its own removal
        return ao.quantize_dynamic(network, {nn.GRU, nn.Linear}, dtype=torch.qint8, inplace=True)


def quantize_static(model: models.CRNN, log_mels: torch.Tensor) -> models.CRNN:
    """A copy with int8 convolution too.

    log_mels: (clips, mels, frames) training clips on which the ranges of the convolution's input
    and output are measured: those of least squared error, so that rare extremes do not coarsen all.
    Weights use 7 bits, since on processors without VNNI fbgemm's sums of two 8-bit products can
    saturate; activations, which need the bit more, all 8.
    """
    quantized = quantize_dynamic(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = ao.QuantWrapper(copy.deepcopy(model.convolution)).eval()
        wrapped.qconfig = ao.QConfig(
            activation=ao.HistogramObserver.with_args(dtype=torch.quint8),
            weight=ao.PerChannelMinMaxObserver.with_args(
                dtype=torch.qint8, qscheme=torch.per_channel_symmetric, quant_min=-63, quant_max=63
            ),
        )
        ao.prepare(wrapped, inplace=True)
        with torch.inference_mode():
            wrapped(log_mels[:, None])
        ao.convert(wrapped, inplace=True)
    quantized.convolution = wrapped
    return quantized


def rounding(quantized: models.CRNN, model: models.CRNN, log_mels: torch.Tensor) -> dict[str, float]:
    """Root mean square of what integers change in the log-odds of (clips, mels, frames) log-mels, with
    each clip given `alone`, as networks in integers score here, and with all given `in a batch`."""
    with torch.inference_mode():
        wanted = model(log_mels)
        given = {"alone": quantized(log_mels), "in a batch": models.CRNN.forward(quantized, log_mels)}
        changed = {name: (logits - wanted).diff(dim=1) for name, logits in given.items()}
    return {name: float(change.square().mean().sqrt()) for name, change in changed.items()}


def save(path: Path, model: models.CRNN) -> None:
    """int8 weights as int8, their scales, biases as float; ranges of a static convolution in the
    metadata. See `checkpoints` for the layout."""
    weights, biases, ranges = {}, {}, None
    if isinstance(model.convolution, ao.QuantWrapper):
        convolution, stub = model.convolution.module, model.convolution.quant
        weights["convolution.weight"] = convolution.weight()
        biases["convolution.bias"] = convolution.bias()
        ranges = [float(stub.scale), int(stub.zero_point), convolution.scale, convolution.zero_point]
    else:
        biases["convolution.weight"] = model.convolution.weight
        biases["convolution.bias"] = model.convolution.bias
    weights |= {f"gru.{name}": value for name, value in model.gru.get_weight().items()}
    biases |= {f"gru.{name}": value for name, value in model.gru.get_bias().items()}
    for name in ("attention.0", "attention.2", "classifier"):
        linear = model.get_submodule(name)
        weights[f"{name}.weight"], biases[f"{name}.bias"] = linear.weight(), linear.bias()
    arrays = {name: value.detach().numpy() for name, value in biases.items()}
    arrays |= {name: value.int_repr().numpy() for name, value in weights.items()}
    arrays[checkpoints.SCALES] = np.concatenate([_scales(weights[name]) for name in sorted(weights)])
    metadata = {"architecture": model.architecture.to_json(), "int8": "static" if ranges else "dynamic"}
    if ranges:
        metadata["ranges"] = " ".join(repr(float(value)) for value in ranges)
    checkpoints.write(path, arrays, metadata)


def load(path: Path) -> models.CRNN:
    """The network of any checkpoint, float or int8, as it was when saved; or `CheckpointError`."""
    arrays, metadata = checkpoints.read(path)
    mode = metadata.get("int8")
    if mode is None:
        return models.load(path)
    if mode not in MODES:
        raise CheckpointError(f"{path}: int8 is {mode!r}; it must be one of {', '.join(MODES)}")
    model = models.CRNN(checkpoints.architecture_of(metadata, path, arrays)).eval()
    scales = checkpoints.split_scales(arrays, path)
    try:
        weights = checkpoints.float_weights(arrays, path)
        model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
        quantized = quantize_dynamic(model)
        _restore_gru(quantized.gru, arrays, scales)
        for name in ("attention.0", "attention.2", "classifier"):
            weight = _quantized(arrays[f"{name}.weight"], scales[f"{name}.weight"])
            bias = torch.from_numpy(arrays[f"{name}.bias"])
            quantized.get_submodule(name).set_weight_bias(weight, bias)
        if mode == "static":
            ranges = [float(value) for value in metadata["ranges"].split()]
            if not (np.isfinite(ranges).all() and ranges[0] > 0 and ranges[2] > 0):
                raise ValueError(f"ranges are {metadata['ranges']}")
            quantized.convolution = _static_convolution(model.convolution, arrays, scales, ranges)
    except (KeyError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path} does not hold the network it describes: {reason}") from None
    return quantized


def _scales(weight: torch.Tensor) -> np.ndarray:
    if weight.qscheme() == torch.per_channel_affine:
        return weight.q_per_channel_scales().numpy().astype(np.float64)
    if weight.q_zero_point() != 0:
        raise ValueError("an int8 weight has a zero point; the file format has no place for it")
    return np.array([weight.q_scale()])


def _quantized(values: np.ndarray, scales: np.ndarray) -> torch.Tensor:
    integers = torch.from_numpy(values)
    if values.ndim < 4:
        return torch._make_per_tensor_quantized_tensor(integers, float(scales[0]), 0)
    zeros = torch.zeros(len(scales), dtype=torch.int64)
    return torch._make_per_channel_quantized_tensor(integers, torch.from_numpy(scales), zeros, 0)


def _restore_gru(gru, arrays, scales) -> None:
    values = {}
    for name in [*gru.get_weight(), *gru.get_bias()]:
        stored = arrays[f"gru.{name}"]
        is_weight = name.startswith("weight")
        values[name] = _quantized(stored, scales[f"gru.{name}"]) if is_weight else torch.from_numpy(stored)
    gru.set_weight_bias(values)


def _static_convolution(convolution: nn.Conv2d, arrays, scales, ranges) -> nn.Module:
    input_scale, input_zero, output_scale, output_zero = ranges
    wrapped = ao.QuantWrapper(convolution)
    integer = Int8Conv2d(
        convolution.in_channels, convolution.out_channels, convolution.kernel_size, convolution.stride
    )
    weight = _quantized(arrays["convolution.weight"], scales["convolution.weight"])
    integer.set_weight_bias(weight, torch.from_numpy(arrays["convolution.bias"]))
    integer.scale, integer.zero_point = output_scale, int(output_zero)
    wrapped.quant = torch.ao.nn.quantized.Quantize(input_scale, int(input_zero), torch.quint8)
    wrapped.module, wrapped.dequant = integer, torch.ao.nn.quantized.DeQuantize()
    return wrapped
