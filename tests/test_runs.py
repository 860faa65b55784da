import json
import re
import subprocess
import sys

import numpy as np
import pytest

from kwslib import runs
from kwslib.runs import MissingStageError, ParameterError, Parameters, Run


@pytest.fixture(autouse=True)
def reports(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "REPORTS", tmp_path / "reports")
    return tmp_path / "reports"


@pytest.fixture
def run():
    return Run(Parameters(run="mine"))


@pytest.mark.parametrize(
    "values, allowed",
    [
        ({"corpus": 5}, "text"),
        ({"corpus": " "}, "text"),
        ({"keyword": None}, "text"),
        ({"keyword": ""}, "text"),
        ({"keyword": "../up"}, "a word"),
        ({"keyword": "a/b"}, "a word"),
        ({"profile": "fast"}, "smoke, quick, full"),
        ({"profile": None}, "smoke, quick, full"),
        ({"split": "words"}, "speaker, utterance"),
        ({"seed": "0"}, "from 0 to 2**31 - 1"),
        ({"seed": 1.0}, "from 0 to 2**31 - 1"),
        ({"seed": True}, "from 0 to 2**31 - 1"),
        ({"seed": -1}, "from 0 to 2**31 - 1"),
        ({"seed": 2**31}, "from 0 to 2**31 - 1"),
        ({"run": 7}, "None, a name, or the path"),
        ({"run": ""}, "None, a name, or the path"),
    ],
)
def test_a_wrong_parameter_names_what_is_allowed(values, allowed):
    ((name, value),) = values.items()
    with pytest.raises(ParameterError) as caught:
        Parameters(**values)
    message = str(caught.value)
    assert f"{name} is {value!r}" in message
    assert allowed in message
    assert "\n" not in message


def test_the_folder_is_named_after_the_parameters(reports, tmp_path):
    assert Parameters().folder == reports / "embedded-sheila-quick-speaker-0"
    there = Parameters("/some/where/words", "happy", "full", "utterance", 3)
    assert there.folder == reports / "words-happy-full-utterance-3"
    assert Parameters(run="mine").folder == reports / "mine"
    assert Parameters(run=f"{tmp_path}/else").folder == tmp_path / "else"
    with pytest.raises(ParameterError):
        _ = Parameters(run="..").folder


def test_caveats_are_stated_where_due():
    assert Parameters().caveats() == []
    assert "mean nothing" in " ".join(Parameters(profile="smoke").caveats())
    assert "Speakers shared" in " ".join(Parameters(split="utterance").caveats())


def test_a_run_says_what_it_was_made_with(run):
    found = json.loads((run.folder / "run.json").read_text())
    assert found["parameters"] == {
        "corpus": "embedded", "keyword": "sheila", "profile": "quick", "split": "speaker", "seed": 0,
    }  # fmt: skip
    assert re.match(r"\d+\.\d+", found["versions"]["torch"])
    assert found["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))


def test_the_commit_has_a_plus_where_the_code_is_not_its_own(tmp_path):
    """A report that a run wrote is no change of the code: its second notebook states the commit of its first."""
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    (tmp_path / "kwslib").mkdir()
    (tmp_path / "kwslib" / "a.py").write_text("1\n")
    for command in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "a"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    clean = runs.commit(tmp_path)
    assert re.fullmatch("[0-9a-f]{12}", clean)
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "page.html").write_text("made by a run")
    assert runs.commit(tmp_path) == clean
    (tmp_path / "kwslib" / "a.py").write_text("2\n")
    assert runs.commit(tmp_path) == clean + "+"


def test_where_a_corpus_lies_is_not_written(tmp_path):
    folder = Run(Parameters(corpus=str(tmp_path / "secret" / "words"))).folder
    written = (folder / "run.json").read_text()
    assert '"corpus": "words"' in written
    assert "secret" not in written


def test_a_run_is_opened_again(run):
    run.write(corpus_digest="abc")
    again = Run(Parameters(run="mine"))
    assert again.read()["corpus_digest"] == "abc"
    assert again.read()["parameters"] == run.parameters.named()


