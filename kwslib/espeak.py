"""espeak-ng: speech and phonemes, and processes that share the speaking."""

import _ctypes
import contextlib
import ctypes
import ctypes.util
import os
import pickle
import subprocess
import sys
import threading

import numpy as np

RATE_HZ = 22050


def paths() -> tuple[str, str | None]:
    """espeak-ng's library and its data: espeakng-loader's, or the system's (None: it knows)."""
    try:
        import espeakng_loader
    except ImportError:
        return ctypes.util.find_library("espeak-ng") or "libespeak-ng.so.1", None
    return espeakng_loader.get_library_path(), espeakng_loader.get_data_path()


@contextlib.contextmanager
def _engine(voice: str):
    """The library, loaded anew (2 ms): its static variables would make an utterance depend on those
    before it. Its data folder is the working directory, as it keeps that path in 160 bytes."""
    library, data = paths()
    try:
        engine = ctypes.CDLL(library)
    except OSError as error:
        raise ValueError(f"espeak-ng cannot be loaded ({error}); install espeakng-loader") from None
    try:
        with contextlib.chdir(data or "."):
            if engine.espeak_Initialize(2, 0, b"." if data else None, 0x8000) != RATE_HZ:
                raise ValueError(f"espeak-ng cannot read its data in {data}; install it again")
            if engine.espeak_SetVoiceByName(voice.encode()) != 0:
                raise ValueError(f"espeak-ng has no voice {voice!r}")
            yield engine
            engine.espeak_Terminate()
    finally:
        getattr(_ctypes, "dlclose", getattr(_ctypes, "FreeLibrary", None))(engine._handle)


def speak(text: str, voice: str, rate_wpm: float, pitch: float, pitch_range: float) -> np.ndarray:
    """(samples,) from -1 to 1 at `RATE_HZ`; pitch and its range are from 0 to 99."""
    pieces = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
    def keep(samples, count, _):
        pieces.append(ctypes.string_at(samples, 2 * count) if samples else b"")
        return 0

    with _engine(voice) as engine:
        engine.espeak_SetSynthCallback(keep)
        for parameter, value in ((1, rate_wpm), (3, pitch), (4, pitch_range)):
            engine.espeak_SetParameter(parameter, round(value), 0)
        engine.espeak_ng_SetRandSeed(ctypes.c_long(1))
        said = text.encode()
        engine.espeak_Synth(said, ctypes.c_size_t(len(said) + 1), 0, 1, 0, 1, None, None)
        engine.espeak_Synchronize()
    return np.frombuffer(b"".join(pieces), np.int16) / 32768


def phonemes(text: str) -> list[str]:
    """The sound of each word in American English, without stress, length and pauses."""
    sound, at = b"", ctypes.pointer(ctypes.c_char_p(text.encode()))
    with _engine("en-us") as engine:
        engine.espeak_TextToPhonemes.restype = ctypes.c_char_p
        while at.contents.value:
            sound += (engine.espeak_TextToPhonemes(at, 1, 0) or b"") + b" "
    words = sound.decode().split()
    return ["".join(c for c in word if c.isalnum() or c in "@#") for word in words]


def run(function, jobs: list[tuple], workers: int | None = None):
    """Yields `function(*job)` of each job in turn, computed by processes (None: one a core). They
    end when their pipe does, as this process may be killed, and they inherit no lock."""
    workers, started = min(workers or os.cpu_count() or 1, 8, len(jobs)), []
    try:
        for first in range(workers):
            command, pipe = [sys.executable, "-m", __name__], subprocess.PIPE
            worker = subprocess.Popen(command, stdin=pipe, stdout=pipe, start_new_session=True)
            started.append(worker)
            pickle.dump((function, jobs[first::workers]), worker.stdin)
            worker.stdin.flush()
        for number in range(len(jobs)):
            result = pickle.load(started[number % workers].stdout)
            if isinstance(result, Exception):
                raise result
            yield result
    finally:
        for worker in started:
            worker.kill()
            worker.communicate()


def _work() -> None:
    function, jobs = pickle.load(sys.stdin.buffer)
    threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()
    for job in jobs:
        try:
            result = function(*job)
        except Exception as error:
            result = error
        pickle.dump(result, sys.stdout.buffer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    _work()
