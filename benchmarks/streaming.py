"""What a second of audio costs: our streaming engine, a torch one, pymicro-wakeword, pyopen-wakeword.

Each engine hears the same minute in a process of its own, one thread, 80 ms and 1 s at a time; turns
alternate, medians and ratios are of one run, or with --runs the medians of so many. Start-up is from the command to the first row, of some starts in
turn; memory is resident, at the end. The two packages are not dependencies: pip install pymicro-wakeword
pyopen-wakeword, or they are left out. --hours feeds networks of streams a day of read speech instead.
"""

import argparse
import contextlib
import importlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parent.parent
RATE_HZ = 16000
PIECES = {"80 ms": 1280, "1 s": 16000}
REFERENCE = "pymicro-wakeword"
# Other engines that take more than so many ms a second take part in every so many turns: these are to tell what takes one.
SLOW_MS, SLOW_EVERY = 5, 5
STARTS = 5  # of each engine, after one that is not counted and compiles modules; the last is measured further
UNTIMED_S = 10  # heard at each turn before the minute: another process has just had the core
EXACT, NEAR = 1e-5, 1e-3  # in probability
TRIED_S = 300  # heard by each of the fresh engines that begin within the hour
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class TorchStream:
    """The network on a stream as one writes it in torch: the same buffers, torch's own layers."""

    def __init__(self, path: Path):
        import torch

        from kwslib import features, models

        torch.set_num_threads(1)
        self.torch, self.features, self.model = torch, features, models.load(path)
        self.samples = torch.zeros(0)
        self.frames = torch.zeros(1, self.model.architecture.front_end.mels, 0)
        self.state, self.outputs = None, torch.zeros(1, 0, self.model.architecture.hidden)

    def feed(self, samples) -> list[float]:
        a, torch, found = self.model.architecture, self.torch, []
        hop, window = a.front_end.hop_samples, a.front_end.window_samples
        with torch.inference_mode():
            self.samples = torch.cat([self.samples, torch.from_numpy(samples.astype("float32") / 32768)])
            count = max(0, (len(self.samples) - window) // hop + 1)
            if count:
                framed = self.samples[: (count - 1) * hop + window].unfold(0, window, hop)
                spectrum = torch.fft.rfft(framed * torch.from_numpy(a.front_end.window())).abs().square()
                power = (spectrum @ torch.from_numpy(a.front_end.filters())).T[None]
                self.frames = torch.cat([self.frames, self.features.log_mel(power, a.front_end)], dim=2)
                self.samples = self.samples[count * hop :]
            while self.frames.shape[2] >= a.kernel[1]:
                outputs, self.state = self.model.gru(
                    self.model.convolve(self.frames[:, :, : a.kernel[1]]), self.state
                )
                self.frames = self.frames[:, :, a.stride[1] :]
                self.outputs = torch.cat([self.outputs, outputs], dim=1)[:, -a.steps :]
                found.append(float(torch.softmax(self.model.classify(self.outputs), 1)[0, 1]))
        return found


def ours(path: Path, mode: str):
    from kwslib import streaming

    return streaming.Stream.load(path, mode).feed, path.stat().st_size


def in_torch(path: Path, _mode: str):
    return TorchStream(path).feed, path.stat().st_size


def micro(_path: Path, _mode: str):
    package = importlib.import_module("pymicro_wakeword")  # not a dependency

    model = package.MicroWakeWord.from_builtin(package.Model.OKAY_NABU)
    front_end = package.MicroWakeWordFeatures()

    def feed(samples) -> list:
        found = []
        for features in front_end.process_streaming(samples.tobytes()):
            model.process_streaming(features)
            found.append(0)
        return found

    return feed, _model_bytes(package, "okay_nabu")


def open_(_path: Path, _mode: str):
    package = importlib.import_module("pyopen_wakeword")

    model = package.OpenWakeWord.from_builtin(package.Model.OKAY_NABU)
    front_end = package.OpenWakeWordFeatures.from_builtin()

    def feed(samples) -> list:
        found = []
        for features in front_end.process_streaming(samples.tobytes()):
            found += list(model.process_streaming(features))
        return found

    return feed, _model_bytes(package, "okay_nabu", "melspectrogram", "embedding")


def _model_bytes(package, *names: str) -> int:
    files = Path(package.__file__).parent.rglob("*.tflite")
    return sum(file.stat().st_size for file in files if any(name in file.name for name in names))


ENGINES = {"ours": ours, "torch": in_torch, "pymicro-wakeword": micro, "pyopen-wakeword": open_}


def worker(engine: str, path: Path, mode: str, begun: float) -> None:
    """Hears as it is told on standard input ('80 ms', '1 s'), answers in JSON."""
    import numpy as np
    import psutil

    feed, model_bytes = ENGINES[engine](path, mode)
    audio = np.random.default_rng(0).normal(0, 2000, 60 * RATE_HZ).astype(np.int16)
    start, rows = 0, []
    while not len(rows) and start < len(audio):
        rows = feed(audio[start : start + 1280])
        start += 1280
    print(json.dumps({"start_s": time.time() - begun, "model_bytes": model_bytes}), flush=True)
    for line in sys.stdin:
        piece = PIECES[line.strip()]
        for start in range(0, UNTIMED_S * RATE_HZ, piece):
            feed(audio[start : start + piece])
        spent = time.process_time()
        for start in range(0, len(audio), piece):
            feed(audio[start : start + piece])
        spent = time.process_time() - spent
        answer = {
            "ms_per_s": 1000 * spent / (len(audio) / RATE_HZ),
            "memory_mb": psutil.Process().memory_info().rss / 2**20,
        }
        print(json.dumps(answer), flush=True)


def parts(path: Path) -> dict[str, float]:
    """Milliseconds a second of audio that our engine spends on log-mels, and on the rest of a step."""
    import numpy as np

    from kwslib import streaming

    found = {}
    for mode in streaming.MODES:
        stream = streaming.Stream.load(path, mode)
        audio = np.random.default_rng(0).normal(0, 2000, 20 * RATE_HZ).astype(np.int16)
        log_mels, spent = stream._log_mels[1], [0.0]  # of every step but the first
        make = log_mels.make

        def timed(samples, start, make=make, spent=spent):
            begun = time.process_time()
            make(samples, start)
            spent[0] += time.process_time() - begun

        stream.hear(audio[: 5 * RATE_HZ])
        log_mels.make, turns = timed, []
        for _ in range(5):
            spent[0], begun = 0.0, time.process_time()
            stream.hear(audio)
            whole = time.process_time() - begun
            turns.append((spent[0], whole - spent[0]))
        seconds = len(audio) / RATE_HZ
        log_mel, network = (1000 * statistics.median(of) / seconds for of in zip(*turns, strict=True))
        found[mode] = {"log-mel": log_mel, "network": network}
    return found


def long_run(name: str, path: Path, hour, hours: float) -> list[dict]:
    """Feeds an hour (samples,) int16 again and again in both modes: memory after each, speed, exact positions, and the
    last hour against the same hour heard by a fresh engine; how long that takes to say the same."""
    import numpy as np
    import psutil

    from kwslib import checkpoints, streaming

    rows = []
    for mode in streaming.MODES:
        stream = streaming.Stream.load(path, mode)
        fresh = stream.hear(hour, 16000)
        stream.reset()
        # Every hour's rows go to the same place, so that what grows is the stream's.
        kept = np.empty((len(fresh) + 2, 2))
        begun, memory = time.perf_counter(), []
        for _ in range(round(hours)):
            count = 0
            for start in range(0, len(hour), 1280):
                said = stream.feed(hour[start : start + 1280])
                kept[count : count + len(said)] = said
                count += len(said)
            memory.append(psutil.Process().memory_info().rss / 2**20)
        seconds = time.perf_counter() - begun
        last, position_s = np.concatenate([kept[:count], stream.flush()]), stream.position_s
        last[:, 0] -= (round(hours) - 1) * 3600
        within, apart = _compared(last, fresh, EXACT)
        tries = [
            _compared(
                fresh, stream.hear(hour[start : start + TRIED_S * RATE_HZ], 16000), NEAR, start / RATE_HZ
            )[0]
            for start in range(60 * RATE_HZ, len(hour) - TRIED_S * RATE_HZ + 1, 60 * RATE_HZ)
        ]
        rows.append(
            {
                "network": name,
                "mode": mode,
                "weights": checkpoints.digest(path),
                "hours": round(hours),
                "times_real_time": round(hours * 3600 / seconds),
                "memory_mb": [round(each, 1) for each in memory],
                "audio_mb": round(hour.nbytes / 2**20, 1),
                "position_s": position_s,
                "fresh_within_1e-5_after_s": within,
                "difference_from_then": apart,
                "starts": len(tries),
                "fresh_within_1e-3_after_s": {
                    "median": round(statistics.median(tries), 2),
                    "longest": round(max(tries), 2),
                },
            }
        )
    return rows


def _compared(rows, fresh, limit: float, begun_s: float = 0.0) -> tuple[float, float]:
    """Seconds from when a fresh engine began, after which its rows (steps, 2) are never further from those of another
    than the limit; and how far they are from then on."""
    import numpy as np

    at = np.searchsorted(rows[:, 0], fresh[:, 0] + begun_s - 1e-6)
    fresh, at = fresh[at < len(rows)], at[at < len(rows)]
    assert np.abs(rows[at, 0] - begun_s - fresh[:, 0]).max() < 1e-6, "positions drift"
    # The end is reflected: what was fed last is not what goes on.
    ends = fresh[:, 0] < fresh[-1, 0] - 1
    gaps, times = np.abs(rows[at, 1] - fresh[:, 1])[ends], fresh[ends, 0]
    over = np.flatnonzero(gaps > limit)
    first = over[-1] + 1 if len(over) else 0
    return (float(times[first]) if first < len(times) else float("inf"), float(gaps[first:].max(initial=0)))


def of_command(path: Path) -> dict[str, dict]:
    """What `kws stream` takes on 16 kHz PCM, and on a file that it resamples: most memory, and seconds from the
    command to the first detection (of threshold 0, so as soon as there is a probability)."""
    import tempfile

    import numpy as np
    import soundfile

    audio = np.random.default_rng(0).normal(0, 2000, 60 * RATE_HZ).astype(np.int16)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for what, rate_hz in (("16 kHz", RATE_HZ), ("44.1 kHz, which it resamples", 44100)):
            file = Path(folder) / f"{rate_hz}.wav"
            soundfile.write(file, audio, rate_hz)
            arguments = [
                sys.executable,
                "-m",
                "kwslib.cli",
                "stream",
                str(path),
                str(file),
                "--threshold",
                "0",
            ]
            starts, memory_mb = [], []
            for _ in range(1 + STARTS):
                begun = time.time()
                process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
                process.stdout.readline()
                starts.append(time.time() - begun)
                _, code, usage = os.wait4(process.pid, 0)
                process.stdout.close()
                process.returncode = os.waitstatus_to_exitcode(code)
                if process.returncode:
                    raise RuntimeError(f"kws stream ended with {process.returncode}")
                memory_mb.append(usage.ru_maxrss / 1024)
            found[what] = {
                "start_s": round(statistics.median(starts[1:]), 2),
                "memory_mb": round(max(memory_mb[1:]), 1),
            }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=ROOT / "reports" / "speech-commands-happy")
    parser.add_argument("--turns", type=int, default=50, help="default 50; slow engines miss most of them")
    parser.add_argument("--runs", type=int, default=1, help="whole runs, whose medians are told; default 1")
    parser.add_argument("--hours", type=float, default=0, help="instead: a long run of the stream networks")
    parser.add_argument("--json", type=Path, help="where to write the result")
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.turns < 2 * SLOW_EVERY:
        parser.error(f"--turns must be at least {2 * SLOW_EVERY}")
    if options.worker:
        engine, path, mode, begun = options.worker
        worker(engine, Path(path), mode, float(begun))
        return
    os.environ.update(dict.fromkeys(THREADS, "1"))
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # with it, every start compiles every module
    folder = options.run / "checkpoints"
    checkpoint = {name: folder / f"{name}.safetensors" for name in ("baseline", "student3")}
    if options.hours:
        from kwslib import talk

        keyword = json.loads((options.run / "run.json").read_text())["parameters"]["keyword"]
        hour, result = talk.read(keyword, "test", 60), []
        for name in checkpoint:
            name += "-stream"
            result += long_run(name, folder / f"{name}.safetensors", hour, options.hours)
        for row in result:
            print(", ".join(f"{name.replace('_', ' ')} {value}" for name, value in row.items()))
    else:
        result = several(checkpoint, options.turns, options.runs)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


