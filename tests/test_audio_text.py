"""Recordings and sentences as inputs: what they become, and what is told of those that do not serve."""

import os
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import tasks_edge_api
from models import audio, inputs, registry, text
from models.registry import Entry
from runtime import calibration
from runtime.answers import is_same_top, rank, rank_rows, top_of
from runtime.edge import EdgeConfig, read_input
from runtime.fleet import inputs_for
from runtime.fleet import read_input as read_task
from tests.conftest import CallEdge, CloudProcess, at, call
from utils.errors import UsageError


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
    entry = registry.find("kaldi")
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


def damaged(folder: Path) -> dict[str, tuple[Path, str]]:
    """Files that do not serve, and what is told of each."""
    whole = write(folder / "whole.wav").read_bytes()
    made = {"empty": (b"", "empty or cut off"), "text": (b"no sound at all", "RIFF"), "cut": (whole[:5000], "cut off")}
    for name, (data, _) in made.items():
        (folder / f"{name}.wav").write_bytes(data)
    os.mkfifo(folder / "pipe.wav")
    return {name: (folder / f"{name}.wav", told) for name, (_, told) in made.items()} | {
        "none": (folder / "none.wav", "no file"),
        "pipe": (folder / "pipe.wav", "not a file"),
        "24 bits": (write(folder / "w24.wav", width=3), "24 bits"),
        "8 bits": (write(folder / "w8.wav", width=1), "8 bits"),
        "six channels": (write(folder / "c6.wav", channels=6), "6 channels"),
        "0 s": (write(folder / "zero.wav", 0.0), "lasts 0 s"),
        "10 ms": (write(folder / "short.wav", 0.01), "lasts 0.01 s"),
        "700 s": (write(folder / "long.wav", 700, 4_000), "lasts 700 s"),
        "rate": (write(folder / "rate.wav", 1.0, 100), "100 samples a second"),
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
        ("kaldi", EdgeConfig("", image=picture), "kaldi does not take a picture: it takes a recording"),
        ("alex_net", EdgeConfig("", text="hello"), "alex_net does not take a sentence: it takes a picture"),
        ("senna_pos", EdgeConfig("", audio=sound), "senna_pos does not take a recording: it takes a sentence"),
    ]
    for name, config, told in wrong:
        with pytest.raises(UsageError, match=told):
            read_input(config, registry.find(name))


def test_tasks_have_recordings_and_sentences_too(tmp_path: Path) -> None:
    entry: Callable[[str], Entry] = registry.find
    sound = str(write(tmp_path / "a.wav"))
    assert read_task(entry("kaldi"), sound).tensor.shape == (1, 100, 440)
    assert read_task(entry("senna_ner"), "text:Ada left London .").rows == ("Ada", "left", "London", ".")
    for name, source in (("kaldi", "text:hello"), ("senna_pos", sound), ("senna_pos", "a.png"), ("le_net", sound)):
        with pytest.raises(UsageError, match=f"{name} does not take"):
            read_task(entry(name), source)
    assert inputs_for("kaldi", ["a.png"]) == [""]
    assert inputs_for("le_net", ["a.png"]) == ["a.png"]


def test_what_takes_no_pictures_is_not_calibrated() -> None:
    with pytest.raises(UsageError, match="kaldi takes no pictures"):
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
    bad = write(tmp_path / "w24.wav", width=3)
    done = edge("-t", "kaldi", "--audio", str(bad), "--json")
    assert done.code == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "24 bits" in done.document["error"]["message"]
    tasks = tmp_path / "tasks.csv"
    tasks.write_text("model,input\nsenna_pos,models/zoo/face.jpg\n")
    done = call(tasks_edge_api.main, ["-p", "1", "--cache-dir", str(cache), "--tasks-file", str(tasks)], capsys)
    assert done.code == 2
    assert "senna_pos does not take a picture" in done.stderr


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
