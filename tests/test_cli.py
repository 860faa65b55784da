"""`kws`: what it prints; exit codes 0 done, 1 the work failed, 2 wrong usage in one line, 130."""

import gzip
import json
import signal
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import soundfile

from kwslib import cli, data, files, models, runs
from kwslib.architecture import ARCHITECTURES


def kws(*arguments, **more) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "kwslib.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, timeout=300, **more)


@pytest.fixture
def main(monkeypatch, capsys, root, tmp_path):
    """main(*arguments): exit code, output and error of `kws` in this process, nothing made yet."""
    monkeypatch.setattr(runs, "REPORTS", tmp_path / "reports")

    def main(*arguments):
        monkeypatch.setattr(sys, "argv", ["kws", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, *capsys.readouterr()

    return main


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
    """A corpus of noise: two words by twenty speakers."""
    root, generator = tmp_path_factory.mktemp("cli"), np.random.default_rng(0)
    for word in ("cat", "happy"):
        (root / "words" / word).mkdir(parents=True)
        for number in range(20):
            clip = generator.normal(0, 0.1, 16000)
            path = root / "words" / word / f"{number:08x}_nohash_0.wav"
            soundfile.write(path, clip, 16000, subtype="PCM_16")
    return root / "words"


@pytest.mark.parametrize(
    "verb, parts",
    [
        ((), ["Start with: kws report", "KWS_DATA", "KWS_REPORTS", "Exit codes: 0 done"]),
        (("report",), ["Example: kws report --corpus", "--talk", "--workers", "--scheduler"]),
        (("corpus",), ["CORPUS: embedded", "WORD/SPEAKER_nohash_N.wav", "--clips"]),
        (("evaluate",), ["CHECKPOINT: a .safetensors", "never heard", "--json"]),
        (("cost",), ["CHECKPOINT, a .safetensors file", "--json"]),
        (
            ("stream",),
            ["arecord -q -f S16_LE", "| kws stream CHECKPOINT -", "ffmpeg -f avfoundation"],
        ),
    ],
)
def test_help_says_what_to_type(verb, parts, main):
    shown = " ".join(main(*verb, "--help")[1].split())
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
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(arguments, part, main, tmp_path):
    code, _, message = main(*arguments)
    assert code == 2 and part in message and message.count("\n") == 1
    assert not list(tmp_path.iterdir()), "something was left behind"


def test_a_data_folder_that_cannot_be_written_is_named_by_its_variable(small, root, main):
    root.write_text("a file")
    code, _, message = main("corpus", small)
    assert code == 2 and "KWS_DATA" in message


def test_a_corpus_is_checked_against_a_list(small, main, tmp_path):
    names = [f"{word}/{number:08x}_nohash_0" for word in ("cat", "happy") for number in range(20)]
    listed = tmp_path / "clips.txt.gz"
    listed.write_bytes(gzip.compress("\n".join(names).encode()))
    code, shown, _ = main("corpus", small, "--clips", listed)
    assert code == 0 and "missing: 0\n" in shown
    assert "words: cat 20, happy 20\n" in shown and "rejected: 0\n" in shown
    listed.write_bytes(gzip.compress("\n".join([*names[1:], "hot dog/ff_nohash_3\n"]).encode()))
    code, shown, _ = main("corpus", small, "--clips", listed)
    assert code == 1 and "missing: 1\n  hot dog/ff_nohash_3\n" in shown
    listed.write_bytes(listed.read_bytes()[:40])
    code, _, message = main("corpus", small, "--clips", listed)
    assert code == 2 and "clips.txt.gz cannot be read" in message


def test_a_checkpoint_is_judged_on_clips_that_it_never_heard(small, root, tmp_path, main):
    trained = {"keyword": "happy", "split": "folds", "seed": 3, "fold": 2}
    path, network = tmp_path / "own.safetensors", models.build(ARCHITECTURES["student3"], 1)
    models.save(path, network, inputs=json.dumps(trained))
    found = json.loads(main("evaluate", path, small, "--json")[1])
    assert found.items() >= trained.items()
    assert found["clips"] == 2 * sum(data.fold_of(f"{n:08x}") == 2 for n in range(20))
    lines = main("evaluate", path, small)[1].splitlines()
    assert f"{found['clips']} clips (split folds, fold 2), " in lines[0] and "of happy" in lines[0]
    assert lines[1].split()[:2] == ["missed", f"{found['missed'][0]:.2g}"]
    for inputs in ("", "[]", json.dumps(trained | {"fold": "x"}), '{"keyword": "happy"}'):
        models.save(path, network, inputs=inputs)
        code, _, message = main("evaluate", path, small)
        assert code == 2 and "own.safetensors does not record how it was trained" in message


def test_cost_adds_up(checkpoint, main):
    found = json.loads(main("cost", checkpoint, "--json")[1])
    assert sum(row["bytes"] for row in found["parts"]) == found["parameter_bytes"]
    assert sum(row["macs"] for row in found["parts"]) == found["path_macs"]
    assert found["file_bytes"] == checkpoint.stat().st_size
    shown = " ".join(main("cost", checkpoint)[1].split())
    assert f"path_macs {found['path_macs']:,} " in shown and "gru 2,736 10,944 31,944 " in shown


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


def test_a_recording_that_breaks_off_is_not_exit_code_0(checkpoint, noise, tmp_path, main):
    path = tmp_path / "cut.wav"
    soundfile.write(path, noise, 16000)
    path.write_bytes(path.read_bytes()[:60000])
    code, shown, message = main("stream", checkpoint, path, "--threshold", 0)
    assert code == 1 and "cut.wav" in message
    assert shown.count("probability") == 1, "what was heard until then counts"


def test_what_was_not_chosen_or_not_scored_is_said(checkpoint, noise, tmp_path, main):
    short, kept = tmp_path / "short.wav", tmp_path / "kept.safetensors"
    soundfile.write(short, noise[:12800], 16000)
    scored = "0.80 s of audio, shorter than a second: nothing was scored\n"
    chosen = f"{checkpoint} holds no detector: the threshold is 0.5\n"
    assert main("stream", checkpoint, short) == (0, "", chosen + scored)
    assert main("stream", checkpoint, short, "--threshold", 0.5) == (0, "", scored)
    arrays, metadata = files.read_checkpoint(checkpoint)
    detector = json.dumps({"threshold": 0.9, "smoothing": 1})
    files.write_checkpoint(kept, arrays, metadata | {"detector": detector})
    assert main("stream", kept, short) == (0, "", scored)


def test_listening_needs_no_torch_and_no_standard_error(checkpoint, noise, tmp_path):
    program = (
        "import sys; from kwslib import cli; sys.argv = ['kws', 'stream', *sys.argv[1:]]\n"
        "sys.stderr = None\ntry: cli.main()\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules"
    )
    command = [sys.executable, "-c", program, str(checkpoint), "-", "--threshold", "0"]
    heard = subprocess.run(command, input=noise.tobytes(), capture_output=True, timeout=300)
    assert heard.returncode == 0 and heard.stderr == b"" and heard.stdout.count(b"\n") == 1


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
    assert code == 130 and message.endswith("kws: interrupted\n")


def test_an_interrupted_report_says_how_it_goes_on():
    program = (
        "import sys, time; from kwslib import cli, report; sys.argv = ['kws', 'report']\n"
        "report.run_chain = lambda *_: (print('runs', flush=True), time.sleep(600))\ncli.main()"
    )
    code, message = interrupted([sys.executable, "-c", program], b"runs")
    assert code == 130
    assert message == "kws: interrupted; the same command goes on where this stopped\n"
