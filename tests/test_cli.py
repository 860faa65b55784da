"""`kws`: what it prints; exit codes 0 done, 1 the work failed, 2 wrong usage in one line, 130."""

import functools
import gzip
import json
import signal
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from kwslib import cli, data, files, models, runs
from kwslib.architecture import ARCHITECTURES

NOISE = np.random.default_rng(0).normal(0, 3000, 40000).astype(np.int16)


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
def small(tmp_path_factory):
    """A corpus of noise: two words by twenty speakers."""
    root = tmp_path_factory.mktemp("cli") / "words"
    for word in ("cat", "happy"):
        (root / word).mkdir(parents=True)
        for number in range(20):
            path = root / word / f"{number:08x}_nohash_0.wav"
            soundfile.write(path, NOISE[1000 * number :][:16000], 16000)
    return root


HELP = {
    "": ["Start with: kws report", "KWS_DATA", "KWS_REPORTS", "Exit codes: 0 done"],
    "report": ["Example: kws report --corpus", "--talk", "--workers", "--scheduler"],
    "corpus": ["CORPUS: embedded", "WORD/SPEAKER_nohash_N.wav", "--clips"],
    "evaluate": ["CHECKPOINT: a .safetensors", "never heard", "--json"],
    "stream": ["arecord -q -f S16_LE", "| kws stream CHECKPOINT -", "ffmpeg -f avfoundation"],
}
WRONG = {
    "report --profile fast": "smoke, quick, full",
    "report --only nine": "01_baseline",
    "report --corpus /nowhere": "embedded",
    "report --workers 0": "--workers",
    "corpus /nowhere --clips /none.txt": "/none.txt",
    "stream /nowhere.safetensors": "no checkpoint",
    "evaluate /nowhere.safetensors embedded": "no checkpoint",
}


@pytest.mark.parametrize("verb", HELP)
def test_help_says_what_to_type(verb, main):
    shown = " ".join(main(*verb.split(), "--help")[1].split())
    assert [part for part in HELP[verb] if part not in shown] == []


@pytest.mark.parametrize("command", WRONG)
def test_wrong_usage_is_one_line_and_exit_code_2(command, main, tmp_path):
    code, _, message = main(*command.split())
    assert code == 2 and WRONG[command] in message and message.count("\n") == 1
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
    assert code == 0 and "words: cat 20, happy 20\nrejected: 0\nmissing: 0\n" in shown
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
    clips = 2 * sum(data.fold_of(f"{n:08x}") == 2 for n in range(20))
    assert found.items() >= (trained | {"clips": clips}).items()
    lines = main("evaluate", path, small)[1].splitlines()
    assert f"{clips} clips (split folds, fold 2), {clips // 2} of happy" == lines[0]
    assert lines[1].split()[:2] == ["missed", f"{found['missed'][0]:.2g}"]
    for inputs in ("", "[]", json.dumps(trained | {"fold": "x"}), '{"keyword": "happy"}'):
        models.save(path, network, inputs=inputs)
        assert "own.safetensors does not record how" in main("evaluate", path, small)[2]


def test_standard_input_is_heard_as_a_file_without_torch(checkpoint, tmp_path, main):
    path, options = tmp_path / "noise.wav", ("--threshold", "0", "--json")
    soundfile.write(path, NOISE, 16000)
    code, shown, _ = main("stream", checkpoint, path, *options)
    assert code == 0 and json.loads(shown).keys() == {"time_s", "probability"}
    program = "import sys; from kwslib import cli; sys.argv[0] = 'kws'; sys.stderr = None\n"
    program += "try: cli.main()\nexcept SystemExit: assert 'torch' not in sys.modules"
    command = [sys.executable, "-c", program, "stream", checkpoint, "-", *options]
    heard = subprocess.run(command, input=NOISE.tobytes() + b"x", capture_output=True, timeout=300)
    assert (heard.returncode, heard.stdout.decode(), heard.stderr) == (0, shown, b"")


def test_a_recording_that_breaks_off_is_not_exit_code_0(checkpoint, tmp_path, main):
    path = tmp_path / "cut.wav"
    soundfile.write(path, NOISE, 16000)
    path.write_bytes(path.read_bytes()[:60000])
    code, shown, message = main("stream", checkpoint, path, "--threshold", 0)
    assert code == 1 and "cut.wav" in message and shown.count("probability") == 1


def test_what_was_not_chosen_or_not_scored_is_said(checkpoint, tmp_path, main):
    short, chosen = tmp_path / "short.wav", tmp_path / "chosen.safetensors"
    soundfile.write(short, NOISE[:12800], 16000)
    chosen.write_bytes(checkpoint.read_bytes())
    files.set_metadata(chosen, detector='{"threshold": 0.9, "smoothing": 1}')
    scored = "0.80 s of audio, shorter than a second: nothing was scored\n"
    remark = f"{checkpoint} holds no detector: the threshold is 0.5\n"
    assert main("stream", checkpoint, short) == (0, "", remark + scored)
    assert main("stream", checkpoint, short, "--threshold", 0.5) == (0, "", scored)
    assert main("stream", chosen, short) == (0, "", scored)


@pytest.mark.parametrize(
    "program, end",
    [
        ("sys.argv += ['stream', CHECKPOINT, '--threshold', '0']", ""),
        (
            "from kwslib import report; sys.argv += ['report']\n"
            "report.run_chain = lambda *_: [print(time.sleep(1), flush=True) for _ in range(60)]",
            "; the same command goes on where this stopped",
        ),
    ],
)
def test_an_interruption_is_said(program, end, checkpoint):
    program = f"import sys, time; from kwslib import cli; {program}\ncli.main()"
    command = [sys.executable, "-c", program.replace("CHECKPOINT", repr(str(checkpoint)))]
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # jobs behind ignore it
    with subprocess.Popen(command, 0, stdin=-1, stdout=-1, stderr=-1, preexec_fn=heed) as process:
        process.stdin.write(bytes(64000))
        assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        message = process.stderr.read().decode()
    assert process.returncode == 130 and message.endswith(f"kws: interrupted{end}\n")
