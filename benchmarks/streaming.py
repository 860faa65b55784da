"""What a second of audio costs on a stream: our engine, our network in torch, pymicro-wakeword.

    python benchmarks/streaming.py [RUN]        RUN: a run folder, reports/happy by default

Every engine hears the same audio in pieces of 80 ms, in a process of its own with one thread. Turns
alternate, and a ratio is the median of the ratios of the same turn: so what else the machine does
hits all engines alike. Writes streaming.json and streaming.md beside this script.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = "pymicro-wakeword"
INSTALL = (
    "pymicro-wakeword is missing: pip install --no-deps --target /tmp/pmw pymicro-wakeword "
    "pymicro-features, and run this with PYTHONPATH=/tmp/pmw"
)
TARGETS = {"baseline-stream": 0.5, "student3-stream": 0.25}  # most of the reference's CPU time
RATE_HZ, PIECE = 16000, 1280
HEARD_S, WARM_S = 20, 2  # a turn, and what is heard before it, as another process just had the core
STARTS = 5  # of each engine; one more before them is not counted, as it may compile modules
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class TorchStream:
    """The network on a stream as one writes it in torch: log-mels as they come, and at each step
    the network on those of the last second."""

    def __init__(self, path: Path):
        import torch

        from kwslib import features, models

        torch.set_num_threads(1)
        self.torch, self.features, self.model = torch, features, models.load(path)
        front_end = self.model.architecture.front_end
        self.window = torch.from_numpy(front_end.window())
        self.filters = torch.from_numpy(front_end.filters())
        self.samples, self.log_mels = torch.zeros(0), torch.zeros(1, front_end.mels, 0)

    def feed(self, samples) -> list[float]:
        torch, architecture, found = self.torch, self.model.architecture, []
        front_end = architecture.front_end
        hop, window = front_end.hop_samples, front_end.window_samples
        with torch.inference_mode():
            new = torch.from_numpy(samples.astype("float32") / 32768)
            self.samples = torch.cat([self.samples, new])
            count = (len(self.samples) - window) // hop + 1
            if count > 0:
                frames = self.samples.unfold(0, window, hop)[:count]
                power = torch.fft.rfft(frames * self.window).abs().square() @ self.filters
                new = self.features.log_mel(power.T[None], front_end)
                self.log_mels = torch.cat([self.log_mels, new], dim=2)
                self.samples = self.samples[count * hop :]
            while self.log_mels.shape[2] >= front_end.frames:
                logits = self.model(self.log_mels[:, :, : front_end.frames])
                found.append(float(torch.softmax(logits, 1)[0, 1]))
                self.log_mels = self.log_mels[:, :, architecture.stride[1] :]
        return found


def feed_ours(path: Path):
    from kwslib import streaming

    return streaming.Stream.load(path).feed


def feed_torch(path: Path):
    return TorchStream(path).feed


def feed_reference(_path: Path):
    import pymicro_wakeword

    model = pymicro_wakeword.MicroWakeWord.from_builtin(pymicro_wakeword.Model.OKAY_NABU)
    front_end = pymicro_wakeword.MicroWakeWordFeatures()

    def feed(samples) -> list:
        return [model.process_streaming(f) for f in front_end.process_streaming(samples.tobytes())]

    return feed


ENGINES = {"ours": feed_ours, "torch": feed_torch, REFERENCE: feed_reference}


def work(engine: str, path: Path, begun: float) -> None:
    """The process of an engine: says how long its start took, then takes a turn at every line of
    standard input. Answers in JSON."""
    import resource

    import numpy as np

    feed = ENGINES[engine](path)
    audio = np.random.default_rng(0).normal(0, 2000, (WARM_S + HEARD_S) * RATE_HZ).astype(np.int16)
    pieces = [audio[start : start + PIECE] for start in range(0, len(audio), PIECE)]
    next(piece for piece in pieces if len(feed(piece)))
    print(json.dumps({"start_s": time.time() - begun}), flush=True)
    warm = WARM_S * RATE_HZ // PIECE
    for _ in sys.stdin:
        for piece in pieces[:warm]:
            feed(piece)
        spent = time.process_time()
        for piece in pieces[warm:]:
            feed(piece)
        spent = time.process_time() - spent
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        memory_mb = peak / 2 ** (20 if sys.platform == "darwin" else 10)
        print(json.dumps({"cpu_ms": 1000 * spent / HEARD_S, "memory_mb": memory_mb}), flush=True)


def start(engine: str, path: Path) -> tuple[subprocess.Popen, float]:
    """The running process of an engine, and the seconds from its command to the first row."""
    command = [sys.executable, __file__, "--work", engine, str(path), repr(time.time())]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    return process, json.loads(process.stdout.readline())["start_s"]


def turn(process: subprocess.Popen) -> dict:
    process.stdin.write("\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def compare(checkpoints: dict[str, Path], turns: int) -> list[dict]:
    """A row for each engine and network."""
    asked = [(engine, name) for engine in ("ours", "torch") for name in checkpoints]
    asked.append((REFERENCE, ""))
    starts, running = {one: [] for one in asked}, {}
    for n in range(1 + STARTS):
        for engine, name in asked:
            process, start_s = start(engine, checkpoints.get(name, Path()))
            if n:
                starts[engine, name].append(start_s)
            if n == STARTS:
                running[engine, name] = process
            else:
                process.communicate()
    answers = {one: [] for one in asked}
    for n in range(1 + turns):
        for one, process in running.items():
            answer = turn(process)
            if n:  # the first turn warms up
                answers[one].append(answer)
    for process in running.values():
        process.communicate()
    reference = [answer["cpu_ms"] for answer in answers[REFERENCE, ""]]
    rows = []
    for (engine, name), of_turns in answers.items():
        cpu_ms = [answer["cpu_ms"] for answer in of_turns]
        ratios = [mine / theirs for mine, theirs in zip(cpu_ms, reference, strict=True)]
        rows.append(
            {
                "engine": engine,
                "network": name,
                "cpu_ms_per_s": round(statistics.median(cpu_ms), 3),
                "cpu_over_reference": round(statistics.median(ratios), 3),
                "start_s": round(statistics.median(starts[engine, name]), 2),
                "peak_memory_mb": round(of_turns[-1]["memory_mb"], 1),
                "file_bytes": checkpoints[name].stat().st_size if name else None,
            }
        )
    return rows


def verdicts(rows: list[dict]) -> list[str]:
    """A sentence for each target."""
    found = {row["network"]: row for row in rows if row["engine"] == "ours"}
    return [
        f"Our engine takes {found[name]['cpu_over_reference']} times the CPU time of {REFERENCE} "
        f"with {name}; the target is at most {target}: "
        + ("met." if found[name]["cpu_over_reference"] <= target else "**missed**.")
        for name, target in TARGETS.items()
    ]


def markdown(result: dict) -> str:
    heads = ("engine", "network", "CPU ms a second of audio", f"CPU over {REFERENCE}")
    heads += ("start s", "peak memory MB", "file bytes")
    lines = [" | ".join(heads), "|".join(["---", "---"] + ["---:"] * (len(heads) - 2))]
    for row in result["rows"]:
        cells = (f"{v:,}" if isinstance(v, int) else str(v or "") for v in row.values())
        lines.append(" | ".join(cells))
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    text = (
        f"Every engine hears the same {HEARD_S} s in pieces of 80 ms with one thread, in "
        f"{result['turns']} alternating turns. Numbers are medians; a ratio is the median of the "
        "ratios of the same turn. Start is from the command to the first probability, the median "
        f"of {STARTS}. {REFERENCE} runs a network of its own (`okay_nabu`).\n\n"
        f"Machine: {result['machine']}. {versions}.\n"
    )
    table = "\n".join(f"| {line} |" for line in lines)
    head = "# What a second of audio costs on a stream\n\nWritten by `benchmarks/streaming.py`.\n\n"
    return head + " ".join(verdicts(result["rows"])) + f"\n\n{table}\n\n{text}"


def machine() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, nargs="?", default=ROOT / "reports" / "happy")
    parser.add_argument("--turns", type=int, default=30, help="default 30")
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        engine, path, begun = options.work
        return work(engine, Path(path), float(begun))
    checkpoints = {n: options.run / "checkpoints" / f"{n}.safetensors" for n in TARGETS}
    for path in checkpoints.values():
        if not path.is_file():
            parser.exit(2, f"no checkpoint at {path}; RUN must be a finished run\n")
    if importlib.util.find_spec("pymicro_wakeword") is None:
        parser.exit(2, INSTALL + "\n")
    os.environ.update(dict.fromkeys(THREADS, "1"))
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # with it, every start compiles every module
    names = ("numpy", "torch", REFERENCE)
    result = {
        "turns": options.turns,
        "machine": machine(),
        "versions": {name: importlib.metadata.version(name) for name in names},
        "rows": compare(checkpoints, options.turns),
    }
    page = Path(__file__).with_suffix(".md")
    page.write_text(markdown(result), encoding="utf-8")
    page.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(page.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
