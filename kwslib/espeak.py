"""espeak-ng's library speaks, and processes share the work."""

import _ctypes
import contextlib
import ctypes
import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor

import espeakng_loader
import numpy as np

RATE_HZ = 22050


def speak(text: str, voice: str, rate_wpm: float, pitch: float) -> np.ndarray:
    """(samples,) from -1 to 1 at `RATE_HZ`; pitch is from 0 to 99. `ValueError` without the voice.
    The library is loaded anew (2 ms), as it carries state from one utterance to the next. Its data
    folder is the working directory, as it keeps that path in 160 bytes."""
    pieces, said = [], text.encode()

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
    def keep(samples, count, _):
        pieces.append(ctypes.string_at(samples, 2 * count) if samples else b"")
        return 0

    engine = ctypes.CDLL(espeakng_loader.get_library_path())
    with contextlib.ExitStack() as at_end:
        at_end.callback(_ctypes.dlclose, engine._handle)
        at_end.enter_context(contextlib.chdir(espeakng_loader.get_data_path()))
        rate_hz = engine.espeak_Initialize(2, 0, b".", 0x8000)
        if rate_hz != RATE_HZ or engine.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {voice!r}; install espeakng-loader again")
        engine.espeak_SetSynthCallback(keep)
        engine.espeak_SetParameter(1, round(rate_wpm), 0)
        engine.espeak_SetParameter(3, round(pitch), 0)
        engine.espeak_ng_SetRandSeed(ctypes.c_long(1))
        engine.espeak_Synth(said, ctypes.c_size_t(len(said) + 1), 0, 1, 0, 1, None, None)
        engine.espeak_Synchronize()
        engine.espeak_Terminate()
    return np.frombuffer(b"".join(pieces), np.int16) / 32768


def run(function, jobs: list[tuple]):
    """Yields `function(*job)` of each job in turn. A process a core works; it inherits no lock."""
    if multiprocessing.current_process().daemon:  # one of Dask's, which may start none
        yield from (function(*job) for job in jobs)
        return
    workers, spawn = min(os.cpu_count() or 1, 8, len(jobs)), multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawn, _end_with_parent) as pool:
        yield from pool.map(function, *zip(*jobs, strict=True))


def _end_with_parent() -> None:  # even if that is killed
    def watch():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C leaves no traceback
