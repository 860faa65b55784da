import io
import os

import numpy as np
import pytest
import soundfile
import soxr
from scipy.signal import resample_poly

from kwslib import audio
from kwslib.audio import AudioError

FORMATS = """WAV PCM_16, WAV FLOAT, WAV PCM_24, WAV ULAW, WAV IMA_ADPCM, WAVEX PCM_16, RF64 PCM_16,
    W64 PCM_16, AIFF PCM_16, AU PCM_16, CAF PCM_16, FLAC PCM_16, OGG VORBIS, OGG OPUS,
    MP3 MPEG_LAYER_III"""
FORMATS = [tuple(both.split()) for both in FORMATS.split(",")]
NOISE = np.random.default_rng(0).normal(0, 0.1, 36000).astype(np.float32)
NOISE = soxr.resample(NOISE, 12000, 16000)  # 3 s
INT16 = audio.to_int16(NOISE)


def encode(samples, kind="WAV", subtype="PCM_16", rate_hz=16000):
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format=kind, subtype=subtype)
    return bytearray(file.getvalue())


@pytest.fixture
def keep(tmp_path):
    def keep(content, name="a.wav"):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return keep


@pytest.fixture
def said():
    return []


def read(path, said):
    return np.concatenate(list(audio.blocks(path, said.append)))


def test_int16_rounds_and_clips():
    found = audio.to_int16(np.array([-2, -1, -0.4 / 32768, 0.6 / 32768, 0.5, 1]))
    assert found.dtype == np.int16 and found.tolist() == [-32768, -32768, 0, 1, 16384, 32767]


def test_a_clip_is_soundfile_s_samples(keep):
    for kind in ("WAV", "FLAC"):
        assert np.array_equal(audio.read_clip(keep(encode(INT16, kind))), INT16)
    floats = keep(encode([0.5, -1.0, 1.5, 2**-16], subtype="FLOAT"))
    assert audio.read_clip(floats).tolist() == [16384, -32768, 32767, 0]


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "not readable as audio"),
        (b"RIFF no audio", "not readable as audio .* try ffmpeg"),
        (encode(NOISE[:0]), "empty"),
        (encode(np.stack([NOISE, NOISE], 1), rate_hz=44100), "2 channels, 44,100 Hz"),
        (encode(NOISE[:16001]), "longer than 1 s"),
        (encode([0.5, np.nan], subtype="FLOAT"), "no numbers"),
    ],
)
def test_a_clip_that_cannot_be_used_says_why(keep, content, reason):
    with pytest.raises(AudioError, match=reason):
        audio.read_clip(keep(content), 16000)


@pytest.mark.parametrize("frames", [0, 2**36 - 1])
def test_a_flac_without_a_true_length_is_read_to_its_end_or_refused(keep, frames):
    content = encode(INT16[:16000], "FLAC")
    content[18:26] = (int.from_bytes(content[18:26], "big") >> 36 << 36 | frames).to_bytes(8, "big")
    if frames:
        with pytest.raises(AudioError, match=r"cut off: 1\.0 s are there"):
            audio.read_clip(keep(content), 16000)
    else:
        assert np.array_equal(audio.read_clip(keep(content), 16000), INT16[:16000])


@pytest.mark.parametrize("kind, subtype", FORMATS)
def test_what_is_cut_off_is_refused_and_what_is_whole_is_not(keep, said, kind, subtype):
    for samples in (8000, 24000):
        content = encode(NOISE[:samples], kind, subtype)
        path = keep(content)
        assert samples <= len(audio.read_clip(path)) == len(read(path, said)) < samples + 1024
        for share in (0.4, 0.8):
            path, pieces = keep(content[: int(share * len(content))]), []
            with pytest.raises(AudioError, match=r"cut off|damaged|not readable"):
                audio.read_clip(path)
            with pytest.raises(AudioError, match=r"a\.wav: (cut off|damaged|not readable)"):
                pieces.extend(audio.blocks(path, said.append))
            assert sum(map(len, pieces)) < samples
    assert said == []


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFF000])
def test_a_wav_whose_header_was_never_closed_is_heard_to_its_end(keep, said, size):
    content = encode(INT16)
    content[40:44] = size.to_bytes(4, "little")
    assert np.array_equal(read(keep(content), said) * 32768, INT16) and said == []


