"""int8 networks from trained float ones, without retraining; saved without pickle, loaded exactly.

*Dynamic*: weights of GRU and Linear are int8, activations are quantized as they come. *Static*: the
convolution too, with a scale for each output channel, and ranges of its activations measured
beforehand on training clips (Jacob et al., arXiv 1712.05877). Eager-mode PyTorch kernels. Results
depend on the engine (pytorch #70512), so it is named rather than left to the default.
"""

import copy
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.ao import quantization as ao
from torch.ao.nn import quantized as int8

from . import files, models
from .architecture import Architecture

LINEAR = ("attention.0", "attention.2", "classifier")


class ClipByClip(models.CRNN):
    """A network in integers, shapes as in `CRNN`. The kernels round activations by their range over
    the batch, so a clip's score would depend on other clips. Each clip is given alone, as on a
    device, and to one thread: several would wait."""

    def forward(self, log_mels: torch.Tensor) -> torch.Tensor:
        score, threads = super().forward, torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return torch.cat([score(clip) for clip in log_mels.split(1)])
        finally:
            torch.set_num_threads(threads)


def quantize_dynamic(model: models.CRNN) -> ClipByClip:
    """A copy with int8 weights in GRU and Linear; the convolution stays float."""
    engines = torch.backends.quantized.supported_engines
    torch.backends.quantized.engine = "fbgemm" if "fbgemm" in engines else "qnnpack"
    network = ClipByClip(model.architecture).eval()
    network.load_state_dict(model.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao announces its own removal
        return ao.quantize_dynamic(network, {nn.GRU, nn.Linear}, dtype=torch.qint8, inplace=True)


def quantize_static(model: models.CRNN, log_mels: torch.Tensor) -> ClipByClip:
    """A copy with int8 convolution too. Its activations' ranges are those of least squared error on
    log_mels (clips, mels, frames) of training clips, so that rare extremes do not coarsen all.

    Weights use 7 bits: fbgemm's sums of two 8-bit products saturate on processors without VNNI.
    """
    quantized = quantize_dynamic(model)
    weight = ao.PerChannelMinMaxObserver.with_args(
        dtype=torch.qint8, qscheme=torch.per_channel_symmetric, quant_min=-63, quant_max=63
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = ao.QuantWrapper(copy.deepcopy(model.convolution)).eval()
        activation = ao.HistogramObserver.with_args(dtype=torch.quint8)
        wrapped.qconfig = ao.QConfig(activation=activation, weight=weight)
        ao.prepare(wrapped, inplace=True)
        with torch.inference_mode():
            wrapped(log_mels[:, None])
        ao.convert(wrapped, inplace=True)
    quantized.convolution = wrapped
    return quantized


def save(path: Path, model: ClipByClip, **metadata: str) -> None:
    """int8 weights with their scales, biases as float, and the ranges of a static convolution;
    `files` has the layout."""
    weights, biases, convolution = {}, {}, model.convolution
    metadata = {"architecture": model.architecture.to_json(), "int8": "dynamic"} | metadata
    if isinstance(convolution, ao.QuantWrapper):
        metadata["int8"] = "static"
        stub, convolution = convolution.quant, convolution.module
        ranges = float(stub.scale), int(stub.zero_point), convolution.scale, convolution.zero_point
        metadata["ranges"] = " ".join(repr(value) for value in ranges)
        weights["convolution.weight"] = convolution.weight()
        biases["convolution.bias"] = convolution.bias()
    else:
        biases |= {f"convolution.{name}": p for name, p in convolution.named_parameters()}
    weights |= {f"gru.{name}": value for name, value in model.gru.get_weight().items()}
    biases |= {f"gru.{name}": value for name, value in model.gru.get_bias().items()}
    for name in LINEAR:
        linear = model.get_submodule(name)
        weights[f"{name}.weight"], biases[f"{name}.bias"] = linear.weight(), linear.bias()
    arrays = {name: value.detach().numpy() for name, value in biases.items()}
    arrays |= {name: value.int_repr().numpy() for name, value in weights.items()}
    scales = [
        w.q_scale() if w.qscheme() == torch.per_tensor_affine else w.q_per_channel_scales()
        for _, w in sorted(weights.items())
    ]
    arrays[files.SCALES] = np.hstack(scales).astype(np.float64)
    files.write_checkpoint(path, arrays, metadata)


def load(path: Path) -> models.CRNN:
    """The network of any checkpoint, float or int8, in evaluation mode and as it was when saved, or
    `FileError`."""
    arrays, metadata = files.read_checkpoint(path)
    if "int8" not in metadata:
        return models.load(path)
    architecture = Architecture.from_json(metadata["architecture"])
    quantized = quantize_dynamic(models.CRNN(architecture))
    stored = {name: torch.from_numpy(value) for name, value in arrays.items()}
    for name, scales in files.split_scales(arrays).items():
        stored[name] = _quantized(stored[name], torch.from_numpy(scales))
    names = [*quantized.gru.get_weight(), *quantized.gru.get_bias()]
    quantized.gru.set_weight_bias({name: stored[f"gru.{name}"] for name in names})
    for name in LINEAR:
        linear = quantized.get_submodule(name)
        linear.set_weight_bias(stored[f"{name}.weight"], stored[f"{name}.bias"])
    weight, bias = stored["convolution.weight"], stored["convolution.bias"]
    if metadata["int8"] == "dynamic":
        quantized.convolution.load_state_dict({"weight": weight, "bias": bias})
        return quantized
    scale_in, zero_in, scale_out, zero_out = map(float, metadata["ranges"].split())
    wrapped = ao.QuantWrapper(quantized.convolution)
    wrapped.quant = int8.Quantize(scale_in, int(zero_in), torch.quint8)
    wrapped.dequant = int8.DeQuantize()
    wrapped.module = int8.Conv2d(1, architecture.channels, architecture.kernel, architecture.stride)
    wrapped.module.set_weight_bias(weight, bias)
    wrapped.module.scale, wrapped.module.zero_point = scale_out, int(zero_out)
    quantized.convolution = wrapped
    return quantized


def _quantized(integers: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    if integers.ndim < 4:
        return torch._make_per_tensor_quantized_tensor(integers, float(scales), 0)
    zeros = torch.zeros(len(scales), dtype=torch.int64)  # the scheme is symmetric
    return torch._make_per_channel_quantized_tensor(integers, scales, zeros, 0)
