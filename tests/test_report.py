"""Which stages run, and when they run again."""

import json

import pytest

from kwslib import report, runs


@pytest.fixture
def run(tmp_path):
    return runs.Run(runs.Parameters(run=str(tmp_path / "run")))


def test_stages_go_by_name_or_number_in_order():
    assert report.stages_named(None) == list(report.STAGES)
    assert report.stages_named(["7", "01_baseline", "03"]) == [
        "01_baseline",
        "03_distillation_1",
        "07_summary",
    ]


def test_an_unknown_stage_is_refused_with_the_known_ones():
    with pytest.raises(runs.ParameterError, match="01_baseline"):
        report.stages_named(["08"])


def test_a_stage_depends_on_what_its_imports_import():
    found = report._imported("from kwslib import experiments")
    assert {"experiments", "training", "features", "architecture", "metrics"} <= found
    assert "cli" not in found and "report" not in found


def test_digest_follows_parameters_code_corpus_and_earlier_stages(run, tmp_path, monkeypatch):
    def digest(**values):
        return report.stage_digest(
            runs.Run(runs.Parameters(run=str(tmp_path / "run"), **values)), "07_summary"
        )

    first = digest()
    assert digest() == first
    report._record(run, "06_quantization", {"state": "done", "inputs": "other"})
    after_stage = digest()
    assert after_stage != first
    run.write(corpus_digest="another")
    after_corpus = digest()
    assert after_corpus != after_stage
    of_streams = report.stage_digest(run, "02_streaming")
    run.write(speech_digest="recordings")
    assert digest() == after_corpus and report.stage_digest(run, "02_streaming") != of_streams
    copies = tmp_path / "notebooks"
    copies.mkdir()
    for path in report.NOTEBOOKS.glob("*.ipynb"):
        (copies / path.name).write_text(path.read_text())
    monkeypatch.setattr(report, "NOTEBOOKS", copies)
    assert digest() == after_corpus
    notebook = json.loads((copies / "07_summary.ipynb").read_text())
    notebook["cells"][-2]["source"] = "1 + 1"
    (copies / "07_summary.ipynb").write_text(json.dumps(notebook))
    assert digest() != after_corpus


def test_a_stage_left_running_is_not_taken_for_done(run):
    digest = report.stage_digest(run, "02_streaming")
    (run.folder / "02_streaming.html").write_text("")
    report._record(run, "02_streaming", {"state": "done", "inputs": digest})
    assert report._is_done(run, "02_streaming", digest)
    report._record(run, "02_streaming", {"state": "running"})
    assert not report._is_done(run, "02_streaming", digest)


def test_force_forgets_the_training_of_its_stage_alone(run):
    folder = run.folder / "resume"
    folder.mkdir()
    for name in ("baseline", "student1", "student1-labels", "student2"):
        (folder / f"{name}.safetensors").write_bytes(b"")
    report._forget(run, "03_distillation_1")
    assert sorted(p.stem for p in folder.iterdir()) == ["baseline", "student2"]


def test_index_of_a_run_without_results_can_be_read(run):
    page = report.write_index(run).read_text()
    assert "No setting measured yet" in page and "sheila" in page


def test_a_page_without_audio_keeps_all_else():
    sound = '<audio controls preload="none" src="data:audio/flac;base64,AAAA"></audio>'
    page = f'<p>before</p>{sound}<img src="data:image/png;base64,BBBB">{sound}<p>after</p>'
    bare = report.without_audio(page)
    assert "data:audio" not in bare and "<audio" not in bare
    assert bare.count("recording left out") == 2
    assert bare.startswith("<p>before</p>") and 'png;base64,BBBB">' in bare and bare.endswith("<p>after</p>")


def test_force_forgets_the_stage_s_own_training_alone(run):
    for name in ("baseline", "baseline-stream", "student3", "student3-labels", "student3-stream"):
        for path in (run.resume(name), run.made_of(name)):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")

    def left():
        return [{path.stem for path in (run.folder / of).iterdir()} for of in ("resume", "history")]

    report._forget(run, "02_streaming")
    assert left() == [{"baseline", "student3", "student3-labels"}] * 2
    report._forget(run, "05_distillation_3")
    assert left() == [{"baseline"}] * 2
