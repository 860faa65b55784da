"""Everything that reads sound: clips, recordings of any length, pipes, microphones. No torch.

Sound is mono at 16 kHz, (samples,), int16 or float32 from -1 to 1. `read_clip` reads a recording
whole and refuses other formats. The others yield pieces, so that a day takes no more memory than a
minute. What goes wrong is an `AudioError` of one line.
"""

import contextlib
import mmap
import os
import queue
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soundfile

SAMPLE_RATE_HZ = 16000
PIECE_S = 0.08  # of live audio: a step
RATES_HZ = range(1000, 768_001)  # of recordings
SILENT_S = 1.5  # a microphone that gives nothing for so long is gone

_UNKNOWN = 0x7FFF0000  # sizes from here on stand for 'not known yet'
_UNREADABLE = (soundfile.SoundFileError, RuntimeError, OSError, TypeError)
_CONTAINER = re.compile(
    rb"RIFF|riff|RF64|FORM|fLaC|OggS|caff|\.snd|ID3|#!AMR|\x1aE\xdf\xa3|0&\xb2u|....ftyp", re.DOTALL
)
_ARECORD = "arecord -q -f S16_LE -r 16000 -t raw | kws stream CHECKPOINT -"
# What libsndfile's log says of a file that is shorter, or longer, than its header states.
_SIZES = re.compile(r"(?:data|SSND|Data Size|riff)\s*: (\d+) \(should be (\d+)\)")
_ENDS = re.compile(r"match value from 'ds64'|lacks an end-of-stream|Junk after the last page")
_BEHIND = re.compile(
    r"Length : (\d+).*(?:chunk marker \(\w+\)|Have 0 marker) at position (\d+)", re.S
)


class AudioError(ValueError):
    """Sound that cannot be used; the message is one line."""


class _Recording(soundfile.SoundFile):
    """Reads to the end of the file, whatever length the header states, and never seeks."""

    def seekable(self) -> bool:
        return False


def to_int16(samples: np.ndarray) -> np.ndarray:
    """Samples from -1 to 1, of any shape, as int16: rounded, and clipped at both ends."""
    return np.clip(np.round(samples * 32768), -32768, 32767).astype(np.int16)


def to_float(samples: np.ndarray) -> np.ndarray:
    """int16 samples of any shape as float32 from -1 to 1; float32 ones as they are."""
    return samples / np.float32(32768) if samples.dtype == np.int16 else samples


def read_clip(path: Path, longest: int | None = None) -> np.ndarray:
    """(samples,) int16 of a 16 kHz mono recording of at most `longest` samples, of which not many
    more are read. `AudioError` says why one cannot be used; it does not name the file."""
    pieces = []
    with _open(path) as file:
        if (file.channels, file.samplerate) != (1, SAMPLE_RATE_HZ):
            raise AudioError(f"{_format(file)}; it must be 1 channel, 16,000 Hz")
        for piece in _pieces(file):
            pieces.append(piece[:, 0])
            if longest is not None and sum(map(len, pieces)) > longest:
                raise AudioError(f"longer than {longest / SAMPLE_RATE_HZ:g} s")
    samples = np.concatenate(pieces)
    if not len(samples) or not np.isfinite(samples).all():
        raise AudioError("holds samples that are no numbers" if len(samples) else "empty")
    return samples if samples.dtype == np.int16 else to_int16(samples)


def blocks(path: Path, say: Callable[[str], None]) -> Iterator[np.ndarray]:
    """Pieces of a recording of any format, rate and number of channels. `say` is told in one line
    of every change. One that is damaged or cut off is an `AudioError` after its last piece."""
    try:
        with _open(path, say) as file:
            if file.samplerate not in RATES_HZ:
                raise AudioError(f"{_format(file)}; from {RATES_HZ[0]:,} to {RATES_HZ[-1]:,} Hz do")
            if (file.channels, file.samplerate) != (1, SAMPLE_RATE_HZ):
                say(f"{path}: {_format(file)}, mixed and resampled to 1 channel, 16,000 Hz")
            yield from resample(map(_mix, _pieces(file)), file.samplerate)
    except AudioError as error:
        raise AudioError(f"{path}: {error}") from None


def resample(pieces: Iterator[np.ndarray], rate_hz: int) -> Iterator[np.ndarray]:
    """Pieces (samples,) of any size at a rate -> pieces at 16 kHz, as if resampled whole."""
    import soxr

    if rate_hz == SAMPLE_RATE_HZ:
        yield from pieces
        return
    stream = soxr.ResampleStream(rate_hz, SAMPLE_RATE_HZ, 1, dtype="float32")
    for piece in pieces:
        yield stream.resample_chunk(to_float(piece))
    yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def from_pcm(file) -> Iterator[np.ndarray]:
    """Raw 16 kHz mono PCM16, little-endian, as it arrives on a binary file such as standard input.
    Terminals are refused, and recordings that begin with the header of a common format."""
    if file is None or file.isatty():
        raise AudioError(f"no audio on standard input; pipe it in: {_ARECORD}")
    with contextlib.suppress(OSError):  # it has no descriptor; else it may say 'nothing yet'
        os.set_blocking(file.fileno(), True)
    piece, rest = file.read(12), b""
    if _CONTAINER.match(piece):
        raise AudioError(
            "standard input is a recording, not raw 16 kHz PCM16; name it as a file, or "
            "convert it: ffmpeg -i FILE -f s16le -ar 16000 -ac 1 - | kws stream CHECKPOINT -"
        )
    while piece:
        rest += piece
        even = len(rest) // 2 * 2
        yield np.frombuffer(rest[:even], "<i2")
        rest, piece = rest[even:], file.read1(2 * int(PIECE_S * SAMPLE_RATE_HZ))


