import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwslib.architecture import ARCHITECTURES, SETTINGS, Architecture, Setting, setting_named

# The study printed MACs of a batch of 128.
STUDY = {
    "baseline": (70443, 119527424),
    "student1": (18071, 35613696),
    "student2": (6679, 19321856),
    "student3": (3133, 9431040),
}


def test_parameters_and_macs_are_the_study_s():
    for name, counts in STUDY.items():
        parameters, macs = ARCHITECTURES[name].parameters(), ARCHITECTURES[name].macs()
        assert (sum(parameters.values()), 128 * sum(macs.values())) == counts


def test_student3_by_hand():
    """2 channels of 18 mels are 36 inputs; 12 hidden; 11 steps; a kernel of 5 x 20 and a bias."""
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


def test_the_front_end_costs_more_than_student3():
    # a frame: window 400, FFT 400 log2 400 = 3457.5, power and filters 402 each
    student, front_end = ARCHITECTURES["student3"], ARCHITECTURES["student3"].front_end
    assert (front_end.frames, len(front_end.filters())) == (101, 201)
    assert front_end.macs() == 101 * round(400 + 3457.542475 + 402 + 402) == 470862
    assert sum(student.macs().values()) < 470862 < student.path_macs == 544542


@given(
    st.builds(
        Architecture,
        channels=st.integers(1, 4096),
        hidden=st.integers(1, 4096),
        layers=st.integers(1, 9),
        kernel=st.tuples(st.integers(1, 40), st.integers(1, 101)),
        stride=st.tuples(st.integers(1, 50), st.integers(1, 120)),
    )
)
def test_json_round_trip_is_exact(architecture):
    assert Architecture.from_json(architecture.to_json()) == architecture


def described(without=None, **changes):
    values = json.loads(ARCHITECTURES["student3"].to_json()) | changes
    return json.dumps({name: value for name, value in values.items() if name != without})


OTHER_TEXT = ["", "not json", "5", "null", "[]", "{}", "[" * 9999, described(colour="red")]
OTHER_TEXT += [described(kernel=[5]), described(channels="2"), described(front_end={"mels": 40})]
OTHER_TEXT += [described(without=name) for name in ("channels", "layers", "kernel", "front_end")]


@pytest.mark.parametrize("text", OTHER_TEXT)
def test_other_text_is_no_architecture(text):
    with pytest.raises(ValueError, match=r"^not the description of an architecture: .+$"):
        Architecture.from_json(text)


WRONG = {
    "channels": (0, 2.0, True, 1 << 15),
    "kernel": ((5,), (5, 20, 1), (41, 20), (5, 102)),
    "stride": ((2, 8.0), (0, 8)),
    "dropout": (float("nan"), 1.0),
}


@pytest.mark.parametrize("name", WRONG)
def test_impossible_values_are_refused(name):
    for value in WRONG[name]:
        with pytest.raises(ValueError, match="no network has"):
            replace(ARCHITECTURES["student3"], **{name: value})


def test_the_chain_has_fifteen_settings_in_order():
    names = list(map(str, SETTINGS))
    assert len(set(names)) == 15 and names[0] == "baseline"
    assert names[5:7] == ["student3", "student3-labels"]
    assert names[-3:] == ["baseline-stream", "student3-stream", "student3-stream-int8-static"]
    assert [setting_named(name) for name in names] == list(SETTINGS)
    assert [setting.is_stream for setting in SETTINGS] == [False] * 12 + [True] * 3
    assert sum(setting.is_control for setting in SETTINGS) == 3
    assert all((s.float == s) == (s.int8 is None) == ("int8" not in str(s)) for s in SETTINGS)


def test_a_setting_knows_what_it_is_made_from():
    assert setting_named("student3-int8-dynamic").float == Setting("student3")
    stream = Setting("student3", "stream-int8-static")
    assert (stream.float, stream.int8) == (Setting("student3", "stream"), "static")
    assert Setting("student2", "labels").architecture == ARCHITECTURES["student2"]


@pytest.mark.parametrize("name", ["student9", "student3-int4"])
def test_other_settings_are_refused_with_what_there_is(name):
    with pytest.raises(ValueError, match=rf"{name}.*student1-labels"):
        setting_named(name)