def several(checkpoint: dict[str, Path], turns: int, runs: int) -> dict:
    """So many whole runs: the medians of their medians; of the ratios the lowest and the highest run beside."""
    found = [compare(checkpoint, turns) for _ in range(runs)]
    together = found[0] | {"runs": runs}
    for row, *rows in zip(*(one["rows"] for one in found), strict=True):
        ratios = [each.get("times pymicro's, 80 ms") for each in (row, *rows)]
        for name, value in list(row.items()):
            if isinstance(value, float):
                row[name] = round(statistics.median(each[name] for each in (row, *rows)), 3)
        if None not in ratios:
            row["times pymicro's, by run"] = [min(ratios), max(ratios)]
    for name, modes in together["parts"].items():
        for mode, of in modes.items():
            for part in of:
                of[part] = statistics.median(each["parts"][name][mode][part] for each in found)
    for what, one in together["command"].items():
        one["start_s"] = statistics.median(each["command"][what]["start_s"] for each in found)
        one["memory_mb"] = max(each["command"][what]["memory_mb"] for each in found)
    return together


def compare(checkpoint: dict[str, Path], turns: int) -> dict:
    wanted = [
        (f"ours, {name}, {mode}", "ours", checkpoint[name], mode)
        for name in checkpoint
        for mode in ("carried", "window")
    ]
    wanted += [(f"torch, {name}, carried", "torch", checkpoint[name], "carried") for name in checkpoint]
    for package in (REFERENCE, "pyopen-wakeword"):
        if importlib.util.find_spec(package.replace("-", "_")):
            wanted.append((package, package, checkpoint["baseline"], "-"))
        else:
            print(f"{package} is not installed: left out", file=sys.stderr)
    running, found = {}, {name: {"start_s": [], "ms": {piece: {} for piece in PIECES}} for name, *_ in wanted}
    for start in range(1 + STARTS):
        for name, engine, path, mode in wanted:
            command = [sys.executable, __file__, "--worker", engine, str(path), mode, repr(time.time())]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            answer = json.loads(process.stdout.readline())
            found[name]["start_s"].append(answer["start_s"])
            found[name]["model_bytes"] = answer["model_bytes"]
            if start == STARTS:
                running[name] = process
            else:
                process.communicate()
    slow = set()
    for turn in range(turns + 1):
        for name, process in running.items():
            if name in slow and turn % SLOW_EVERY:
                continue
            for piece in PIECES:
                process.stdin.write(piece + "\n")
                process.stdin.flush()
                answer = json.loads(process.stdout.readline())
                found[name]["memory_mb"] = answer["memory_mb"]
                if turn:  # the first turn warms up
                    found[name]["ms"][piece][turn] = answer["ms_per_s"]
                elif answer["ms_per_s"] > SLOW_MS and name != REFERENCE:
                    slow.add(name)
    for process in running.values():
        process.stdin.close()
        process.wait()
    reference = found.get(REFERENCE)
    rows = []
    for name, values in found.items():
        row = {"engine": name}
        for piece, times in values["ms"].items():
            row[f"ms a second, {piece}"] = round(statistics.median(times.values()), 3)
        if reference:
            mine, theirs = values["ms"]["80 ms"], reference["ms"]["80 ms"]
            ratios = [mine[turn] / theirs[turn] for turn in mine]
            row["times pymicro's, 80 ms"] = round(statistics.median(ratios), 3)
        row |= {
            "start s": round(statistics.median(values["start_s"][1:]), 2),
            "memory MB": round(values["memory_mb"], 1),
            "model bytes": values["model_bytes"],
        }
        rows.append(row)
    names = list(rows[0])
    print("".join(f"{name:>{28 if name == 'engine' else 20}}" for name in names))
    for row in rows:
        print("".join(f"{row[name]!s:>{28 if name == 'engine' else 20}}" for name in names))
    split = {name: parts(path) for name, path in checkpoint.items()}
    for name, modes in split.items():
        for mode, values in modes.items():
            print(
                f"{name}, {mode}: " + ", ".join(f"{part} {ms:.3f} ms a second" for part, ms in values.items())
            )
    taken = of_command(checkpoint["student3"])
    for what, one in taken.items():
        print(f"kws stream, {what}: {one['memory_mb']} MB at most, first detection after {one['start_s']} s")
    return {
        "turns": turns,
        "starts": STARTS,
        "rows": rows,
        "parts": split,
        "command": taken,
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Of what was measured, as far as it is installed."""
    found = {}
    for package in ("numpy", "torch", "pymicro-wakeword", "pymicro-features", "pyopen-wakeword"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    print(", ".join(f"{package} {version}" for package, version in found.items()))
    return found


if __name__ == "__main__":
    main()
