"""int8 networks from trained float ones, without retraining; saved without pickle, loaded exactly.

*Dynamic*: weights of GRU and Linear are int8, activations are quantized as they come. *Static*: the
convolution too, a scale for each output channel, with ranges of its activations measured beforehand
on training clips (arXiv 1712.05877). Results depend on the engine (pytorch #70512): it is named.
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
    the batch, so each clip is given alone, as on a device. One thread: several would wait."""

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
    with warnings.catch_warnings(action="ignore"):  # torch.ao announces its own removal
        return ao.quantize_dynamic(network, {nn.GRU, nn.Linear}, dtype=torch.qint8, inplace=True)


def quantize_static(model: models.CRNN, log_mels: torch.Tensor) -> ClipByClip:
    """A copy with int8 convolution too. Its activations' ranges are those of least squared error on
    log_mels (clips, mels, frames) of training clips, so that rare extremes do not coarsen all."""
    quantized = quantize_dynamic(model)
    # 7 bits: fbgemm's sums of two 8-bit products saturate on processors without VNNI
    weight = ao.PerChannelMinMaxObserver.with_args(
        dtype=torch.qint8, qscheme=torch.per_channel_symmetric, quant_min=-63, quant_max=63
    )
    with warnings.catch_warnings(action="ignore"), torch.no_grad():
        wrapped = ao.QuantWrapper(copy.deepcopy(model.convolution)).eval()
        wrapped.qconfig = ao.QConfig(ao.HistogramObserver.with_args(dtype=torch.quint8), weight)
        ao.prepare(wrapped, inplace=True)
        wrapped(log_mels[:, None])
        ao.convert(wrapped, inplace=True)
    quantized.convolution = wrapped
    return quantized


def save(path: Path, model: ClipByClip, **metadata: str) -> None:
    """int8 weights and scales, float biases, a static convolution's ranges; see `files`."""
    convolution, layers = model.convolution, {name: model.get_submodule(name) for name in LINEAR}
    metadata = {"architecture": model.architecture.to_json(), "int8": "dynamic"} | metadata
    tensors = {f"gru.{n}": t for n, t in (model.gru.get_weight() | model.gru.get_bias()).items()}
    if isinstance(convolution, ao.QuantWrapper):
        stub, layers["convolution"] = convolution.quant, convolution.module
        outputs = convolution.module.scale, convolution.module.zero_point
        ranges = float(stub.scale), int(stub.zero_point), *outputs
        metadata |= {"int8": "static", "ranges": " ".join(map(repr, ranges))}
    else:
        tensors |= {f"convolution.{name}": p for name, p in convolution.named_parameters()}
    for name, layer in layers.items():
        tensors |= {f"{name}.weight": layer.weight(), f"{name}.bias": layer.bias()}
    arrays, scales = {}, []
    for name, tensor in sorted(tensors.items()):
        if tensor.is_quantized:
            is_single = tensor.qscheme() == torch.per_tensor_affine
            scales.append(tensor.q_scale() if is_single else tensor.q_per_channel_scales())
        arrays[name] = (tensor.int_repr() if tensor.is_quantized else tensor.detach()).numpy()
    arrays[files.SCALES] = np.hstack(scales).astype(np.float64)
    files.write_checkpoint(path, arrays, metadata)


def load(path: Path) -> models.CRNN:
    """The network of any checkpoint, float or int8, in evaluation mode, or `FileError`."""
    arrays, metadata = files.read_checkpoint(path)
    if "int8" not in metadata:
        return models.load(path)
    architecture = Architecture.from_json(metadata["architecture"])
    quantized = quantize_dynamic(models.CRNN(architecture))
    stored = {name: torch.from_numpy(value) for name, value in arrays.items()}
    for name, scales in files.split_scales(arrays).items():
        quantize, scale = torch._make_per_tensor_quantized_tensor, (float(scales[0]), 0)
        if stored[name].ndim == 4:  # a scale for each place along the first axis
            quantize = torch._make_per_channel_quantized_tensor
            scale = torch.from_numpy(scales), torch.zeros(len(scales), dtype=torch.int64), 0
        stored[name] = quantize(stored[name], *scale)
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
