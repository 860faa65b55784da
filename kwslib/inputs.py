"""Where a stream's audio comes from: a file, standard input, a microphone. No torch.

Each gives (samples,) at 16 kHz a piece at a time, int16 or float32 from -1 to 1, so that a day of audio
takes no more memory than a minute. What goes wrong is a `CorpusError` of one line.
"""

import contextlib
import os
import queue
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .data import SAMPLE_RATE_HZ, CorpusError, promised_samples

PIECE_S = 0.08  # of live audio: a step
RATES_HZ = (1000, 768_000)  # of files
_BLOCK = 1 << 14  # samples of a file at a time
_HEADERS = (b"RIFF", b"riff", b"RF64", b"FORM", b"fLaC", b"OggS", b"caff", b".snd", b"ID3")
_ARECORD = "arecord -q -f S16_LE -r 16000 -t raw | kws stream CHECKPOINT -"


def from_file(path: Path, say) -> Iterator[np.ndarray]:
    """A recording of any rate and number of channels, as 16 kHz mono; `say` is told in a line if that
    changes anything. One that is damaged, and a PCM WAV that is shorter than its header says, is an error
    after what there is of it; of other formats libsndfile does not tell that they are cut off."""
    import soundfile

    path = Path(path)
    if not path.is_file():
        if path.exists():
            raise CorpusError(
                f"{path} is no file of audio; raw 16 kHz PCM16 can be piped in, with - as the file"
            )
        raise CorpusError(f"no file {str(path)!r}")
    try:
        file = soundfile.SoundFile(os.fsencode(path))
    except TypeError:  # soundfile's, of a name that ends in .raw
        raise CorpusError(f"{path}: raw audio is piped in: kws stream CHECKPOINT - < {path.name}") from None
    except (soundfile.SoundFileError, RuntimeError, OSError) as error:
        raise CorpusError(f"{path}: not readable as audio ({type(error).__name__})") from None
    with file:
        rate_hz = file.samplerate
        if not RATES_HZ[0] <= rate_hz <= RATES_HZ[1]:
            raise CorpusError(f"{path}: {rate_hz:,} Hz; it must be {RATES_HZ[0]:,} to {RATES_HZ[1]:,} Hz")
        if file.subtype.startswith("MPEG"):
            say(f"{path}: an MP3 that states too short a length is not heard to its end; WAV and FLAC are")
        if file.channels > 1:
            say(f"{path}: {file.channels} channels, mixed to one")
        if rate_hz != SAMPLE_RATE_HZ:
            say(f"{path}: {rate_hz:,} Hz, resampled to {SAMPLE_RATE_HZ:,} Hz")
        mono = _mono(file, path)
        yield from mono if rate_hz == SAMPLE_RATE_HZ else resampled(mono, rate_hz)


def _mono(file, path: Path) -> Iterator[np.ndarray]:
    """Blocks of an open file at its own rate, one channel; int16 where the file is, else float32 from -1 to 1."""
    import soundfile

    is_plain = file.channels == 1 and file.samplerate == SAMPLE_RATE_HZ and file.subtype == "PCM_16"
    file.seekable = lambda: False  # soundfile seeks after every read, to where an MP3 is not quite the same
    heard, promised = 0, promised_samples(path)
    while True:
        try:  # not file.blocks: where a file holds less than it says, that gives a block once more
            block = file.read(_BLOCK, "int16" if is_plain else "float32", always_2d=True)
        except (soundfile.SoundFileError, RuntimeError, OSError) as error:
            heard_s = heard / file.samplerate
            raise CorpusError(f"{path}: damaged after {heard_s:.1f} s ({type(error).__name__})") from None
        if not len(block):
            break
        heard += len(block)
        if is_plain:
            yield block[:, 0]
        else:  # before one broken sample is spread over many
            yield np.clip(np.nan_to_num(block, nan=0, posinf=0, neginf=0), -1, 1).mean(axis=1)
    if heard < promised:
        raise CorpusError(
            f"{path}: cut off: {heard / file.samplerate:.1f} of the {promised / file.samplerate:.1f} s that "
            "its header says"
        )


def resampled(pieces: Iterator[np.ndarray], rate_hz: int) -> Iterator[np.ndarray]:
    """Pieces (samples,) float32 of any size at a rate -> at 16 kHz, as if resampled whole (the SoX resampler)."""
    import soxr

    stream = soxr.ResampleStream(rate_hz, SAMPLE_RATE_HZ, 1, dtype="float32")
    for piece in pieces:
        yield stream.resample_chunk(piece)
    yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def from_pcm(file) -> Iterator[np.ndarray]:
    """Raw 16 kHz mono PCM16, little-endian, as it arrives on a binary file such as standard input. A terminal
    is refused, and a recording that begins with the header of a common format."""
    if file is None:
        raise CorpusError("standard input is closed; pipe raw 16 kHz PCM16 in, or name a file")
    if file.isatty():
        raise CorpusError(f"standard input is a terminal; pipe audio in: {_ARECORD}")
    with contextlib.suppress(OSError):  # a file without a descriptor; else one that may say 'nothing yet'
        os.set_blocking(file.fileno(), True)
    rest, begins = b"", True
    while piece := file.read1(2 * int(PIECE_S * SAMPLE_RATE_HZ)):
        piece = rest + piece
        if begins and len(piece) < 4:
            rest = piece
            continue
        if begins and piece.startswith(_HEADERS):
            kind = piece[:4].decode("latin-1")
            raise CorpusError(
                f"standard input is a recording ({kind}), not raw 16 kHz PCM16; name it as a file"
            )
        even, begins = len(piece) // 2 * 2, False
        rest = piece[even:]
        yield np.frombuffer(piece[:even], dtype="<i2")
    if begins and len(rest) >= 2:
        yield np.frombuffer(rest[:2], dtype="<i2")


def from_microphone(say) -> Iterator[np.ndarray]:
    """The default microphone, for ever; needs the extra `kwslib[microphone]`. What it loses while the machine
    is too busy is said, not skipped: a stream's times are of the audio that was heard, and early from there on."""
    try:
        import sounddevice
    except (ImportError, OSError) as error:
        raise CorpusError(
            f"no microphone ({error}); install sounddevice (pip install 'kwslib[microphone]') and PortAudio, "
            f"or pipe audio in: {_ARECORD}"
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
                    say(f"microphone: {status}; times are of the audio that was heard")
                yield samples
    except sounddevice.PortAudioError as error:
        raise CorpusError(f"the microphone cannot be opened ({error})") from None