@pytest.mark.parametrize(
    "other", [{"keyword": "cat"}, {"seed": 1}, {"profile": "smoke"}, {"split": "utterance"}]
)
def test_the_folder_of_another_run_is_refused(run, other):
    before = (run.folder / "run.json").read_text()
    with pytest.raises(ParameterError) as caught:
        Run(Parameters(run="mine", **other))
    ((name, value),) = other.items()
    assert f"{name} {getattr(run.parameters, name)!r}, not {value!r}" in str(caught.value)
    assert (run.folder / "run.json").read_text() == before


def test_a_damaged_run_json_is_named(run):
    (run.folder / "run.json").write_text('{"parameters": ')
    with pytest.raises(ParameterError, match="damaged") as caught:
        Run(Parameters(run="mine"))
    assert "\n" not in str(caught.value)


def test_a_run_is_held_by_one_process(run):
    other = Run(Parameters(run="mine"))
    with run.locked(), pytest.raises(ParameterError, match="another report"), other.locked():
        pass
    with other.locked():  # and let go again
        pass


def test_a_lock_holds_against_another_process(run):
    attempt = (
        "import sys; from kwslib.runs import *\nwith Run(Parameters(run=sys.argv[1])).locked(): print('held')"
    )
    command = [sys.executable, "-c", attempt, str(run.folder)]
    with run.locked():
        refused = subprocess.run(command, capture_output=True, text=True)
    assert "another report" in refused.stderr
    assert subprocess.run(command, capture_output=True, text=True).stdout == "held\n"


def test_json_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.json"
    runs.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        runs.write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["a.json"]


def test_what_is_not_there_says_how_to_make_it(run):
    for missing in (run.history, run.scores, run.metrics):
        with pytest.raises(MissingStageError) as caught:
            missing("student1")
        message = str(caught.value)
        assert "student1" in message and "kws report" in message
        assert "\n" not in message
    with pytest.raises(MissingStageError, match="checkpoints of baseline"):
        run.needed("checkpoints", "baseline", "safetensors")


def test_history_comes_back_exactly(run):
    rows = [{"epoch": 1, "loss": 0.1 + 0.2}, {"epoch": 2, "loss": 1e-300}]
    run.write_history("baseline", rows)
    assert run.history("baseline").to_dict("records") == rows


def test_scores_come_back_exactly(run):
    ids, labels = np.array(["cat/a_nohash_0", "sheila/b_nohash_1"]), np.array([0, 1])
    run.write_scores("baseline", ids, labels, np.array([1e-9, 1 / 3]))
    found = run.scores("baseline")
    assert found["ids"].tolist() == ids.tolist()
    assert found["labels"].tolist() == [0, 1]
    assert found["probabilities"].tolist() == [1e-9, 1 / 3]


def test_measured_settings_come_in_the_order_of_the_story(run):
    for setting in ("zebra", "student1", "baseline", "apple"):
        run.write_metrics(setting, {"setting": setting})
    assert run.measured() == ["baseline", "student1", "apple", "zebra"]
    assert run.metrics("apple") == {"setting": "apple"}


def test_a_faultless_baseline_has_no_ratio_in_the_table(run):
    quality = {"au_fa_fr": 0.25, "one_minus_auc": 0.5, "interval": {"one_minus_auc": [0.4, 0.6]}}
    cost = {"parameter_bytes": 4, "file_bytes": 5, "macs_per_clip": 6}
    versus = {"au_fa_fr": None, "interval": {"au_fa_fr": None}, "parameter_bytes": 2.0, "file_bytes": 3.0, "macs": 4.0}  # fmt: skip
    run.write_metrics("student1", {"quality": quality, "cost": cost, "versus_baseline": versus})
    row = run.table(["student1"]).loc["student1"]
    assert np.isnan(row[["errors", "errors_low", "errors_high"]].astype(float)).all()
    assert row[["au_fa_fr", "low", "high", "size", "file", "speed"]].tolist() == [0.25, 0.4, 0.6, 2, 3, 4]
