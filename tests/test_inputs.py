import io
import os
import sys
import threading
import time

import numpy as np
import pytest
import soundfile
import soxr
from scipy.signal import resample_poly

from kwslib import inputs
from kwslib.data import CorpusError


@pytest.fixture
def said():
    return []


def heard(path, said):
    pieces = list(inputs.from_file(path, said.append))
    return np.concatenate(pieces)


@pytest.fixture
def audio():
    """10 s of noise under 6 kHz, float."""
    spectrum = np.fft.rfft(np.random.default_rng(0).normal(0, 0.1, 160000))
    spectrum[60000:] = 0
    return np.fft.irfft(spectrum).astype(np.float32)


def test_a_plain_file_comes_as_it_is(tmp_path, audio, said):
    samples = np.round(audio * 32767).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", samples, 16000)
    found = heard(tmp_path / "a.wav", said)
    assert found.dtype == np.int16 and np.array_equal(found, samples)
    assert said == []


@pytest.mark.parametrize("rate_hz", [8000, 11025, 22050, 44100, 48000])
def test_pieces_are_resampled_as_the_whole_would_be(rate_hz, audio, said):
    rates = {8000: (1, 2), 11025: (441, 640), 22050: (441, 320), 44100: (441, 160), 48000: (3, 1)}
    there = resample_poly(audio, *rates[rate_hz]).astype(np.float32)
    up, down = rates[rate_hz][::-1]
    whole, reference = soxr.resample(there, rate_hz, 16000), resample_poly(there, up, down)
    cuts = np.sort(np.random.default_rng(1).integers(0, len(there), 6))
    found = np.concatenate(list(inputs.resampled(iter(np.split(there, cuts)), rate_hz)))
    assert abs(len(found) - len(reference)) <= 1
    np.testing.assert_allclose(found, whole, atol=1e-6)
    both = min(len(found), len(reference))
    assert np.std(found[:both] - reference[:both]) < (0.02 if rate_hz > 16000 else 0.15) * np.std(
        reference
    )  # other filters


def test_other_rates_and_channels_are_changed_and_said(tmp_path, audio, said):
    there = resample_poly(audio, 3, 1)
    soundfile.write(tmp_path / "a.flac", np.stack([there, 0.5 * there], 1), 48000)
    found = heard(tmp_path / "a.flac", said)
    assert len(found) == 160000
    assert np.corrcoef(found, audio)[0, 1] > 0.999
    assert found.std() == pytest.approx(0.75 * audio.std(), rel=0.01)
    assert len(said) == 2 and "2 channels, mixed to one" in said[0]
    assert "48,000 Hz, resampled to 16,000 Hz" in said[1]


def test_floats_keep_their_fraction(tmp_path, audio, said):
    soundfile.write(tmp_path / "a.wav", audio, 16000, subtype="FLOAT")
    np.testing.assert_array_equal(heard(tmp_path / "a.wav", said), audio)


