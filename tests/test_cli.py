"""`kws`: what it prints, and its exit codes: 0 done, 1 the work failed, 2 wrong usage in one line."""

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

from kwslib import checkpoints, cli, models, runs
from kwslib.architecture import ARCHITECTURES, FrontEnd

RELEASED = (
    Path(__file__).parent.parent / "reports/speech-commands-happy/checkpoints/student3-stream.safetensors"
)


def kws(*arguments, **more) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "kwslib.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, timeout=300, **more)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("with a space") / "student3.safetensors"
    models.save(path, models.build(ARCHITECTURES["student3"], seed=1))
    return path


@pytest.fixture
def noise():
    samples = np.random.default_rng(0).normal(0, 3000, 40000)
    return samples.round().clip(-32768, 32767).astype(np.int16)


@pytest.mark.parametrize(
    "verb, example",
    [
        ((), "kws report"),
        (("report",), "kws report --corpus ~/speech_commands --keyword happy --profile full"),
        (("stream",), "arecord -q -f S16_LE -r 16000 -t raw | kws stream CHECKPOINT -"),
    ],
)
def test_help_gives_an_example(verb, example):
    shown = " ".join(kws(*verb, "--help").stdout.decode().split())
    assert f"Example: {example}" in shown or f"Start with: {example}" in shown


