"""Recordings and sentences as inputs: what they become, and what is told of those that do not serve."""

import os
import struct
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecloud import tasks_edge_api
from edgecloud.client.config import EdgeConfig
from edgecloud.client.edge import read_input
from edgecloud.engine import calibration
from edgecloud.engine.answers import is_same_top, rank, rank_rows, top_of
from edgecloud.models import audio, inputs, registry, text
from edgecloud.models.registry import Entry
from edgecloud.tasks.fleet import inputs_for
from edgecloud.tasks.fleet import read_input as read_task
from edgecloud.utils.errors import UsageError
from tests.conftest import CallEdge, CloudProcess, at, call

Samples = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def tone(seconds: float, rate: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """A sound that changes: 220 and 660 Hz, swelling three times a second."""
    t = np.arange(round(seconds * rate)) / rate
    found = (np.sin(2 * np.pi * 220 * t) + 0.5 * np.sin(2 * np.pi * 660 * t)) * (1.2 + np.sin(2 * np.pi * 3 * t)) / 4
    return np.asarray(found)


def write(path: Path, seconds: float = 1.5, rate: int = 16_000, channels: int = 1, width: int = 2) -> Path:
    """A real .wav file."""
    samples = np.round(tone(seconds, rate) * 32767).astype("<i2")
    data = np.repeat(samples[:, None], channels, 1).tobytes() if width == 2 else bytes(width * channels * len(samples))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(data)
    return path


# --- recordings


@pytest.mark.parametrize(("rate", "channels"), [(44_100, 2), (8_000, 1), (48_000, 1), (22_050, 2)])
def test_any_rate_and_stereo_give_nearly_the_same_features(tmp_path: Path, rate: int, channels: int) -> None:
    plain = audio.read_wav(write(tmp_path / "plain.wav"))
    other = audio.read_wav(write(tmp_path / "other.wav", rate=rate, channels=channels))
    assert len(other.samples) == audio.NEEDED
    middle = slice(100, audio.NEEDED - 100)  # the filter of the resampling has nothing to go on with at the ends
    np.testing.assert_allclose(other.samples[middle], plain.samples[middle], atol=0.01)
    assert audio.features(other).shape == (1, 100, 440)


def test_the_loudest_band_is_that_of_the_tone() -> None:
    """1 kHz lies in band 14 of 40 triangles from 20 Hz to 8 kHz, by the formula of the mel scale."""
    t = np.arange(audio.NEEDED) / audio.RATE
    bands = audio.log_mel(np.sin(2 * np.pi * 1000 * t).astype(np.float32))
    assert bands.shape == (100, audio.BANDS)
    mel = 1127 * np.log1p(np.array([20, 1000, 8000]) / 700)
    assert set(bands.argmax(axis=1)) == {round((mel[1] - mel[0]) / (mel[2] - mel[0]) * 41) - 1}


def test_frames_are_spliced_and_normalised() -> None:
    found = audio.features(audio.synthesised())[0].reshape(100, 11, 40)
    np.testing.assert_array_equal(found[50, :, :], found[45:56, 5, :])  # five before, itself, five behind
    np.testing.assert_array_equal(found[0, :5], found[0, 5:6].repeat(5, 0))  # the first stands for those before
    np.testing.assert_allclose(found[:, 5].mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(found[:, 5].std(axis=0), 1, atol=1e-3)


def test_a_short_recording_is_padded_and_a_long_one_cut_and_both_say_so(tmp_path: Path) -> None:
    entry = registry.lookup("kaldi")
    short = inputs.from_audio(write(tmp_path / "short.wav", 0.5), entry.preprocess)
    long = inputs.from_audio(write(tmp_path / "long.wav", 3.0), entry.preprocess)
    assert (len(short.rows), len(long.rows)) == (48, 100)
    assert torch.equal(short.tensor[0, 60], short.tensor[0, 99])
    assert "the first 1.015 s of 3 s" in long.source
    assert "first" not in short.source
    assert long.rows[:2] == ("0.00 s", "0.01 s")


def test_silence_serves(tmp_path: Path) -> None:
    path = tmp_path / "silence.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(bytes(32_000))
    assert np.isfinite(audio.features(audio.read_wav(path))).all()


def head(
    *, kind: int = 1, bits: int = 16, channels: int = 1, rate: int = 16_000, size: int = 0, is_extensible: bool = False
) -> bytes:
    """The head of a .wav file, up to the first sample; `size` is what it promises of them."""
    width = -(-bits // 8)
    fields = struct.pack("<HHIIHH", kind, channels, rate, rate * width * channels, width * channels, bits)
    if is_extensible:
        fields = struct.pack("<H", 0xFFFE) + fields[2:] + struct.pack("<HHIH", 22, bits, 0, kind) + GUID
    form = b"fmt " + struct.pack("<I", len(fields)) + fields
    return b"RIFF" + struct.pack("<I", size) + b"WAVE" + form + b"data" + struct.pack("<I", size)


GUID = bytes.fromhex("000000001000800000aa00389b71")


def written(samples: Samples, kind: int, bits: int) -> bytes:
    """Samples from -1 to 1 as a file has them."""
    if kind == 3:
        return samples.astype(f"<f{bits // 8}").tobytes()
    if bits == 8:
        return np.round(samples * 127 + 128).astype(np.uint8).tobytes()
    whole = np.round(samples * (2.0 ** (bits - 1) - 1)).astype("<i4")
    return whole.view(np.uint8).reshape(-1, 4)[:, : bits // 8].tobytes()


@settings(max_examples=80, deadline=None)
@given(
    form=st.sampled_from([(1, 8), (1, 16), (1, 24), (1, 32), (3, 32), (3, 64)]),
    channels=st.sampled_from([1, 2]),
    is_extensible=st.booleans(),
    size=st.sampled_from(["true", "zero", "ones", "less", "more", "int max"]),
    whole=st.sampled_from([0, 1, 36, 0xFFFFFFFF]),
    before=st.lists(st.sampled_from([b"LIST", b"JUNK", b"bext", b"fact", b"PAD "]), max_size=3),
    odd=st.integers(0, 9),
    is_padded=st.booleans(),
    behind=st.sampled_from([b"", b"LIST\x04\x00\x00\x00INFO", b"\x00"]),
)
def test_whatever_the_head_says_the_sound_in_the_file_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    form: tuple[int, int],
    channels: int,
    is_extensible: bool,
    size: str,
    whole: int,
    before: list[bytes],
    odd: int,
    is_padded: bool,
    behind: bytes,
) -> None:
    sound = tone(0.5, 16_000)
    data = written(np.repeat(sound[:, None], channels, 1), *form)
    promised = {"true": len(data), "zero": 0, "ones": 0xFFFFFFFF, "less": 100, "more": 2 * len(data)}
    start = bytearray(head(kind=form[0], bits=form[1], channels=channels, is_extensible=is_extensible))
    start[4:8] = struct.pack("<I", whole)
    start[-4:] = struct.pack("<I", promised.get(size, 0x7FFFFFFF))
    for name in before:
        padding = b"\x00" if is_padded and odd % 2 else b""
        start[12:12] = name + struct.pack("<I", odd) + bytes(odd) + padding
    path = tmp_path_factory.getbasetemp() / "drawn.wav"
    path.write_bytes(bytes(start) + data + (behind if size == "true" else b""))
    found = audio.read_wav(path)
    assert found.whole_s == pytest.approx(0.5)
    np.testing.assert_allclose(found.samples, sound, atol=0.01)
    assert found.note == ("truncated, its header declares 1 s" if size == "more" else "")


def test_a_recording_that_breaks_off_is_read_and_that_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", 1.5)
    path.write_bytes(path.read_bytes()[: 44 + 2 * 8000 + 1])  # in the middle of a sample
    found = inputs.from_audio(path, registry.lookup("kaldi").preprocess)
    assert "truncated, its header declares 1.5 s" in found.source
    assert len(found.rows) == 48


def test_the_other_byte_order_and_a_container_that_is_wider_than_its_samples(tmp_path: Path) -> None:
    sound = tone(0.5, 16_000)
    fields = struct.pack(">HHIIHH", 1, 1, 16_000, 32_000, 2, 16)
    data = np.round(sound * 32767).astype(">i2").tobytes()
    whole = b"RIFX\0\0\0\0WAVEfmt " + struct.pack(">I", 16) + fields + b"data" + struct.pack(">I", len(data)) + data
    (tmp_path / "x.wav").write_bytes(whole)
    np.testing.assert_allclose(audio.read_wav(tmp_path / "x.wav").samples, sound, atol=1e-3)
    start = bytearray(head(bits=24))
    start[32:34] = struct.pack("<H", 4)  # bytes of a frame
    data = (np.round(sound * (2.0**23 - 1)).astype("<i4") * 256).tobytes()
    (tmp_path / "y.wav").write_bytes(bytes(start) + data)
    np.testing.assert_allclose(audio.read_wav(tmp_path / "y.wav").samples, sound, atol=1e-3)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([b"", b"RIFF\0\0\0\0WAVE", head()[:-8], head()]))
def test_any_bytes_are_a_recording_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, rest: bytes, start: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.wav"
    path.write_bytes(start + rest)
    with pytest.raises(UsageError) as caught:  # 200 bytes are too short in any form
        audio.read_wav(path)
    assert "\n" not in str(caught.value)


def damaged(folder: Path) -> dict[str, tuple[Path, str]]:
    """Files that do not serve, and what is told of each."""
    whole = write(folder / "whole.wav").read_bytes()
    made = {
        "empty": (b"", "empty or truncated"),
        "text": (b"no sound at all", "RIFF"),
        "cut": (whole[:40], "truncated and contains no samples"),
        "mp3": (b"ID3\x04" + bytes(20), "an MP3 recording: convert it"),
        "flac": (b"fLaC" + bytes(20), "a FLAC recording: convert it"),
        "lfs": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        "mulaw": (head(kind=7, bits=8) + bytes(9000), "mu-law, not PCM: ffmpeg"),
        "adpcm": (head(kind=0x11, bits=4) + bytes(9000), "IMA ADPCM, not PCM: ffmpeg"),
        "nan": (head(kind=3, bits=32) + np.full(9000, np.nan, "<f4").tobytes(), "contains NaN or infinity"),
        "no samples": (head(size=0), "lasts 0 s"),
    }
    for name, (data, _) in made.items():
        (folder / f"{name}.wav").write_bytes(data)
    os.mkfifo(folder / "pipe.wav")
    return {name: (folder / f"{name}.wav", told) for name, (_, told) in made.items()} | {
        "none": (folder / "none.wav", "no file"),
        "pipe": (folder / "pipe.wav", "not a file"),
        "six channels": (write(folder / "c6.wav", channels=6), "6 channels"),
        "0 s": (write(folder / "zero.wav", 0.0), "lasts 0 s"),
        "10 ms": (write(folder / "short.wav", 0.01), "lasts 0.01 s"),
        "700 s": (write(folder / "long.wav", 700, 4_000), "lasts 700 s"),
        "rate": (write(folder / "rate.wav", 1.0, 100), "100 samples per second"),
    }


def test_files_that_do_not_serve_get_one_line_each(tmp_path: Path) -> None:
    for name, (path, told) in damaged(tmp_path).items():
        with pytest.raises(UsageError, match=told) as caught:
            audio.read_wav(path)
        assert path.name in str(caught.value), name
        assert "\n" not in str(caught.value)


# --- sentences


def test_a_window_holds_the_words_around_its_own() -> None:
    found = text.windows("pos", "the Cat sat")[0].reshape(text.WORDS, 5, 60)
    alone = text.windows("pos", "Cat")[0].reshape(text.WORDS, 5, 60)
    padding = alone[5, 2]
    assert found.shape == (28, 5, 60)
    np.testing.assert_array_equal(found[1, 2], alone[0, 2])  # Cat, in the middle of its own window
    np.testing.assert_array_equal(found[0, 3], alone[0, 2])  # and right of that of `the`
    np.testing.assert_array_equal(found[0, :2], [padding, padding])
    np.testing.assert_array_equal(found[3, :2], [found[1, 2], found[2, 2]])
    assert not np.array_equal(found[0, 2], found[2, 2])


def test_features_tell_words_apart() -> None:
    def vector(task: text.Task, word: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return np.asarray(text.windows(task, word)[0, 0].reshape(5, -1)[2])

    lower, upper = vector("pos", "cat"), vector("pos", "CAT")
    np.testing.assert_array_equal(lower[:50], upper[:50])  # one word ...
    assert not np.array_equal(lower[50:55], upper[50:55])  # ... written in two ways
    np.testing.assert_array_equal(lower[55:], upper[55:])
    np.testing.assert_array_equal(vector("pos", "1984")[:50], vector("pos", "2001")[:50])
    london, table = vector("ner", "london"), vector("ner", "table")
    assert len(london) == 75
    assert not np.array_equal(london[55:60], table[55:60])  # a place, and none
    np.testing.assert_array_equal(london[60:], table[60:])
    np.testing.assert_array_equal(vector("chk", "the")[55:], vector("chk", "a")[55:])  # both articles


def test_vectors_are_the_same_on_every_machine() -> None:
    found = text.windows("ner", text.SAMPLE)
    assert round(float(found.astype(np.float64).sum()), 3) == -1455.536
    assert 0.9 < found.std() < 1.1


@pytest.mark.parametrize(
    ("sentence", "told"), [("", "no word"), (" \t\n", "no word"), ("a " * 29, "29 words"), ("a" * 2001, "2001 char")]
)
def test_sentences_that_do_not_serve(sentence: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        text.words_of(sentence)


# --- which network takes what


def test_the_wrong_kind_of_input_is_named(tmp_path: Path) -> None:
    sound, picture = write(tmp_path / "a.wav"), Path("models/zoo/face.jpg")
    wrong: list[tuple[str, EdgeConfig, str]] = [
        ("kaldi", EdgeConfig("", image=picture), "kaldi does not take an image: it takes a recording"),
        ("alex_net", EdgeConfig("", text="hello"), "alex_net does not take a sentence: it takes an image"),
        ("senna_pos", EdgeConfig("", audio=sound), "senna_pos does not take a recording: it takes a sentence"),
    ]
    for name, config, told in wrong:
        with pytest.raises(UsageError, match=told):
            read_input(config, registry.lookup(name))


def test_tasks_have_recordings_and_sentences_too(tmp_path: Path) -> None:
    entry: Callable[[str], Entry] = registry.lookup
    sound = str(write(tmp_path / "a.wav"))
    assert read_task(entry("kaldi"), sound).tensor.shape == (1, 100, 440)
    assert read_task(entry("senna_ner"), "text:Ada left London .").rows == ("Ada", "left", "London", ".")
    for name, source in (("kaldi", "text:hello"), ("senna_pos", sound), ("senna_pos", "a.png"), ("le_net", sound)):
        with pytest.raises(UsageError, match=f"{name} does not take"):
            read_task(entry(name), source)
    assert inputs_for("kaldi", ["a.png"]) == [""]
    assert inputs_for("le_net", ["a.png"]) == ["a.png"]


def test_what_takes_no_pictures_is_not_calibrated() -> None:
    with pytest.raises(UsageError, match="kaldi does not take images"):
        calibration.calibrate("kaldi", "default", "cpu", 1, None, lambda *_: None)


# --- over real processes


def test_a_sentence_and_a_recording_travel_and_every_row_is_answered(
    cloud: CloudProcess, edge: CallEdge, tmp_path: Path
) -> None:
    where = (*at(cloud), "--json", "--verify", "--repeat", "1", "--warm-up", "0")
    done = edge("-t", "senna_ner", "--text", "Ada left London .", "--point", "0", *where)
    assert done.code == 0, done.stderr
    found = done.document
    assert found["verify"]["matches"]
    assert (found["completed_by"], found["plan"]["codec"] in ("raw", "zstd")) == ("cloud", True)
    assert [row["row"] for row in found["result"]["rows"]] == ["Ada", "left", "London", "."]
    assert found["result"]["shape"] == [1, 28, 17]
    assert found["result"]["top"][0]["label"] == found["result"]["rows"][0]["label"]
    path = write(tmp_path / "a.wav", 2.0, 44_100, 2)
    done = edge("-t", "kaldi", "--audio", str(path), "--point", "4", *where)
    assert done.code == 0, done.stderr
    assert done.document["verify"]["matches"]
    assert len(done.document["result"]["rows"]) == 100
    assert done.document["input"] == f"audio:{path}, the first 1.015 s of 2 s"


def test_scripts_say_what_is_wrong_in_one_line(
    cache: Path, edge: CallEdge, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = write(tmp_path / "c6.wav", channels=6)
    done = edge("-t", "kaldi", "--audio", str(bad), "--json")
    assert done.code == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "6 channels" in done.document["error"]["message"]
    tasks = tmp_path / "tasks.csv"
    tasks.write_text("model,input\nsenna_pos,models/zoo/face.jpg\n")
    done = call(tasks_edge_api.main, ["-p", "1", "--cache-dir", str(cache), "--tasks-file", str(tasks)], capsys)
    assert done.code == 2
    assert "senna_pos does not take an image" in done.stderr


def test_several_rows_are_compared_one_by_one() -> None:
    answer = np.array([[[0.0, 3.0, 1.0], [5.0, 0.0, 1.0]]], np.float32)
    other = answer.copy()
    other[0, 1] = [0.0, 1.0, 5.0]  # the second row says something else
    assert not is_same_top([answer], [other])
    assert is_same_top([answer], [answer * 2])
    assert top_of(answer) == 1
    assert [ranked.index for ranked in rank(answer, ())] == [1, 2, 0]
    assert [(name, ranked.label) for name, ranked in rank_rows(answer, ("a", "b", "c"), ("one",))] == [("one", "b")]
    assert [(name, ranked.index) for name, ranked in rank_rows(answer, (), ())] == [("1", 1), ("2", 0)]
    assert rank_rows(answer[:, 0], (), ()) == ()