def test_audio_behind_the_stated_end_is_no_success(keep, said):
    content, pieces = encode(NOISE), []
    content[40:44] = (32000).to_bytes(4, "little")
    with pytest.raises(AudioError, match=r"ends it at 1\.0 s; 64,000 bytes unheard"):
        pieces.extend(audio.blocks(keep(content), said.append))
    assert sum(map(len, pieces)) == 16000
    tagged = encode(NOISE) + b"LIST" + (9000).to_bytes(4, "little") + bytes(9000)  # the control
    assert len(read(keep(tagged), said)) == 48000


@pytest.mark.parametrize("rate_hz", [8000, 11025, 44100, 48000])
def test_pieces_are_resampled_as_the_whole_would_be(keep, said, rate_hz):
    there = soxr.resample(NOISE, 16000, rate_hz)
    found = read(keep(encode(there, subtype="FLOAT", rate_hz=rate_hz)), said)
    np.testing.assert_allclose(found, soxr.resample(there, rate_hz, 16000), atol=1e-6)
    if rate_hz > 16000:  # another filter gives nearly the same
        reference = resample_poly(there, *{44100: (160, 441), 48000: (1, 3)}[rate_hz])
        assert np.std(found - reference[: len(found)]) < 0.02 * np.std(reference)


def test_other_rates_and_channels_are_changed_and_said(keep, said):
    there = resample_poly(NOISE, 3, 1)
    found = read(keep(encode(np.stack([there, 0.5 * there], 1), "FLAC", rate_hz=48000)), said)
    assert len(found) == 48000 and np.corrcoef(found, NOISE)[0, 1] > 0.999
    assert found.std() == pytest.approx(0.75 * NOISE.std(), rel=0.01)
    assert len(said) == 1 and "2 channels, 48,000 Hz, mixed and resampled to 1 channel" in said[0]


@pytest.mark.parametrize("broken", [np.nan, np.inf, 1e30])
def test_a_broken_sample_stays_where_it_is(keep, said, broken):
    there = resample_poly(NOISE, 3, 1)
    there[72000] = broken
    found = read(keep(encode(there, subtype="FLOAT", rate_hz=48000)), said)
    assert np.isfinite(found).all() and np.abs(found).max() < 2
    assert np.abs(found - NOISE)[np.r_[1000:23000, 25000:47000]].max() < 0.01


def test_what_cannot_be_heard_is_one_line(keep, said, tmp_path):
    content = encode(NOISE)
    content[24:28] = (20_000_003).to_bytes(4, "little")
    for path, message in {
        tmp_path / "nowhere.wav": r"nowhere\.wav: no such file",
        tmp_path: "no such file",
        keep(bytes(1000), "b.raw"): r"b\.raw: not readable as audio",
        keep(b"....ftypM4A " * 99, "c.m4a"): "not readable as audio .* ffmpeg -i FILE",
        keep(content): "20,000,003 Hz; from 1,000 to 768,000 Hz do",
    }.items():
        with pytest.raises(AudioError, match=message) as caught:
            read(path, said)
        assert "\n" not in str(caught.value)
    odd = os.fsdecode(b"b\xff d.wav")
    assert len(read(keep(encode(NOISE), odd), said)) == 48000


def test_containers_on_a_pipe_are_refused_with_how_to_convert():
    starts = [bytes(encode(NOISE, *both)) for both in FORMATS if both[0] not in ("MP3", "W64")]
    for start in [*starts, b"\0\0\0\x20ftypM4A isom", b"\x1aE\xdf\xa3webm....", b"ID3\x03........"]:
        with pytest.raises(AudioError, match=r"is a recording, not raw .* ffmpeg -i FILE"):
            list(audio.from_pcm(io.BytesIO(start)))


def test_pcm_comes_whole_but_for_half_a_sample_at_the_end():
    content = INT16.astype("<i2").tobytes()
    for size in (0, 1, 2, 3, 13, 777, len(content)):
        found = np.concatenate([INT16[:0], *audio.from_pcm(io.BytesIO(content[:size]))])
        assert np.array_equal(found, INT16[: size // 2])
    with pytest.raises(AudioError, match="no audio on standard input; pipe it in"):
        list(audio.from_pcm(None))
