"""Parameters, and the files of a run."""

import contextlib
import json
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from kwslib import runs
from kwslib.architecture import Setting
from kwslib.files import FileError, write_json
from kwslib.runs import ParameterError, Parameters, Run

BASELINE, CONTROL = Setting("baseline"), Setting("student3", "labels")
STUDENT = Setting("student3", "int8-static")


@pytest.fixture(autouse=True)
def reports(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "REPORTS", tmp_path / "reports")
    return tmp_path / "reports"


@pytest.fixture
def run():
    return Run(Parameters(run="mine"))


def write_results(run):
    """Metrics and scores as an experiment writes them, of three settings, each smaller."""
    scores = {"ids": ["cat/a_nohash_0", "sheila/b_nohash_1"], "labels": [0, 1], "folds": [0, 0]}
    quality = {"missed": [0.05, 0.02, 0.1], "one_minus_auc": [0.01, None, None]}
    quality |= {"clips": 2, "positives": 1, "speakers": 2, "au_fa_fr": 1e-4}
    for setting, file_bytes in ((BASELINE, 100_000), (CONTROL, 10_000), (STUDENT, 5_000)):
        cost = {"file_bytes": file_bytes, "network_macs": 933_808, "path_macs": 1_404_670}
        versus = {"missed": [1.5, 0.5, None], "verdict": "cannot tell", "network_macs": 12.7}
        versus |= {"file_bytes": 100_000 / file_bytes, "path_macs": 2.6}
        values = {"setting": str(setting), "quality": quality, "cost": cost}
        values |= {"versus_baseline": versus}
        write_json(run.path("metrics", setting, "json"), values)
        run.write_scores(setting, **scores, probabilities=[1e-9, 1 / 3])


WRONG = {
    ("corpus", "text"): [5, " "],
    ("talk", "None or a folder"): [""],
    ("run", "None, a name, or the path"): [7, ".."],
    ("keyword", "a word"): [None, "", " ", "../up", "a\nb", ".a"],
    ("profile", "smoke, quick, full"): ["fast", []],
    ("split", "speaker, folds, utterance"): ["words"],
    ("seed", "from 0 to 2**31 - 1"): ["0", 1.0, True, -1],
}


@pytest.mark.parametrize("name, allowed", WRONG)
def test_a_wrong_parameter_names_what_is_allowed(name, allowed):
    for value in WRONG[name, allowed]:
        with pytest.raises(ParameterError) as caught:
            Parameters(**{name: value})
        assert f"{name} is {value!r}" in str(caught.value) and allowed in str(caught.value)


def test_a_keyword_is_composed_and_stripped():
    assert Parameters(keyword="gro\u0308ße ").keyword == "größe"
    assert Parameters(keyword="می\u200cخواهم").keyword == "می\u200cخواهم"


def test_a_run_is_named_after_its_parameters_and_no_place_is_written(reports, tmp_path):
    there = Parameters("/secret/words", "happy", "/secret/talk", "full", "folds", 3)
    assert there.folder == reports / "words-happy-full-folds-3" and there.folds == 5
    assert Parameters(run=f"{tmp_path}/else").folder == tmp_path / "else"
    written = (Run(there).folder / "run.json").read_text()
    found = json.loads(written)
    assert found["parameters"] == {"corpus": "words", "keyword": "happy", "talk": "talk",
                                   "profile": "full", "split": "folds", "seed": 3}  # fmt: skip
    assert "secret" not in written and found["versions"]["torch"] and found["threads"]


def test_caveats_are_stated_where_due():
    assert Parameters().caveats() == []
    both = " ".join(Parameters(profile="smoke", split="utterance").caveats())
    assert "mean nothing" in both and "Speakers shared" in both


def test_the_commit_has_a_plus_where_the_code_is_not_its_own(tmp_path):
    code = tmp_path / "kwslib" / "a.py"
    code.parent.mkdir()
    code.write_text("1\n")
    assert runs.provenance(tmp_path)["commit"] is None
    who = "-c user.name=a -c user.email=a@example.org -c commit.gpgsign=false"
    for command in ("init -q", "add .", f"{who} commit -qm a"):
        subprocess.run(["git", "-C", tmp_path, *command.split()], check=True)
    (tmp_path / "page.html").write_text("made by a run")
    clean = runs.provenance(tmp_path)["commit"]
    code.write_text("2\n")
    assert re.fullmatch("[0-9a-f]{12}", clean)
    assert runs.provenance(tmp_path)["commit"] == clean + "+"


def test_the_folder_of_another_run_is_refused(run):
    run.write(corpus_digest="abc")
    assert Run(Parameters(run="mine")).read()["corpus_digest"] == "abc"
    with pytest.raises(ParameterError, match=r"another run, .*'seed': 0"):
        Run(Parameters(run="mine", seed=1))
    (run.folder / "run.json").write_text('{"parameters": ')
    with pytest.raises(FileError, match="move it away"):
        Run(Parameters(run="mine"))


def test_of_two_new_runs_of_one_name_one_is_refused():
    def make(seed):
        with contextlib.suppress(ParameterError):
            return Run(Parameters(run="new", seed=seed))

    with ThreadPoolExecutor(4) as threads:
        (made,) = filter(None, threads.map(make, range(4)))
    assert made.read()["parameters"] == made.parameters.named()


def test_a_run_is_held_once_and_a_place_that_cannot_be_written_names_the_variable(run, reports):
    for _ in range(2):
        with run.locked(), pytest.raises(ParameterError, match="another report"), run.locked():
            pass
    (reports / "file").write_text("no folder")
    with pytest.raises(ParameterError, match="KWS_REPORTS"):
        Run(Parameters(run=f"{reports}/file"))


def test_results_come_back_exactly(run):
    rows = [{"epoch": 1, "loss": 0.1 + 0.2}, {"epoch": 2, "loss": 1e-300}]
    run.write_history(BASELINE, 0, rows)
    assert run.history(BASELINE).to_dict("records") == [{"fold": 0, **row} for row in rows]
    write_results(run)
    found = run.scores(STUDENT)
    assert found["ids"].tolist() == ["cat/a_nohash_0", "sheila/b_nohash_1"]
    assert found["probabilities"].tolist() == [1e-9, 1 / 3] and found["folds"].tolist() == [0, 0]
    assert run.measured() == [BASELINE, CONTROL, STUDENT]
    row = run.table(run.measured()).loc["student3-int8-static"]
    assert row[["missed", "missed_low", "smaller"]].tolist() == [0.05, 0.02, 20]
    assert np.isnan(row["missed_ratio_high"]) and row["fewer_path"] == 2.6


@pytest.mark.parametrize("content", ["", "null", "[]", "{}", '{"setting": "student1"}', None])
def test_missing_or_damaged_results_are_one_line_with_file_and_command(run, content):
    for kind, read in (("metrics", run.metrics), ("scores", run.scores), ("history", run.history)):
        with pytest.raises(FileError, match=rf"{kind}.baseline\.\w+ is missing: run `kws report`"):
            read(BASELINE)
    write_results(run)
    for kind, suffix, read in (("metrics", "json", run.metrics), ("scores", "npz", run.scores)):
        path = run.path(kind, BASELINE, suffix)
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2] if content is None else content.encode())
        with pytest.raises(FileError, match=f"{kind}.baseline.*: delete it and run `kws") as caught:
            read(BASELINE)
        assert "\n" not in str(caught.value)
