import json
import os
import pickle
import struct
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save_file

from kwslib import cost, files, models, quantization, streaming
from kwslib.architecture import Architecture
from kwslib.files import FileError

INF = np.float32(np.inf)
SMALL = Architecture(channels=2, hidden=4)
LOADERS = (quantization.load, streaming.Stream.load, cost.of_checkpoint, models.load)


@pytest.fixture
def good(tmp_path):
    models.save(tmp_path / "good.safetensors", models.build(SMALL, 0))
    return tmp_path / "good.safetensors"


@pytest.fixture
def static(tmp_path):
    model = quantization.quantize_static(models.build(SMALL, 0), torch.randn(4, 40, 101))
    quantization.save(tmp_path / "static.safetensors", model)
    return tmp_path / "static.safetensors"


def assert_refused(path):
    for loader in LOADERS:
        with pytest.raises(FileError) as caught:
            loader(path)
        assert str(caught.value).count(str(path)) == 1 and "\n" not in str(caught.value)


def assert_rewrites_are_refused(path, *changes):
    """The checkpoint with each change: to arrays, or where the values are text, to metadata."""
    arrays, metadata = files.read_checkpoint(path)
    for change in changes:
        texts = {name: value for name, value in change.items() if isinstance(value, str)}
        files.write_checkpoint(path, arrays | (change if not texts else {}), metadata | texts)
        assert_refused(path)


