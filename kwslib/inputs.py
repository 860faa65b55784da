"""Where a stream's audio comes from: a file, standard input, a microphone. No torch.

Each gives (samples,) at 16 kHz a piece at a time, int16 or float32 from -1 to 1, so that a day of audio
takes no more memory than a minute. What goes wrong is a `CorpusError` of one line.
"""

import math
import queue
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .data import SAMPLE_RATE_HZ, CorpusError, promised_samples

PIECE_S = 0.08  # of live audio: a step
_BLOCK = 1 << 16  # samples of a file at a time


def from_file(path: Path, say) -> Iterator[np.ndarray]:
    """A recording of any rate and number of channels, as 16 kHz mono; `say` is told in a line if that
    changes anything."""
    import soundfile

    if not Path(path).is_file():
        raise CorpusError(f"no file {str(path)!r}")
    try:
        with soundfile.SoundFile(path) as file:
            if file.frames < promised_samples(path):
                raise CorpusError(f"{path}: cut off: shorter than its header says")
            if file.channels > 1:
                say(f"{path}: {file.channels} channels, mixed to one")
            if file.samplerate != SAMPLE_RATE_HZ:
                say(f"{path}: {file.samplerate:,} Hz, resampled to {SAMPLE_RATE_HZ:,} Hz")
            is_plain = file.channels == 1 and file.samplerate == SAMPLE_RATE_HZ and file.subtype == "PCM_16"
            blocks = file.blocks(_BLOCK, dtype="int16" if is_plain else "float32", always_2d=True)
            mono = (block[:, 0] if is_plain else block.mean(axis=1) for block in blocks)
            yield from mono if file.samplerate == SAMPLE_RATE_HZ else resampled(mono, file.samplerate)
    except (soundfile.SoundFileError, RuntimeError, OSError) as error:
        raise CorpusError(f"{path}: not readable as audio ({type(error).__name__})") from None


def resampled(pieces: Iterator[np.ndarray], rate_hz: int) -> Iterator[np.ndarray]:
    """Pieces of any size at a rate -> at 16 kHz, as if resampled whole (SciPy's polyphase filter): each
    is filtered with enough of its neighbours, and only its own part is kept."""
    from scipy.signal import resample_poly

    common = math.gcd(rate_hz, SAMPLE_RATE_HZ)
    up, down = SAMPLE_RATE_HZ // common, rate_hz // common
    margin = down * (-(-10 * max(up, down) // (up * down)) + 1)  # the filter's half length, whole periods
    size = down * max(1, _BLOCK // down)
    before, waiting = np.zeros(margin, np.float32), np.zeros(0, np.float32)

    def block(samples: np.ndarray, after: np.ndarray) -> np.ndarray:
        made = resample_poly(np.concatenate([before, samples, after]), up, down)
        kept = -(-len(samples) * up // down)
        return made[margin * up // down :][:kept].astype(np.float32)

    for piece in pieces:
        waiting = np.concatenate([waiting, piece])
        while len(waiting) >= size + margin:
            yield block(waiting[:size], waiting[size : size + margin])
            before, waiting = waiting[size - margin : size], waiting[size:]
    if len(waiting):
        yield block(waiting, np.zeros(margin, np.float32))


def from_pcm(file) -> Iterator[np.ndarray]:
    """Raw 16 kHz mono PCM16, little-endian, as it arrives on a binary file such as standard input."""
    rest = b""
    while piece := file.read1(2 * int(PIECE_S * SAMPLE_RATE_HZ)):
        piece = rest + piece
        even = len(piece) // 2 * 2
        rest = piece[even:]
        yield np.frombuffer(piece[:even], dtype="<i2")


def from_microphone(say) -> Iterator[np.ndarray]:
    """The default microphone, for ever; needs the extra `kwslib[microphone]`."""
    try:
        import sounddevice
    except (ImportError, OSError) as error:
        raise CorpusError(
            f"no microphone ({error}); install sounddevice (pip install 'kwslib[microphone]') and PortAudio, "
            f"or pipe audio in: arecord -q -f S16_LE -r 16000 -t raw | kws stream CHECKPOINT -"
        ) from None
    arrived = queue.SimpleQueue()

    def keep(samples, _count, _time, status):
        arrived.put((samples[:, 0].copy(), str(status) if status else ""))

    try:
        with sounddevice.InputStream(
            SAMPLE_RATE_HZ, int(PIECE_S * SAMPLE_RATE_HZ), channels=1, dtype="int16", callback=keep
        ):
            while True:
                samples, status = arrived.get()
                if status:
                    say(f"microphone: {status}")
                yield samples
    except sounddevice.PortAudioError as error:
        raise CorpusError(f"the microphone cannot be opened ({error})") from None
