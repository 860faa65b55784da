import pytest
import torch

from kwslib import cost, files, models, quantization
from kwslib.architecture import ARCHITECTURES

# Student 3's int8 weights: GRU 36 x 36, 36 x 12 thrice; attention 12 x 12, 12; classifier 2 x 12.
INT8 = 36 * 36 + 3 * 36 * 12 + 12 * 12 + 12 + 2 * 12
BIASES = 4 * (4 * 36 + 12 + 1 + 2)
STORED = {
    # convolution 2 x 5 x 20 and its 2 biases float; 7 scales of 8 bytes
    "dynamic": INT8 + BIASES + 4 * (200 + 2) + 8 * 7,
    # convolution int8, 2 biases float; a scale for each of the 2 channels too
    "static": 200 + INT8 + BIASES + 4 * 2 + 8 * (7 + 2),
}


@pytest.fixture(scope="module")
def student3(tmp_path_factory):
    """Paths of checkpoints of student 3, float and int8."""
    folder = tmp_path_factory.mktemp("checkpoints")
    paths = {kind: folder / f"{kind}.safetensors" for kind in ("float", "dynamic", "static")}
    model = models.build(ARCHITECTURES["student3"], 0).eval()
    models.save(paths["float"], model)
    quantization.save(paths["dynamic"], quantization.quantize_dynamic(model))
    static = quantization.quantize_static(model, torch.randn(4, 40, 101))
    quantization.save(paths["static"], static)
    return paths


@pytest.mark.parametrize("kind", ["float", "dynamic", "static"])
def test_costs_are_those_of_the_file_and_its_parts(student3, kind):
    found, rows = cost.of_checkpoint(student3[kind]), cost.by_part(student3[kind])
    arrays, _ = files.read_checkpoint(student3[kind])
    assert found["parameter_bytes"] == sum(value.nbytes for value in arrays.values())
    assert found["parameter_bytes"] == STORED.get(kind, 4 * 3133)
    assert found["file_bytes"] == student3[kind].stat().st_size > found["parameter_bytes"]
    assert found["parameters"] == 3133 and found["network_macs"] == 73680
    assert found["path_macs"] == found["network_macs"] + found["front_end_macs"] == 544542
    parts = ["convolution", "gru", "attention", "classifier", "front end"]
    assert [row["part"] for row in rows] == parts
    assert sum(row["parameters"] for row in rows) == found["parameters"]
    assert sum(row["bytes"] for row in rows) == found["parameter_bytes"]
    assert sum(row["macs"] for row in rows) == found["path_macs"]


def test_bytes_of_parts_by_hand(student3):
    found = {kind: [row["bytes"] for row in cost.by_part(student3[kind])] for kind in STORED}
    assert found["dynamic"][0] == 4 * 202 and found["static"][0] == 200 + 4 * 2 + 8 * 2
    assert found["dynamic"][3] == found["static"][3] == 24 + 4 * 2 + 8  # classifier, one scale
