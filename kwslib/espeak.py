"""espeak-ng: speech and phonemes, and processes that share the speaking."""

import _ctypes
import contextlib
import ctypes
import itertools
import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor

import espeakng_loader
import numpy as np

RATE_HZ = 22050


@contextlib.contextmanager
def _engine(voice: str):
    """The library, loaded anew (2 ms): its static variables would make an utterance depend on those
    before it. Its data folder is the working directory, as it keeps that path in 160 bytes."""
    engine = ctypes.CDLL(espeakng_loader.get_library_path())
    try:
        with contextlib.chdir(espeakng_loader.get_data_path()):
            is_ready = engine.espeak_Initialize(2, 0, b".", 0x8000) == RATE_HZ
            if not is_ready or engine.espeak_SetVoiceByName(voice.encode()) != 0:
                raise ValueError(f"espeak-ng has no voice {voice!r}; install espeakng-loader again")
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


def run(function, jobs: list[tuple]):
    """Yields `function(*job)` of each job in turn. A process a core shares the work; it inherits no
    lock and ends with this process, even if that is killed."""
    if multiprocessing.current_process().daemon:  # one of Dask's, which may start none
        yield from itertools.starmap(function, jobs)
        return
    workers, spawn = min(os.cpu_count() or 1, 8, len(jobs)), multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawn, _end_with_parent) as pool:
        yield from pool.map(function, *zip(*jobs, strict=True))


def _end_with_parent() -> None:
    def watch():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C leaves no traceback
