import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwslib.architecture import ARCHITECTURES, Architecture, FrontEnd

PARAMETERS = {"baseline": 70443, "student1": 18071, "student2": 6679, "student3": 3133}
MACS_OF_128 = {"baseline": 119527424, "student1": 35613696, "student2": 19321856, "student3": 9431040}
SIZE_RATES = {"student1": 3.898124066183388, "student2": 10.546938164395868, "student3": 22.484200446856047}
SPEED_RATES = {"student1": 3.3562207078984443, "student2": 6.186125390852721, "student3": 12.673832790445168}


def parameters(setting):
    return sum(ARCHITECTURES[setting].parameters().values())


def macs(setting):
    return sum(ARCHITECTURES[setting].macs().values())


@pytest.mark.parametrize("setting", PARAMETERS)
def test_parameters_and_macs_are_the_study_s(setting):
    assert parameters(setting) == PARAMETERS[setting]
    assert 128 * macs(setting) == MACS_OF_128[setting]


@pytest.mark.parametrize("setting", SIZE_RATES)
def test_rates_are_the_study_s(setting):
    assert parameters("baseline") / parameters(setting) == SIZE_RATES[setting]
    assert macs("baseline") / macs(setting) == SPEED_RATES[setting]


def test_student3_by_hand():
    """2 channels of 18 mels are 36 inputs; 12 hidden units; 11 steps; a kernel of 5 x 20 and a bias."""
    student = ARCHITECTURES["student3"]
    assert student.parameters() == {
        "convolution": 2 * 101,
        "gru": 3 * (36 * 12 + 12 * 12 + 24) + 3 * (12 * 12 + 12 * 12 + 24),
        "attention": 12 * 12 + 12 + 12 + 1,
        "classifier": 2 * 12 + 2,
    }
    assert student.macs() == {
        "convolution": 2 * 18 * 11 * 101,
        "gru": 11 * (3 * (48 * 12 + 36) + 48) + 11 * (3 * (24 * 12 + 36) + 48),
        "attention": 11 * (12 * 12 + 12),
        "classifier": 2 * 12,
    }


def test_a_clip_is_101_frames_18_rows_11_steps_of_80_ms():
    baseline = ARCHITECTURES["baseline"]
    assert (baseline.front_end.frames, baseline.front_end.bins) == (101, 201)
    assert (baseline.conv_mels, baseline.steps, baseline.gru_inputs) == (18, 11, 144)
    assert baseline.step_s == 0.08


def test_front_end_macs_by_hand():
    # a frame: window 400, FFT 400 log2 400 = 3457.5, power and filters 402 each
    assert FrontEnd().macs() == 101 * round(400 + 3457.542475 + 402 + 402)


@given(
    st.builds(
        Architecture,
        channels=st.integers(1, 4096),
        hidden=st.integers(1, 4096),
        layers=st.integers(1, 9),
        kernel=st.tuples(st.integers(1, 40), st.integers(1, 101)),
        stride=st.tuples(st.integers(1, 50), st.integers(1, 120)),
        dropout=st.floats(0, 0.99),
        front_end=st.builds(FrontEnd, mels=st.integers(40, 80), floor=st.floats(1e-12, 1e-3)),
    )
)
def test_json_round_trip_is_exact(architecture):
    assert Architecture.from_json(architecture.to_json()) == architecture


def described(**changes):
    return json.dumps(json.loads(ARCHITECTURES["student3"].to_json()) | changes)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not json",
        "5",
        "null",
        "[]",
        "{}",
        described(colour="red"),
        described(kernel=5),
        described(kernel=[5]),
        described(front_end={"colour": "red"}),
        described(front_end=None),
        described(channels="2"),
        described(channels=0),
        described(dropout="high"),
    ],
)
def test_other_text_is_no_architecture(text):
    with pytest.raises(ValueError) as caught:
        Architecture.from_json(text)
    assert "\n" not in str(caught.value)


def test_a_missing_field_is_an_error():
    values = json.loads(ARCHITECTURES["student3"].to_json())
    for name in ("channels", "hidden", "kernel", "stride", "front_end"):
        with pytest.raises(ValueError, match=name):
            Architecture.from_json(json.dumps({k: v for k, v in values.items() if k != name}))


@pytest.mark.parametrize(
    "sizes, named",
    [
        ({"channels": 0}, "channels is 0"),
        ({"channels": 2.0}, "channels is 2.0"),
        ({"hidden": -1}, "hidden is -1"),
        ({"hidden": 4097}, "hidden is 4097"),
        ({"layers": 0}, "layers is 0"),
        ({"kernel": (5,)}, "kernel"),
        ({"kernel": (0, 20)}, "kernel"),
        ({"stride": (2, 0)}, "stride"),
        ({"stride": (2, 8.0)}, "stride"),
        ({"kernel": (41, 20)}, "larger than a clip"),
        ({"kernel": (5, 102)}, "larger than a clip"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"dropout": float("nan")}, "dropout"),
    ],
)
def test_impossible_sizes_are_refused(sizes, named):
    with pytest.raises(ValueError, match=named):
        ARCHITECTURES["student3"].with_sizes(**sizes)