def test_what_cannot_be_heard_is_one_line(tmp_path, audio, said):
    with pytest.raises(CorpusError, match=r"no file 'nowhere\.wav'"):
        heard("nowhere.wav", said)
    (tmp_path / "b.wav").write_bytes(b"RIFF no audio")
    with pytest.raises(CorpusError, match="not readable as audio"):
        heard(tmp_path / "b.wav", said)
    (tmp_path / "b.raw").write_bytes(bytes(1000))
    with pytest.raises(CorpusError, match=r"raw audio is piped in: kws stream CHECKPOINT - < b\.raw"):
        heard(tmp_path / "b.raw", said)
    soundfile.write(tmp_path / "c.wav", audio, 16000)
    whole = (tmp_path / "c.wav").read_bytes()
    (tmp_path / "c.wav").write_bytes(whole[: len(whole) // 2])
    pieces, there = inputs.from_file(tmp_path / "c.wav", said.append), []
    with pytest.raises(CorpusError, match=r"cut off: 5\.0 of the 10\.0 s"):
        there.extend(pieces)
    assert sum(map(len, there)) == pytest.approx(80000, abs=50)  # what there is is heard


def test_what_a_file_lacks_is_not_made_up(tmp_path, audio, said):
    """An MP3 without its length in the header, cut in half: libsndfile estimates too many frames."""
    soundfile.write(tmp_path / "a.mp3", audio, 16000)
    whole = (tmp_path / "a.mp3").read_bytes()
    (tmp_path / "half.mp3").write_bytes(whole[: len(whole) // 2])
    with soundfile.SoundFile(tmp_path / "half.mp3") as file:
        there = file.read(dtype="float32")
    assert 60000 < len(there) < 100000
    found = heard(tmp_path / "half.mp3", said)
    assert len(found) == len(there) and "MP3" in said[0]
    np.testing.assert_array_equal(found[:60000], there[:60000])  # the last frame is cut through


def test_a_damaged_file_is_heard_as_far_as_it_goes(tmp_path, audio, said):
    soundfile.write(tmp_path / "a.flac", audio, 16000)
    whole = (tmp_path / "a.flac").read_bytes()
    (tmp_path / "a.flac").write_bytes(whole[: len(whole) * 3 // 4])
    there, pieces = [], inputs.from_file(tmp_path / "a.flac", said.append)
    with pytest.raises(CorpusError, match=r"a\.flac: damaged after [4-7]\.\d"):
        there.extend(pieces)
    there = np.concatenate(there)
    assert len(there) > 60000
    np.testing.assert_allclose(there / 32768, audio[: len(there)], atol=1e-4)


@pytest.mark.parametrize("subtype", ["GSM610", "ULAW", "IMA_ADPCM"])
def test_formats_without_a_place_to_seek_are_heard(tmp_path, audio, said, subtype):
    soundfile.write(tmp_path / "a.wav", audio, 16000, subtype=subtype)
    assert 160000 <= len(heard(tmp_path / "a.wav", said)) < 161000


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFF000])
def test_a_header_that_was_never_closed_promises_nothing(tmp_path, audio, said, size):
    samples = np.round(audio * 32767).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", samples, 16000)
    content = bytearray((tmp_path / "a.wav").read_bytes())
    at = content.index(b"data") + 4
    content[at : at + 4] = size.to_bytes(4, "little")
    (tmp_path / "a.wav").write_bytes(content)
    assert np.array_equal(heard(tmp_path / "a.wav", said), samples)


def test_odd_names_and_no_files(tmp_path, audio, said):
    name = os.fsdecode(b"b\xff d.wav")
    soundfile.write(tmp_path / "a.wav", audio, 16000)
    (tmp_path / "a.wav").rename(tmp_path / name)
    assert len(heard(tmp_path / name, said)) == 160000
    with pytest.raises(CorpusError, match="is no file of audio"):
        heard(tmp_path, said)


def test_a_rate_that_cannot_be_is_refused_at_once(tmp_path, audio, said):
    soundfile.write(tmp_path / "a.wav", audio, 16000)
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[24:28] = (20_000_003).to_bytes(4, "little")
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(CorpusError, match="20,000,003 Hz; it must be"):
        heard(tmp_path / "a.wav", said)


@pytest.mark.parametrize("broken", [np.nan, np.inf, 1e30])
def test_a_broken_sample_stays_where_it_is(tmp_path, audio, said, broken):
    """Silence or full scale, not spread by resampling."""
    there = resample_poly(audio, 3, 1)
    there[240000] = broken
    soundfile.write(tmp_path / "a.wav", there, 48000, subtype="FLOAT")
    found = heard(tmp_path / "a.wav", said)
    assert np.isfinite(found).all() and np.abs(found).max() < 2
    assert np.abs(found - audio)[np.r_[1000:79000, 81000:159000]].max() < 0.01


def test_what_is_no_raw_audio_is_refused(tmp_path, audio):
    soundfile.write(tmp_path / "a.flac", audio, 16000)
    with pytest.raises(CorpusError, match=r"a recording \(fLaC\), not raw"):
        list(inputs.from_pcm(io.BytesIO((tmp_path / "a.flac").read_bytes())))
    with pytest.raises(CorpusError, match="standard input is closed"):
        list(inputs.from_pcm(None))
    for few in (b"", b"a", b"ab", b"abc"):
        assert sum(map(len, inputs.from_pcm(io.BytesIO(few)))) == len(few) // 2


def test_a_pipe_that_has_nothing_yet_is_waited_for():
    reading, writing = os.pipe()
    os.set_blocking(reading, False)

    def write():
        for _ in range(3):
            time.sleep(0.1)
            os.write(writing, bytes(3200))
        os.close(writing)

    thread = threading.Thread(target=write)
    thread.start()
    with open(reading, "rb") as file:
        assert sum(map(len, inputs.from_pcm(file))) == 4800
    thread.join()


def test_pcm_comes_whole_however_it_is_read():
    samples = np.random.default_rng(0).integers(-30000, 30000, 5000).astype("<i2")

    class Dribble(io.BytesIO):
        """Gives odd numbers of bytes."""

        def read1(self, size):
            return self.read(min(size, 777))

    found = np.concatenate(list(inputs.from_pcm(Dribble(samples.tobytes() + b"x"))))
    assert np.array_equal(found, samples)


def test_without_sounddevice_the_microphone_says_what_to_install(monkeypatch, said):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(CorpusError, match=r"kwslib\[microphone\].*arecord"):
        next(inputs.from_microphone(said.append))


def test_the_microphone_s_blocks_come_in_order(monkeypatch, said):
    class Stream:
        def __init__(self, rate_hz, block, channels, dtype, callback):
            assert (rate_hz, block, channels, dtype) == (16000, 1280, 1, "int16")
            self.callback = callback

        def __enter__(self):
            for number in range(3):
                status = "input overflow" if number == 1 else ""
                self.callback(np.full((1280, 1), number, np.int16), 1280, None, status)

        def __exit__(self, *_):
            pass

    class Device:
        InputStream, PortAudioError = Stream, RuntimeError

    monkeypatch.setitem(sys.modules, "sounddevice", Device)
    microphone = inputs.from_microphone(said.append)
    assert [int(next(microphone)[0]) for _ in range(3)] == [0, 1, 2]
    assert said == ["microphone: input overflow; times are of the audio that was heard"]
