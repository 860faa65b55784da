import pytest
import torch

from kwslib import checkpoints, cost, models, quantization
from kwslib.architecture import ARCHITECTURES

SIZE_RATES = {"student1": 3.898124066183388, "student2": 10.546938164395868, "student3": 22.484200446856047}
SPEED_RATES = {"student1": 3.3562207078984443, "student2": 6.186125390852721, "student3": 12.673832790445168}

# Student 3's int8 weights: GRU 36 x 36, 36 x 12 thrice; attention 12 x 12, 12; classifier 2 x 12.
GRU, ATTENTION, CLASSIFIER = 36 * 36 + 3 * 36 * 12, 12 * 12 + 12, 2 * 12
BIASES = 4 * 36 + 12 + 1 + 2
STORED = {
    # convolution 2 x 5 x 20 and its 2 biases float; 7 scales of 8 bytes
    "dynamic": GRU + ATTENTION + CLASSIFIER + 4 * BIASES + 4 * (200 + 2) + 8 * 7,
    # convolution int8, 2 biases float; a scale for each of the 2 channels too
    "static": 200 + GRU + ATTENTION + CLASSIFIER + 4 * BIASES + 4 * 2 + 8 * (7 + 2),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Path of a setting's checkpoint, with random weights."""
    folder = tmp_path_factory.mktemp("checkpoints")

    def path(setting):
        found = folder / f"{setting}.safetensors"
        name, _, mode = setting.partition("-int8-")
        model = models.build(ARCHITECTURES[name]).eval()
        if not mode:
            models.save(found, model)
        elif mode == "static":
            quantization.save(found, quantization.quantize_static(model, torch.randn(4, 40, 101)))
        else:
            quantization.save(found, quantization.quantize_dynamic(model))
        return found

    return path


@pytest.mark.parametrize("setting", ARCHITECTURES)
def test_predicted_bytes_are_those_of_the_file_s_tensors(checkpoint, setting):
    path = checkpoint(setting)
    found, (arrays, _) = cost.of_checkpoint(path), checkpoints.read(path)
    assert found["parameter_bytes"] == 4 * sum(ARCHITECTURES[setting].parameters().values())
    assert found["parameter_bytes"] == sum(value.nbytes for value in arrays.values())
    assert found["file_bytes"] == path.stat().st_size > found["parameter_bytes"]


@pytest.mark.parametrize("mode", STORED)
def test_int8_bytes_of_student3_by_hand(checkpoint, mode):
    path = checkpoint(f"student3-int8-{mode}")
    assert cost.of_checkpoint(path)["parameter_bytes"] == STORED[mode]
    bytes_of = {row["part"]: row["bytes"] for row in cost.by_part(path)}
    assert bytes_of["classifier"] == 24 + 4 * 2 + 8
    assert bytes_of["convolution"] == {"dynamic": 4 * 202, "static": 200 + 4 * 2 + 8 * 2}[mode]


@pytest.mark.parametrize("setting", ["baseline", "student3-int8-dynamic", "student3-int8-static"])
def test_parts_sum_to_the_whole(checkpoint, setting):
    path = checkpoint(setting)
    total, rows = cost.of_checkpoint(path), cost.by_part(path)
    assert [row["part"] for row in rows] == ["convolution", "gru", "attention", "classifier", "front end"]
    assert sum(row["parameters"] for row in rows) == total["parameters"]
    assert sum(row["bytes"] for row in rows) == total["parameter_bytes"]
    assert sum(row["macs"] for row in rows) == total["macs_per_clip"] + total["macs_front_end"]


@pytest.mark.parametrize("setting", SIZE_RATES)
def test_rates_are_the_study_s(checkpoint, setting):
    rates = cost.rates(*(cost.of_checkpoint(checkpoint(name)) for name in (setting, "baseline")))
    assert rates["size"] == SIZE_RATES[setting]
    assert rates["speed"] == SPEED_RATES[setting]
    assert rates["file"] > 3


def test_rates_against_itself_are_one(checkpoint):
    found = cost.of_checkpoint(checkpoint("student3"))
    assert cost.rates(found, found) == {"size": 1, "file": 1, "speed": 1}


def test_int8_changes_neither_parameters_nor_macs(checkpoint):
    floats, ints = (cost.of_checkpoint(checkpoint(f"student3{kind}")) for kind in ("", "-int8-static"))
    for name in ("parameters", "macs_per_clip", "macs_ptflops", "macs_front_end"):
        assert floats[name] == ints[name]


@pytest.mark.parametrize("setting, seen", [("baseline", 3232), ("student3", 808)])
def test_the_misreading_measure_sees_the_float_convolution_alone(setting, seen):
    model = models.build(ARCHITECTURES[setting])
    convolution = 4 * ARCHITECTURES[setting].parameters()["convolution"]
    assert cost.seen_parameter_bytes(quantization.quantize_dynamic(model)) == seen == convolution
    assert cost.seen_parameter_bytes(model) == 4 * sum(ARCHITECTURES[setting].parameters().values())


def test_torch_save_holds_the_parameters_and_something_more():
    model = models.build(ARCHITECTURES["student3"])
    assert 12532 < cost.torch_save_bytes(model) < 12532 + 20000
    quantized = quantization.quantize_dynamic(models.build(ARCHITECTURES["baseline"]))
    assert (
        cost.torch_save_bytes(quantized) < cost.torch_save_bytes(models.build(ARCHITECTURES["baseline"])) / 3
    )


@pytest.mark.parametrize("setting", ARCHITECTURES)
def test_ptflops_agrees_within_one_percent(setting):
    # it counts tanh and other bias terms; the large parts are the same
    ours = sum(ARCHITECTURES[setting].macs().values())
    assert cost.ptflops_macs(ARCHITECTURES[setting]) == pytest.approx(ours, rel=0.01)
