"""`kws`: what it prints; exit codes 0 done, 1 the work failed, 2 wrong usage in one line, 130."""

import gzip
import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile

from kwslib import cli, data, files, models
from kwslib.architecture import ARCHITECTURES


def kws(*arguments, environment=None, **more) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "kwslib.cli", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | (environment or {})
    return subprocess.run(command, capture_output=True, timeout=300, env=environment, **more)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("with a space") / "student3.safetensors"
    models.save(path, models.build(ARCHITECTURES["student3"], seed=1))
    return path


@pytest.fixture(scope="module")
def noise():
    samples = np.random.default_rng(0).normal(0, 3000, 40000)
    return samples.round().clip(-32768, 32767).astype(np.int16)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A corpus of noise: two words by twenty speakers, and a folder for indexes."""
    root, generator = tmp_path_factory.mktemp("cli"), np.random.default_rng(0)
    for word in ("cat", "happy"):
        (root / "words" / word).mkdir(parents=True)
        for number in range(20):
            clip = generator.normal(0, 0.1, 16000)
            path = root / "words" / word / f"{number:08x}_nohash_0.wav"
            soundfile.write(path, clip, 16000, subtype="PCM_16")
    return root / "words", {"KWS_DATA": str(root / "data")}


@pytest.mark.parametrize(
    "verb, parts",
    [
        ((), ["Start with: kws report", "KWS_DATA", "KWS_REPORTS"]),
        (("report",), ["Example: kws report --corpus", "--talk", "--workers", "--scheduler"]),
        (("corpus",), ["CORPUS: embedded", "WORD/SPEAKER_nohash_N.wav", "--clips"]),
        (("evaluate",), ["CHECKPOINT: a .safetensors", "never heard", "--split all"]),
        (("cost",), ["CHECKPOINT: a .safetensors file"]),
        (("stream",), ["| kws stream CHECKPOINT -", "SOURCE: an audio file", "--device"]),
    ],
)
def test_help_says_what_to_type(verb, parts):
    shown = " ".join(kws(*verb, "--help").stdout.decode().split())
    assert [part for part in parts if part not in shown] == []


@pytest.mark.parametrize(
    "arguments, part",
    [
        (["report", "--profile", "fast"], "smoke, quick, full"),
        (["report", "--split", "words"], "speaker, folds, utterance"),
        (["report", "--only", "nine"], "01_baseline"),
        (["report", "--corpus", "/nowhere/at all"], "embedded"),
        (["report", "--workers", "0"], "--workers"),
        (["corpus", "/nowhere"], "embedded"),
        (["corpus", "/nowhere", "--clips", "/none.txt"], "/none.txt"),
        (["cost", "/nowhere.safetensors"], "no checkpoint"),
        (["stream", "/nowhere.safetensors"], "no checkpoint"),
        (["evaluate", "/nowhere.safetensors", "embedded"], "no checkpoint"),
        (["evaluate", "/nowhere.safetensors", "embedded", "--split", "words"], "utterance, all"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(arguments, part, tmp_path):
    places = {"KWS_REPORTS": str(tmp_path), "KWS_DATA": str(tmp_path / "data")}
    failed = kws(*arguments, environment=places)
    message = failed.stderr.decode()
    assert failed.returncode == 2
    assert part in message and message.count("\n") == 1 and "Traceback" not in message
    assert not list(tmp_path.iterdir()), "something was left behind"


def test_places_that_cannot_be_written_are_named_by_their_variable(small, tmp_path):
    (tmp_path / "file").write_text("")
    refused = kws("corpus", small[0], environment={"KWS_DATA": str(tmp_path / "file")})
    assert refused.returncode in (1, 2) and b"KWS_DATA" in refused.stderr
    places = small[1] | {"KWS_REPORTS": str(tmp_path / "file")}
    refused = kws("report", "--corpus", small[0], "--keyword", "happy", environment=places)
    assert refused.returncode in (1, 2) and b"KWS_REPORTS" in refused.stderr
    assert b"Traceback" not in refused.stderr


def test_a_corpus_is_checked_against_a_list(small, tmp_path):
    folder, places = small
    counted = json.loads(kws("corpus", folder, "--json", environment=places).stdout)
    assert counted["words"] == {"cat": 20, "happy": 20} and counted["rejected"] == []
    names = [f"{word}/{number:08x}_nohash_0" for word in ("cat", "happy") for number in range(20)]
    whole, short = tmp_path / "clips.txt.gz", tmp_path / "clips.txt"
    whole.write_bytes(gzip.compress("\n".join(names).encode()))
    done = kws("corpus", folder, "--clips", whole, environment=places)
    assert done.returncode == 0 and "missing: 0\n" in done.stdout.decode()
    short.write_text("\n".join([*names[1:], "dog/ff_nohash_3.wav"]), encoding="utf-8-sig")
    lacks = kws("corpus", folder, "--clips", short, environment=places)
    assert lacks.returncode == 1 and b"missing: 1\n  dog/ff_nohash_3\n" in lacks.stdout
    assert b"not listed: 1\n" in lacks.stdout
    whole.write_bytes(whole.read_bytes()[:40])
    damaged = kws("corpus", folder, "--clips", whole, environment=places)
    assert damaged.returncode == 2 and b"clips.txt.gz cannot be read" in damaged.stderr


def test_a_checkpoint_is_judged_on_clips_that_it_never_heard(small, tmp_path, monkeypatch, capsys):
    folder, places = small
    monkeypatch.setattr(data, "ROOT", Path(places["KWS_DATA"]))
    trained = {"keyword": "happy", "split": "folds", "seed": 3, "fold": 2}
    trained["corpus"] = data.load(folder, progress=False).digest
    path, network = tmp_path / "own.safetensors", models.build(ARCHITECTURES["student3"], 1)
    models.save(path, network, inputs=json.dumps(trained))
    cli.evaluate(path, str(folder), as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found.items() >= {"keyword": "happy", "split": "folds", "seed": 3, "fold": 2}.items()
    assert found["clips"] == 2 * sum(data.fold_of(f"{n:08x}") == 2 for n in range(20))
    cli.evaluate(path, str(folder), split="all")
    shown = capsys.readouterr()
    assert "40 clips (all), 20 of happy" in shown.out
    assert "was trained by split folds, seed 3, fold 2: some of these clips" in shown.err
    models.save(path, network, inputs='{"fold": "x"}')
    cli.evaluate(path, str(folder), keyword="cat", as_json=True)
    assert json.loads(capsys.readouterr().out)["clips"] == 40


def test_cost_adds_up(checkpoint):
    found = json.loads(kws("cost", checkpoint, "--json").stdout)
    assert sum(row["bytes"] for row in found["parts"]) == found["parameter_bytes"]
    assert sum(row["macs"] for row in found["parts"]) == found["path_macs"]
    assert found["file_bytes"] == checkpoint.stat().st_size
    assert f"with front end {found['path_macs']:,}" in kws("cost", checkpoint).stdout.decode()


def test_stream_hears_the_same_from_file_and_standard_input(checkpoint, noise, tmp_path):
    path = tmp_path / "noise.wav"
    soundfile.write(path, noise, 16000)
    from_file = kws("stream", checkpoint, path, "--threshold", 0, "--json")
    odd = noise.tobytes() + b"x"
    from_input = kws("stream", checkpoint, "-", "--threshold", 0, "--json", input=odd)
    assert from_file.returncode == from_input.returncode == 0
    found = [json.loads(line) for line in from_file.stdout.splitlines()]
    assert len(found) == 1, "one rise over the threshold is one detection"
    assert set(found[0]) == {"time_s", "probability"} and from_file.stdout == from_input.stdout


@pytest.mark.parametrize("samples", [12800, 0])
def test_a_recording_too_short_to_be_scored_is_said_to_be(checkpoint, noise, samples):
    given = noise[:samples].tobytes()
    heard = kws("stream", checkpoint, "-", "--threshold", 0, "--json", input=given)
    assert heard.returncode == 0 and heard.stdout == b""
    line = f"{samples / 16000:.2f} s of audio, shorter than a second: nothing was scored\n"
    assert heard.stderr.decode() == line


def test_a_recording_that_breaks_off_is_not_exit_code_0(checkpoint, noise, tmp_path):
    path = tmp_path / "cut.wav"
    soundfile.write(path, noise, 16000)
    path.write_bytes(path.read_bytes()[:60000])
    heard = kws("stream", checkpoint, path, "--threshold", 0)
    assert heard.returncode == 1 and b"cut.wav" in heard.stderr
    assert heard.stdout.count(b"probability") == 1, "what was heard until then counts"


def test_a_threshold_that_nobody_chose_is_said(checkpoint, noise, tmp_path):
    def said(path, *options) -> str:
        return kws("stream", path, "-", "--json", *options, input=noise.tobytes()).stderr.decode()

    assert "holds no detector; the threshold is 0.5, --threshold sets another\n" in said(checkpoint)
    assert said(checkpoint, "--threshold", 0.5) == ""
    kept, (arrays, metadata) = tmp_path / "kept.safetensors", files.read_checkpoint(checkpoint)
    detector = json.dumps({"threshold": 0.9, "smoothing": 1})
    files.write_checkpoint(kept, arrays, metadata | {"detector": detector})
    assert said(kept) == ""


def test_listening_does_not_import_torch(checkpoint, noise):
    program = (
        "import sys; from kwslib import cli; sys.argv = ['kws', 'stream', sys.argv[1]]\n"
        "try: cli.main()\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    )
    command = [sys.executable, "-c", program, str(checkpoint)]
    heard = subprocess.run(command, input=noise.tobytes(), capture_output=True, timeout=300)
    assert heard.returncode == 0, heard.stderr.decode()


def test_stream_prints_without_standard_error(checkpoint, noise, tmp_path):
    soundfile.write(tmp_path / "noise.wav", noise, 16000)
    line = f'"{sys.executable}" -m kwslib.cli stream "$0" "$1" --threshold 0 2>&-'
    command = ["sh", "-c", line, str(checkpoint), str(tmp_path / "noise.wav")]
    heard = subprocess.run(command, capture_output=True, timeout=300)
    assert heard.returncode == 0 and heard.stdout.count(b"\n") == 1


def interrupted(command, until: bytes) -> tuple[int, str]:
    """Exit code and standard error of a command that gets Ctrl-C after a line with `until`."""
    hears_it = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # background jobs ignore it
    with subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1, preexec_fn=hears_it) as process:
        process.stdin.write(bytes(64000))
        process.stdin.flush()
        while until not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        return process.wait(300), process.stderr.read().decode()


def test_an_interrupted_stream_says_that_it_is_not_whole(checkpoint):
    command = [sys.executable, "-m", "kwslib.cli", "stream", checkpoint, "-", "--threshold", "0"]
    code, message = interrupted(command, b"probability")
    assert code == 130 and "1 detection in" in message and "kws: interrupted\n" in message


def test_an_interrupted_report_says_how_it_goes_on():
    program = (
        "import sys, time; from kwslib import cli, report; sys.argv = ['kws', 'report']\n"
        "report.run_chain = lambda *_: (print('runs', flush=True), time.sleep(600))\ncli.main()"
    )
    code, message = interrupted([sys.executable, "-c", program], b"runs")
    assert code == 130
    assert message == "kws: interrupted; the same command goes on where this stopped\n"


def test_the_meter_shows_probability_and_threshold(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    meter = cli.Meter(0.75)
    meter(12.3, 0.25)
    line = capsys.readouterr().err
    assert "12.3 s" in line and "0.25, threshold 0.75" in line
    meter.say("a line")
    assert capsys.readouterr().err.endswith("a line\n")
