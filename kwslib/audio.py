"""Everything that reads sound: clips, recordings of any length, pipes. No torch.

Sound is mono at 16 kHz, (samples,), int16 or float32 from -1 to 1. Streams come in small pieces.
"""

import mmap
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr

SAMPLE_RATE_HZ = 16000
_UNKNOWN = 0x7FFF0000  # sizes from here on stand for 'not known yet'
_UNREADABLE = (soundfile.SoundFileError, RuntimeError, OSError, TypeError)
_CONTAINER = rb"(?is)RIFF|RF64|FORM|fLaC|OggS|caff|\.snd|ID3|#!AMR|\x1aE\xdf\xa3|0&\xb2u|....ftyp"
# libsndfile reads files that are shorter, or longer, than their headers state; its log says so.
_CUT = re.compile(
    r"(?:data|SSND|Data Size|riff)\s*: (\d+) \(should be (\d+)\)"
    "|match value from 'ds64'|lacks an end-of-stream|Junk after the last page"
)
_BEHIND = re.compile(r"Length : (\d+).*marker(?: \(\w+\))? at position (\d+)", re.DOTALL)


class AudioError(ValueError):
    """Sound that cannot be used; the message is one line."""


class _Recording(soundfile.SoundFile):
    """Reads to the end of the file, whatever length the header states, and never seeks."""

    def seekable(self) -> bool:
        return False


def to_int16(samples: np.ndarray) -> np.ndarray:
    """Samples from -1 to 1, of any shape, as int16: rounded, and clipped at both ends."""
    return np.clip(np.round(samples * 32768), -32768, 32767).astype(np.int16)


def read_clip(path: Path, longest: int | None = None) -> np.ndarray:
    """(samples,) int16 of a 16 kHz mono recording of at most `longest` samples. `AudioError` says
    why one cannot be used; it does not name the file."""
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
    return to_int16(samples)


def blocks(path: Path, say: Callable[[str], None]) -> Iterator[np.ndarray]:
    """Pieces (samples,) float32 of a recording of any format, rate and number of channels. `say` is
    told if it is resampled. One that is damaged or cut off is an `AudioError` after its end."""
    try:
        with _open(path) as file:
            if not 1000 <= file.samplerate <= 768_000:
                raise AudioError(f"{_format(file)}; from 1,000 to 768,000 Hz do")
            if (file.channels, file.samplerate) != (1, SAMPLE_RATE_HZ):
                say(f"{path}: {_format(file)}, mixed and resampled to 1 channel, 16,000 Hz")
            resampler = soxr.ResampleStream(file.samplerate, SAMPLE_RATE_HZ, 1)
            for piece in _pieces(file):  # broken samples are mended before they spread
                mended = np.nan_to_num(piece, nan=0, posinf=0, neginf=0).clip(-1, 1)
                yield resampler.resample_chunk(mended.mean(axis=1))
            yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)
    except AudioError as error:
        raise AudioError(f"{path}: {error}") from None


def from_pcm(file) -> Iterator[np.ndarray]:
    """Raw 16 kHz mono PCM16, little-endian, of a binary file that is no terminal or recording."""
    if file is None or file.isatty():
        raise AudioError("no audio on standard input; pipe it in, see kws stream --help")
    piece = file.read(12)
    if re.match(_CONTAINER, piece):
        problem = "standard input is a recording, not raw PCM16; name it as a file, or convert it"
        raise AudioError(f"{problem}: ffmpeg -i FILE -f s16le -ar 16000 -ac 1 - | kws stream ...")
    while piece:
        yield np.frombuffer(piece[: len(piece) // 2 * 2], "<i2")  # half a sample may be the last
        piece = file.read(640)  # 20 ms


def _open(path: Path) -> soundfile.SoundFile:
    """A recording. A WAV without a size, as of a killed recorder, is read to its end."""
    if not Path(path).is_file():
        raise AudioError("no such file")
    try:
        file = _Recording(os.fsencode(path))
        if file.frames == 0 and file.format in ("WAV", "WAVEX"):
            with open(path, "rb") as disk:
                memory = mmap.mmap(disk.fileno(), 0, access=mmap.ACCESS_COPY)
            at = memory.find(b"data\0\0\0\0", 0, 1 << 16) + 4
            if at > 4:
                memory[at : at + 4] = min(len(memory) - at - 4, _UNKNOWN).to_bytes(4, "little")
                file = _Recording(memory)
        return file
    except _UNREADABLE as error:
        problem = f"not readable as audio ({type(error).__name__})"
        raise AudioError(f"{problem}; try ffmpeg -i FILE -ar 16000 -ac 1 FILE.wav") from None


def _format(file: soundfile.SoundFile) -> str:
    return f"{file.channels} channel{'s' * (file.channels > 1)}, {file.samplerate:,} Hz"


def _pieces(file: soundfile.SoundFile) -> Iterator[np.ndarray]:
    """(samples, channels) float32 at the file's rate; then an `AudioError` if its end is bad."""
    count, piece = 0, [0]
    while len(piece):
        try:
            piece = file.read(1 << 14, "float32", always_2d=True)
        except _UNREADABLE:
            raise AudioError(f"damaged after {count / file.samplerate:.1f} s") from None
        count += len(piece)
        yield piece
    log, count_s = file.extra_info, count / file.samplerate
    slack = 0.1 * file.samplerate + 0.01 * file.frames if "MPEG" in file.subtype else 0  # estimated
    is_cut = any(not said or int(there) < int(said) < _UNKNOWN for said, there in _CUT.findall(log))
    if is_cut or count + slack < file.frames < 1 << 62:
        raise AudioError(f"cut off: {count_s:.1f} s are there, the rest is missing")
    behind = _BEHIND.search(log)
    if behind and (unheard_bytes := int(behind[1]) - int(behind[2])) > 4096:
        raise AudioError(f"its header ends it at {count_s:.1f} s; {unheard_bytes:,} bytes unheard")
