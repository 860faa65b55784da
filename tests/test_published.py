import json
from pathlib import Path

import pytest

from kwslib import published
from kwslib.architecture import ARCHITECTURES

NUMBERS = Path(__file__).parents[2] / "shared" / "reference" / "numbers.json"


@pytest.fixture
def numbers():
    if not NUMBERS.is_file():
        pytest.skip("the study's numbers.json lies beside the working checkout only, not in a clone")
    return json.loads(NUMBERS.read_text())


def test_published_costs_are_those_of_the_architectures():
    study = published.study()
    for setting, architecture in ARCHITECTURES.items():
        row = study.loc[setting]
        assert row["parameters"] == sum(architecture.parameters().values())
        assert row["parameter_bytes"] == 4 * row["parameters"]
        assert row["macs_per_clip"] == sum(architecture.macs().values())


def test_published_rates_are_as_printed():
    study = published.study()
    students = ["student1", "student2", "student3"]
    assert study.loc[students, "size"].tolist() == [3.898124066183388, 10.546938164395868, 22.484200446856047]
    assert study.loc[students, "speed"].tolist() == [
        3.3562207078984443,
        6.186125390852721,
        12.673832790445168,
    ]
    # file sizes were printed in MB and are bytes again here, rounded: one byte of 16,000 is 6e-5
    assert study.loc["student3-int8-dynamic", "file"] == pytest.approx(17.90901207804274, rel=1e-4)
    assert study.loc["baseline", ["size", "file", "speed"]].tolist() == [1, 1, 1]


def test_the_bar_is_one_minus_auc_of_two_in_a_thousand():
    # 1,734 clips of 64,721: P N / (P + N)^2 = 0.0267919 * 0.9732081
    assert published.study_share_factor() == pytest.approx(0.0260741, abs=1e-6)
    bar = published.bar()
    assert (bar["au_fa_fr"], bar["rate"]) == (5.5e-5, 10)
    assert bar["one_minus_auc"] == pytest.approx(2.11e-3, abs=1e-5)


def test_peers_have_rates_and_a_comparable_quality():
    peers = published.peers()
    assert (peers[["size", "speed"]] > 1).all(axis=None)
    assert peers.loc["the study", "one_minus_auc"] == pytest.approx(5.23e-5 / 0.0260741, rel=1e-4)


@pytest.mark.parametrize("setting", ARCHITECTURES)
def test_float_settings_are_copied_exactly(numbers, setting):
    printed, ours = numbers["settings"][setting], published.study().loc[setting]
    for column in ("au_fa_fr", "parameters", "parameter_bytes"):
        assert ours[column] == printed[column]
    assert ours["file_bytes"] == printed["file_mb"] * 2**20
    assert ours["macs_per_clip"] * numbers["batch_size"] == printed["macs"]
    assert ours["macs_per_clip"] == numbers["macs_per_clip"][setting]
    for ours_, theirs in (("size", "size_rate"), ("speed", "speed_rate"), ("file", "file_rate")):
        if theirs in printed:
            assert ours[ours_] == pytest.approx(printed[theirs], rel=1e-12)  # a quotient, recomputed


def test_int8_settings_are_copied_exactly(numbers):
    study, printed = published.study(), numbers["settings"]
    baseline, student = printed["baseline-int8-dynamic"], printed["student3-int8-dynamic"]
    assert study.loc["baseline-int8-dynamic", "au_fa_fr"] == baseline["au_fa_fr"]
    assert study.loc["student3-int8-dynamic", "au_fa_fr"] == student["au_fa_fr"]
    misread = study["misread_parameter_bytes"].dropna() / 2**20
    assert misread.to_dict() == {
        "baseline-int8-dynamic": baseline["parameter_mb_as_misread"],
        "student3-int8-dynamic": student["parameter_mb_as_misread"],
    }
    seen = study.loc["baseline-int8-dynamic", "misread_macs_per_clip"]
    assert seen * numbers["batch_size"] == baseline["macs_as_misread"]
    assert study.loc["baseline-int8-dynamic", "file"] == pytest.approx(baseline["file_rate"], rel=1e-12)
    assert study.loc["student3-int8-dynamic", "file"] == pytest.approx(student["file_rate"], rel=1e-6)


def test_the_bar_is_copied_exactly(numbers):
    bar = published.bar()
    assert bar["au_fa_fr"] == numbers["bar"]["au_fa_fr"]
    assert bar["rate"] == numbers["bar"]["compression"] == numbers["bar"]["speed_up"]