def from_microphone(say: Callable[[str], None], device: str | None = None) -> Iterator[np.ndarray]:
    """A microphone, for ever; needs the extra `kwslib[microphone]`. `device`: its number or part of
    its name. `say` is told if audio was lost, since times count only audio that arrived. One that
    goes away is an `AudioError`. It is heard at its own rate, and resampled."""
    try:
        import sounddevice
    except (ImportError, OSError) as error:
        problem = f"no microphone ({error}); install kwslib[microphone] and PortAudio"
        raise AudioError(f"{problem}, or pipe audio in: {_ARECORD}") from None
    arrived = queue.SimpleQueue()

    def keep(samples, _count, _time, status):
        arrived.put((_mix(samples), status))

    def live():
        while True:
            samples, status = arrived.get(timeout=SILENT_S)
            if status:
                say(f"microphone: {status}; times count only audio that arrived")
            yield samples

    try:
        device = int(device) if str(device).isdigit() else device
        about = sounddevice.query_devices(device, "input")
        rate_hz, channels = int(about["default_samplerate"]), min(2, about["max_input_channels"])
        size = int(PIECE_S * rate_hz)
        with sounddevice.InputStream(rate_hz, size, device, channels, "float32", callback=keep):
            yield from resample(live(), rate_hz)
    except queue.Empty:
        problem = f"it has given nothing for {SILENT_S:g} s; was it unplugged?"
    except (sounddevice.PortAudioError, ValueError) as error:
        problem = f"it cannot be opened ({error});"
    raise AudioError(f"microphone: {problem} --device chooses another")


def _open(path: Path, say: Callable[[str], None] = lambda line: None) -> soundfile.SoundFile:
    """A recording. A WAV without a size, as of a killed recorder, is read to its end."""
    if not Path(path).is_file():
        raise AudioError("no such file")
    try:
        file = _Recording(os.fsencode(path))
        if file.frames == 0 and file.format in ("WAV", "WAVEX"):
            with open(path, "rb") as disk:
                memory = mmap.mmap(disk.fileno(), 0, access=mmap.ACCESS_COPY)
            at = memory.find(b"data\0\0\0\0", 0, 1 << 16)
            if 0 < at < len(memory) - 8:
                size = min(len(memory) - at - 8, _UNKNOWN)
                memory[at + 4 : at + 8] = size.to_bytes(4, "little")
                file = _Recording(memory)
                say(f"{path}: its header states no length; read to the end of the file")
        return file
    except _UNREADABLE as error:
        problem = f"not readable as audio ({type(error).__name__})"
        raise AudioError(f"{problem}; try ffmpeg -i FILE -ar 16000 -ac 1 FILE.wav") from None


def _format(file: soundfile.SoundFile) -> str:
    return f"{file.channels} channel{'s' * (file.channels > 1)}, {file.samplerate:,} Hz"


def _pieces(file: soundfile.SoundFile) -> Iterator[np.ndarray]:
    """(samples, channels) blocks at the file's rate: int16 where its samples are whole numbers. A
    bad end is an `AudioError` after the last."""
    is_float = file.subtype in ("FLOAT", "DOUBLE", "VORBIS", "OPUS") or "MPEG" in file.subtype
    kind, count, piece = "float32" if is_float else "int16", 0, [0]
    while len(piece):
        try:
            piece = file.read(1 << 14, kind, always_2d=True)
        except _UNREADABLE:
            raise AudioError(f"damaged after {count / file.samplerate:.1f} s") from None
        count += len(piece)
        yield piece
    _check_end(file, count)


def _mix(piece: np.ndarray) -> np.ndarray:
    """(samples, channels) -> (samples,), a copy. Broken floats are mended before they spread."""
    if piece.dtype != np.int16:
        piece = np.clip(np.nan_to_num(piece, nan=0, posinf=0, neginf=0), -1, 1)
    return piece[:, 0] if piece.shape[1] == 1 else to_float(piece).mean(axis=1)


def _check_end(file: soundfile.SoundFile, count: int) -> None:
    """`AudioError` if a recording that gave `count` samples lacks some, or has more behind them.
    libsndfile reads such files without complaint, but its log says what it found."""
    log, count_s = file.extra_info, count / file.samplerate
    slack = 0.1 * file.samplerate + 0.01 * file.frames if "MPEG" in file.subtype else 0  # estimated
    sizes = [tuple(map(int, found)) for found in _SIZES.findall(log)]
    is_cut = any(there < said < _UNKNOWN for said, there in sizes) or _ENDS.search(log)
    if is_cut or count + slack < file.frames < 1 << 62:
        raise AudioError(f"cut off: {count_s:.1f} s are there, the rest is missing")
    behind = _BEHIND.search(log)
    if behind and (unheard_bytes := int(behind[1]) - int(behind[2])) > 4096:
        problem = f"its header ends it at {count_s:.1f} s"
        raise AudioError(f"{problem}; {unheard_bytes:,} bytes behind that are not heard")
