import json
from pathlib import Path

import pytest

from kwslib import published
from kwslib.architecture import ARCHITECTURES

NUMBERS = Path(__file__).parents[2] / "shared" / "reference" / "numbers.json"


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_published_costs_are_those_of_the_architectures(name):
    row = published.study().loc[name]
    assert row["parameters"] == sum(ARCHITECTURES[name].parameters().values())
    assert row["parameter_bytes"] == 4 * row["parameters"]
    assert row["network_macs"] == sum(ARCHITECTURES[name].macs().values())


def test_ratios_are_as_printed():
    study = published.study()
    assert study.loc["student3", "fewer_network"] == 12.673832790445168
    assert study.loc["student3-int8-dynamic", "smaller"] == pytest.approx(17.909, abs=1e-3)
    assert study.loc["baseline", ["smaller", "fewer_network"]].tolist() == [1, 1]
    peers = published.peers()
    assert (peers[["smaller", "fewer_network"]] > 1).all(axis=None)
    assert peers.loc["the study", "one_minus_auc"] == pytest.approx(5.23e-5 / 0.0260741, rel=1e-4)


def test_the_bar_is_one_minus_auc_of_two_in_a_thousand():
    # 1,734 clips of 64,721: P N / (P + N)^2 = 0.0267919 * 0.9732081
    bar = published.bar()
    assert (bar["au_fa_fr"], bar["smaller"], bar["fewer_network"]) == (5.5e-5, 10, 10)
    assert bar["one_minus_auc"] == pytest.approx(5.5e-5 / 0.0260741, rel=1e-4)


@pytest.mark.skipif(not NUMBERS.is_file(), reason="numbers.json lies beside the working checkout")
def test_figures_are_copied_exactly():
    numbers, study = json.loads(NUMBERS.read_text(encoding="utf-8")), published.study()
    for name in study.index:
        ours, printed = study.loc[name].dropna(), numbers["settings"][name]
        for column in ("au_fa_fr", "parameters", "parameter_bytes"):
            assert ours.get(column) == printed.get(column)
        # bytes, rounded, of what was printed in MB: one byte of 16,000 is 6e-5
        assert ours["smaller"] == pytest.approx(printed.get("file_rate", 1), rel=1e-4)