@pytest.mark.parametrize(
    "verb, said",
    [
        ("corpus", ["CORPUS: embedded", "speech_commands_v0.02", "WORD/SPEAKER_nohash_N.wav"]),
        ("evaluate", ["CHECKPOINT: a .safetensors file", "CORPUS: embedded"]),
        ("cost", ["CHECKPOINT: a .safetensors file"]),
        ("stream", ["CHECKPOINT: a .safetensors file", "SOURCE: an audio file", "- for raw 16 kHz mono PCM16 on standard input", "mic for the microphone (needs sounddevice"]),
    ],
)  # fmt: skip
def test_help_says_what_arguments_are(verb, said):
    shown = " ".join(kws(verb, "--help").stdout.decode().split())
    assert [part for part in said if part not in shown] == []


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["report", "--profile", "fast"], "smoke, quick, full"),
        (["report", "--split", "words"], "speaker, utterance"),
        (["report", "--only", "nine"], "01_baseline"),
        (["report", "--corpus", "/nowhere/at all"], "embedded"),
        (["corpus", "/nowhere"], "embedded"),
        (["cost", "/nowhere.safetensors"], "no checkpoint"),
        (["stream", "/nowhere.safetensors"], "no checkpoint"),
        (["evaluate", "/nowhere.safetensors", "embedded"], "no checkpoint"),
        (["evaluate", RELEASED, "embedded", "--split", "words"], "speaker, utterance, all"),
        (["stream", RELEASED, "--refractory", "nan"], "nan; it must be a number of seconds from 0"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(arguments, said, tmp_path):
    environment = {**os.environ, "KWS_REPORTS": str(tmp_path), "KWS_DATA": str(tmp_path / "data")}
    failed = kws(*arguments, env=environment)
    message = failed.stderr.decode()
    assert failed.returncode == 2
    assert said in message and message.count("\n") == 1 and "Traceback" not in message
    assert not list(tmp_path.iterdir()), "something was left behind"


def test_cost_adds_up(checkpoint):
    found = json.loads(kws("cost", checkpoint, "--json").stdout)
    assert sum(row["bytes"] for row in found["parts"]) == found["parameter_bytes"]
    assert sum(row["macs"] for row in found["parts"] if row["part"] != "front end") == found["macs_per_clip"]
    assert found["file_bytes"] == checkpoint.stat().st_size


def test_evaluate_takes_keyword_and_split_from_the_checkpoint_s_run(
    checkpoint, corpus, tiny_corpus, tmp_path
):
    folder = tmp_path / "run"
    parameters = runs.Parameters(str(tiny_corpus), "cat", split="utterance", seed=3, run=str(folder))
    run = runs.Run(parameters)
    path = run.checkpoint("student3")
    run.write(corpus_digest=corpus.digest)
    checkpoints.write(path, *checkpoints.read(checkpoint))
    environment = {**os.environ, "KWS_DATA": str(tmp_path / "data")}
    own = kws("evaluate", path, tiny_corpus, "--json", env=environment)
    found = json.loads(own.stdout)
    assert (found["keyword"], found["split"], found["seed"]) == ("cat", "utterance", 3) and not own.stderr
    other = kws("evaluate", path, tiny_corpus, "--split", "speaker", "--json", env=environment)
    assert json.loads(other.stdout)["part"] == "test"
    assert b"was trained by split utterance, seed 3: some of these clips trained it" in other.stderr
    run.write(corpus_digest="another's")
    elsewhere = kws("evaluate", path, tiny_corpus, "--json", env=environment)
    found = json.loads(elsewhere.stdout)
    assert (found["keyword"], found["split"]) == ("cat", "speaker") and not elsewhere.stderr


def test_corpus_says_what_was_rejected(tiny_corpus, tmp_path):
    environment = {**os.environ, "KWS_DATA": str(tmp_path)}
    counted = json.loads(kws("corpus", tiny_corpus, "--json", env=environment).stdout)
    assert counted["clips"] == sum(counted["words"].values())
    assert counted["rejected"] == []


def test_stream_hears_the_same_from_file_and_standard_input(checkpoint, noise, tmp_path):
    path = tmp_path / "noise.wav"
    soundfile.write(path, noise, 16000)
    from_file = kws("stream", checkpoint, path, "--threshold", 0, "--json")
    from_input = kws("stream", checkpoint, "-", "--threshold", 0, "--json", input=noise.tobytes())
    assert from_file.returncode == from_input.returncode == 0
    detections = [json.loads(line) for line in from_file.stdout.splitlines()]
    assert len(detections) == 1, "one rise over the threshold is one detection"
    assert set(detections[0]) == {"time_s", "probability"}
    assert from_file.stdout == from_input.stdout


def test_stream_survives_an_odd_byte_and_an_empty_input(checkpoint, noise):
    odd = kws("stream", checkpoint, "-", "--threshold", 0, "--json", input=noise.tobytes() + b"x")
    assert odd.returncode == 0 and odd.stdout.count(b"\n") == 1
    silent = kws("stream", checkpoint, "-", "--json", input=b"")
    assert silent.returncode == 0 and silent.stdout == b""


@pytest.mark.parametrize("mode, samples", [("window", 12800), ("carried", 1600), ("window", 0)])
def test_a_recording_too_short_to_be_scored_is_said_to_be(checkpoint, noise, mode, samples):
    heard = kws("stream", checkpoint, "-", "--mode", mode, "--threshold", 0, "--json", input=noise[:samples].tobytes())  # fmt: skip
    assert heard.returncode == 0 and heard.stdout == b""
    said = f"{samples / 16000:.2f} s of audio, shorter than a second: nothing was scored\n"
    assert heard.stderr.decode() == said


@pytest.mark.parametrize("mode, samples", [("window", 16000), ("carried", 12800)])
def test_what_was_scored_is_not_said_to_be_too_short(checkpoint, noise, mode, samples):
    heard = kws("stream", checkpoint, "-", "--mode", mode, "--threshold", 0, "--json", input=noise[:samples].tobytes())  # fmt: skip
    assert heard.returncode == 0 and heard.stdout.count(b"\n") == 1 and heard.stderr == b""


def test_a_threshold_that_nobody_chose_is_said(checkpoint, noise, tmp_path):
    chosen = {"threshold": 0.9, "smoothing": 1, "release": 0.5, "refractory_s": 1.0}
    kept, metadata = tmp_path / "kept.safetensors", checkpoints.read(checkpoint)
    checkpoints.write(kept, metadata[0], metadata[1] | {"detectors": json.dumps({"carried": chosen})})

    def said(path, *options) -> str:
        return kws("stream", path, "-", "--json", *options, input=noise.tobytes()).stderr.decode()

    line = "{} holds no detector for window; threshold 0.5, choose yours with --threshold\n"
    assert said(checkpoint) == line.format(checkpoint)
    assert said(checkpoint, "--threshold", 0.5) == ""
    assert said(kept) == ""
    assert said(kept, "--mode", "window") == line.format(kept)


def test_listening_does_not_import_torch(checkpoint, noise):
    program = (
        "import sys; from kwslib import cli; sys.argv = ['kws', 'stream', sys.argv[1]]\n"
        "try: cli.main()\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules"
    )
    command = [sys.executable, "-c", program, str(checkpoint)]
    heard = subprocess.run(command, input=noise.tobytes(), capture_output=True, timeout=60)
    assert heard.returncode == 0, heard.stderr.decode()


def test_stream_resamples_and_mixes_and_says_so(checkpoint, noise, tmp_path):
    there = np.repeat(np.asarray(noise, np.float32)[:, None] / 32768, 2, axis=1)
    soundfile.write(tmp_path / "stereo.wav", there, 32000)
    heard = kws("stream", checkpoint, tmp_path / "stereo.wav", "--threshold", 0, "--json")
    assert heard.returncode == 0 and heard.stdout.count(b"\n") == 1
    assert b"2 channels, mixed to one" in heard.stderr and b"32,000 Hz, resampled" in heard.stderr


def test_stream_without_standard_error_still_prints(checkpoint, noise, tmp_path):
    soundfile.write(tmp_path / "noise.wav", noise, 16000)
    command = f'"{sys.executable}" -m kwslib.cli stream "$0" "$1" --threshold 0 2>&-'
    heard = subprocess.run(
        ["sh", "-c", command, str(checkpoint), str(tmp_path / "noise.wav")], capture_output=True, timeout=60
    )
    assert heard.returncode == 0 and heard.stdout.count(b"\n") == 1


def test_an_interrupted_stream_says_that_it_is_not_whole(checkpoint):
    """What was heard counts, the exit code is not 0."""
    command = [sys.executable, "-m", "kwslib.cli", "stream", str(checkpoint), "-", "--threshold", "0"]
    hears_it = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it
    with subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1, preexec_fn=hears_it) as process:
        process.stdin.write(bytes(64000))
        process.stdin.flush()
        assert b"probability" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert b"1 detections in" in process.stderr.read()


def test_a_network_for_another_rate_is_refused(tmp_path, noise):
    size = ARCHITECTURES["student3"].with_sizes(front_end=FrontEnd(sample_rate_hz=8000))
    models.save(tmp_path / "8k.safetensors", models.build(size))
    refused = kws("stream", tmp_path / "8k.safetensors", "-", input=noise.tobytes())
    assert refused.returncode == 2 and b"audio of 8,000 Hz" in refused.stderr


def test_the_meter_shows_probability_and_threshold(capsys):
    meter = cli._Meter(0.75)
    meter(12.3, 0.25)
    line = capsys.readouterr().err
    assert "12.3 s" in line and line.count("#") == 10 and line.index("|") - line.index("[") - 1 == 30
    meter.clear()
    assert capsys.readouterr().err.strip() == ""
