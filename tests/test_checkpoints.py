import json
import os
import pickle

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from kwslib import checkpoints, cost, models, quantization, streaming
from kwslib.architecture import Architecture
from kwslib.checkpoints import CheckpointError

SMALL = Architecture(channels=2, hidden=4)
LOADERS = (checkpoints.read, models.load, quantization.load, streaming.Stream.load, cost.of_checkpoint)


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def good(tmp_path):
    path = tmp_path / "good.safetensors"
    models.save(path, models.build(SMALL))
    return path


def assert_refused(path, loaders=LOADERS):
    for load in loaders:
        with pytest.raises(CheckpointError) as caught:
            load(path)
        assert str(caught.value).count(path.name) == 1 and str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_arrays_and_metadata_come_back_as_written(tmp_path):
    arrays = {
        "scalar": np.array(1.5, np.float32),
        "none": np.zeros((0, 3), np.float32),
        "int8": np.array([[-128, 127]], np.int8),
        "across": np.arange(6.0).reshape(2, 3).T,  # not contiguous
    }
    checkpoints.write(tmp_path / "deep" / "a.safetensors", arrays, {"note": "zwölf"})
    found, metadata = checkpoints.read(tmp_path / "deep" / "a.safetensors")
    assert metadata["note"] == "zwölf"
    assert found.keys() == arrays.keys()
    for name, value in arrays.items():
        assert found[name].dtype == value.dtype
        assert found[name].shape == value.shape
        np.testing.assert_array_equal(found[name], value)


def test_a_missing_file_is_refused(tmp_path):
    assert_refused(tmp_path / "nothing.safetensors")
    assert_refused(tmp_path)


@pytest.mark.parametrize("kept", [0, 4, 8, 100, -1])
def test_a_truncated_file_is_refused(good, kept):
    good.write_bytes(good.read_bytes()[:kept])
    assert_refused(good)


@pytest.mark.parametrize("content", [b"\0" * 64, b"\xff" * 64, b"RIFF" + b"x" * 60, b"text\nof two lines\n"])
def test_a_foreign_file_is_refused(good, content):
    good.write_bytes(content)
    assert_refused(good)


def test_a_damaged_header_is_refused(good):
    content = bytearray(good.read_bytes())
    content[8:40] = b"\n" * 32
    good.write_bytes(bytes(content))
    assert_refused(good)


def test_pickles_are_refused_and_never_run(tmp_path):
    harmed = tmp_path / "harmed"
    plain, saved = tmp_path / "plain.safetensors", tmp_path / "saved.safetensors"
    plain.write_bytes(pickle.dumps(Bomb(harmed)))
    torch.save({"weight": Bomb(harmed)}, saved)
    assert_refused(plain)
    assert_refused(saved)
    assert not harmed.exists()
    pickle.loads(plain.read_bytes())
    assert harmed.exists()  # the control: it would have


def test_another_program_s_safetensors_is_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"weight": np.zeros(3, np.float32)}, path)
    assert_refused(path)
    save_file({"weight": np.zeros(3, np.float32)}, path, metadata={"format": "pt"})
    assert_refused(path)


@pytest.mark.parametrize("description", [None, "", "{}", "[1]", '{"channels": 2}'])
def test_a_file_without_an_architecture_is_refused(good, description):
    arrays, _ = checkpoints.read(good)
    metadata = {} if description is None else {"architecture": description}
    checkpoints.write(good, arrays, metadata)
    assert_refused(good, LOADERS[1:])


@pytest.mark.parametrize("sizes", [{"hidden": 5}, {"layers": 1}, {"layers": 3}, {"hidden": 4096}])
def test_weights_of_another_architecture_are_refused(good, sizes):
    arrays, _ = checkpoints.read(good)
    checkpoints.write(good, arrays, {"architecture": SMALL.with_sizes(**sizes).to_json()})
    assert_refused(good, LOADERS[1:])


@pytest.mark.parametrize("name", ["classifier.bias", "gru.weight_hh_l1", "convolution.weight"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused(good, name, value):
    arrays, metadata = checkpoints.read(good)
    arrays[name].flat[0] = value
    checkpoints.write(good, arrays, metadata)
    assert_refused(good, (models.load, streaming.Stream.load))


@pytest.mark.parametrize(
    "front_end",
    [
        {"hop_samples": 0},
        {"hop_samples": 160.0},
        {"mels": "40"},
        {"mels": 40.0},
        {"mels": 10**9},
        {"sample_rate_hz": 16000.5},
        {"clip_samples": 10**9},
        {"window_samples": 10**9},
        {"clip_samples": 100_000, "hop_samples": 1},
    ],
)
def test_an_impossible_front_end_is_refused(good, front_end):
    arrays, metadata = checkpoints.read(good)
    described = json.loads(metadata["architecture"])
    described["front_end"] |= front_end
    checkpoints.write(good, arrays, {"architecture": json.dumps(described)})
    assert_refused(good, LOADERS[1:])


def test_an_int8_file_must_hold_its_scales(tmp_path):
    path = tmp_path / "q.safetensors"
    quantization.save(path, quantization.quantize_dynamic(models.build(SMALL)))
    arrays, metadata = checkpoints.read(path)
    for scales in (
        None,
        arrays["scales"][:-1],
        arrays["scales"] * 0,
        arrays["scales"] * np.nan,
        arrays["scales"] * 1e300,
    ):
        broken = {k: v for k, v in arrays.items() if k != "scales"}
        broken |= {} if scales is None else {"scales": scales}
        checkpoints.write(path, broken, metadata)
        assert_refused(path, (quantization.load, streaming.Stream.load))


@pytest.mark.parametrize(
    "changes", [{"int8": "ternary"}, {"int8": "static"}, {"int8": "static", "ranges": "1 0 1"}]
)
def test_a_wrong_int8_description_is_refused(tmp_path, changes):
    path = tmp_path / "q.safetensors"
    quantization.save(path, quantization.quantize_dynamic(models.build(SMALL)))
    arrays, metadata = checkpoints.read(path)
    checkpoints.write(path, arrays, metadata | changes)
    assert_refused(path, (quantization.load,))


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(good, monkeypatch, failing):
    def full(*_):
        raise OSError("no space left")

    before = good.read_bytes()
    monkeypatch.setattr(os, failing, full)
    with pytest.raises(OSError, match="no space"):
        models.save(good, models.build(SMALL, 1))
    assert good.read_bytes() == before
    assert [path.name for path in good.parent.iterdir()] == [good.name]


def test_float_weights_are_int8_times_scale():
    arrays = {
        "a.weight": np.array([[-127, 0], [64, 127]], np.int8),
        "b.weight": np.ones((2, 1, 1, 1), np.int8),  # a convolution: a scale a channel
        "bias": np.array([1.0], np.float32),
        "scales": np.array([0.5, 2.0, 3.0]),
    }
    weights = checkpoints.float_weights(arrays)
    assert weights.keys() == {"a.weight", "b.weight", "bias"}
    assert {value.dtype for value in weights.values()} == {np.dtype(np.float32)}
    assert weights["a.weight"].tolist() == [[-63.5, 0], [32, 63.5]]
    assert weights["b.weight"].ravel().tolist() == [2, 3]