def test_json_comes_back_and_what_is_not_finite_is_null(tmp_path):
    values = {"größe": [1, np.float64(0.5), np.int64(3)], "none": {"a": float("nan"), "b": np.inf}}
    files.write_json(tmp_path / "deep" / "a.json", values)
    found = files.read_json(tmp_path / "deep" / "a.json", "make it anew")
    assert found == {"größe": [1, 0.5, 3], "none": {"a": None, "b": None}}


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"[1]", b"null", b"\xff\xfe", b"[" * 9999])
def test_damaged_json_is_one_line_with_file_and_remedy(tmp_path, content):
    path = tmp_path / "metrics.json"
    path.write_bytes(content)
    for problem in (r"cannot be read .*", "is not there"):
        with pytest.raises(FileError, match=rf"^.*metrics\.json {problem}; kws report --only 1$"):
            files.read_json(path, "kws report --only 1")
        path.unlink(missing_ok=True)


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failed_write_names_the_file_and_leaves_the_old_one(tmp_path, monkeypatch, failing):
    def full(*_):
        raise OSError(28, "No space left on device")

    files.write_json(tmp_path / "a.json", {"old": 1})
    monkeypatch.setattr(os, failing, full)
    with pytest.raises(OSError, match=r"No space left.*a\.json"):
        files.write_json(tmp_path / "a.json", {"new": 1})
    assert files.read_json(tmp_path / "a.json", "") == {"old": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_what_a_killed_write_left_is_swept_and_nothing_else(tmp_path):
    code = """import os, sys; from pathlib import Path; from kwslib import files
os.replace = Path.replace = lambda *_: os.kill(os.getpid(), 9)
files.write_atomic(Path(sys.argv[1]), b"content")"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "deep" / "a.json")])
    (tmp_path / "notes.unfinished").touch()
    (tmp_path / ".hidden").touch()
    assert len(list((tmp_path / "deep").iterdir())) == 1
    files.sweep(tmp_path)
    assert list((tmp_path / "deep").iterdir()) == []
    assert len(list(tmp_path.iterdir())) == 3


def test_a_checkpoint_comes_back_as_written(static):
    """Its bytes too. Fault 38: the order in which arrays and metadata are given does not count."""
    content, (arrays, metadata) = static.read_bytes(), files.read_checkpoint(static)
    theirs = load(content)  # the safetensors library's own reader
    assert theirs.keys() == arrays.keys()
    for name, value in arrays.items():
        np.testing.assert_array_equal(theirs[name], value, strict=True)  # type and shape too
    turned = [dict(reversed(values.items())) for values in (arrays, metadata)]
    turned[0]["gru.weight_hh_l0"] = np.asfortranarray(arrays["gru.weight_hh_l0"])
    files.write_checkpoint(static, *turned)
    assert static.read_bytes() == content


def test_metadata_can_be_added_and_a_detector_is_checked(good):
    (before, old), added = files.read_checkpoint(good), '{"threshold": 0.25, "smoothing": 3}'
    files.set_metadata(good, detector=added, note="zwölf")
    after, metadata = files.read_checkpoint(good)
    assert metadata == old | {"detector": added, "note": "zwölf"}
    assert all(np.array_equal(before[name], after[name]) for name in before)
    wrong = ["", "null", "[]", "{}", "5", '{"threshold": 0.5}', '{"threshold": 2, "smoothing": 3}']
    wrong += ['{"threshold": 0.5, "smoothing": 3.5}']
    assert_rewrites_are_refused(good, *({"detector": text} for text in wrong))


FOREIGN = [b"\0" * 64, b"RIFF" + b"x" * 60, b"text\nof two lines\n"]


@pytest.mark.parametrize("content", [0, 4, 8, 100, -1, *FOREIGN])
def test_missing_cut_off_and_foreign_files_are_refused(good, content):
    assert_refused(good.parent / "nothing.safetensors")
    assert_refused(good.parent)
    good.write_bytes(good.read_bytes()[:content] if isinstance(content, int) else content)
    assert_refused(good)
    save_file({"weight": np.zeros(3, np.float32)}, good, metadata={"format": "pt"})
    assert_refused(good)


def test_pickles_are_refused_and_never_run(tmp_path):
    harmed, path = tmp_path / "harmed", tmp_path / "plain.safetensors"
    path.write_bytes(b"cos\nmkdir\n(V" + str(harmed).encode() + b"\ntR.")  # makes a folder
    assert_refused(path)
    assert not harmed.exists()
    pickle.loads(path.read_bytes())
    assert harmed.exists()  # the control: it would have


def test_huge_files_are_refused_before_they_are_read(good):
    """Fault 25: one sparse array more of 4 GB took 11 GB of memory."""
    content, size = good.read_bytes(), 4 << 30
    (length,) = struct.unpack("<Q", content[:8])
    header, end = json.loads(content[8 : 8 + length]), len(content) - 8 - length
    header["huge"] = {"dtype": "F32", "shape": [size // 4], "data_offsets": [end, end + size]}
    text = json.dumps(header).encode()
    with open(good, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + content[8 + length :])
        file.truncate(8 + len(text) + end + size)
    assert_refused(good)


def test_arrays_must_be_those_of_the_description(good):
    arrays, metadata = files.read_checkpoint(good)
    bias = arrays["classifier.bias"]
    wrong = [{"classifier.bias": bias[:1]}, {"more": bias}, {"classifier.bias": bias * INF}]
    description = json.loads(metadata["architecture"])
    sizes = ({"hidden": 5}, {"layers": 1}, {"layers": 3}, {"hidden": 4096})
    described = [description | size for size in sizes] + [{}]
    # fault 27: front ends that no stream can use; others than ours
    front_ends = ({"floor": float("inf")}, {"floor": 1e300}, {"mels": 41}, {"hop_samples": 0})
    described += [description | {"front_end": description["front_end"] | f} for f in front_ends]
    wrong += [{"architecture": json.dumps(values)} for values in described]
    assert_rewrites_are_refused(good, *wrong)
    for dtype in (np.float16, np.int64, np.float64, np.int8):  # fault 27: a table of wrong bytes
        save_file({name: value.astype(dtype) for name, value in arrays.items()}, good, metadata)
        assert_refused(good)


def test_an_int8_file_must_hold_usable_scales_and_ranges_and_say_its_kind(static):
    """Fault 30: `kws cost` printed a table, `kws evaluate` a traceback or 0.5."""
    files.set_metadata(static, ranges="0.1 100 0.2 50")
    quantization.load(static)  # the control
    ranges = ["", "text", "nan 0 1 0", "-1 0 1 0", "1 0 1", "1 0.5 1 0", "1 0 1 256", "inf 0 1 0"]
    scales = files.read_checkpoint(static)[0]["scales"]
    values = (scales[:-1], scales[:0], scales * 0, -scales, scales * np.nan, scales * 1e300)
    wrong = [{"scales": value} for value in values]
    wrong += [{"int8": kind} for kind in ("ternary", "dynamic", "")]
    wrong += [{"ranges": text} for text in ranges]
    assert_rewrites_are_refused(static, *wrong)


def test_float_weights_are_int8_times_scale():
    arrays = {
        "a.weight": np.array([[-127, 0], [64, 127]], np.int8),
        "b.weight": np.ones((2, 1, 1, 1), np.int8),  # a convolution: a scale a channel
        "bias": np.array([1.0], np.float32),
        "scales": np.array([0.5, 2.0, 3.0]),
    }
    weights = files.float_weights(arrays)
    assert weights.keys() == {"a.weight", "b.weight", "bias"}
    assert {value.dtype for value in weights.values()} == {np.dtype(np.float32)}
    assert weights["a.weight"].tolist() == [[-63.5, 0], [32, 63.5]]
    assert weights["b.weight"].ravel().tolist() == [2, 3]
