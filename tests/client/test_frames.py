"""Pictures that keep coming: the newest is taken, what is older is dropped and counted."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgecloud.client import frames
from edgecloud.client.frames import Folder, Frame, inputs_of
from edgecloud.utils.errors import AppError, UsageError
from edgecloud.utils.extras import is_there


def picture(path: Path, shade: int, at_ns: int) -> None:
    """A file that appears whole, and was written at a moment."""
    hidden = path.with_suffix(".part")
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(hidden, "PNG")
    os.utime(hidden, ns=(at_ns, at_ns))
    hidden.rename(path)


def test_only_what_comes_is_taken_the_newest_first_and_the_rest_is_counted(tmp_path: Path) -> None:
    picture(tmp_path / "old.png", 1, 10**18)
    folder = Folder(tmp_path)
    for number, name in enumerate(("b.png", "c.png", "a.png")):
        picture(tmp_path / name, 10 + number, (10**9 + number) * 10**9)
    (tmp_path / "notes.txt").write_text("no picture")
    frame = folder.newest()
    assert frame is not None
    assert (frame.name, frame.number, folder.dropped) == ("a.png", 3, 2)
    assert frame.read().getpixel((0, 0)) == (12, 0, 0)
    picture(tmp_path / "b.png", 99, 2 * 10**18)  # a file that changes is new
    again = folder.newest()
    assert again is not None
    assert (again.name, again.number, folder.dropped) == ("b.png", 4, 2)


def test_a_file_that_grows_is_left_until_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(tmp_path)
    path = tmp_path / "slow.png"
    Image.new("RGB", (64, 64)).save(tmp_path / "whole.bin", "PNG")
    data = (tmp_path / "whole.bin").read_bytes()
    steps = iter((data[:20], data[:40], data))

    def write_on(_: float) -> None:
        step = next(steps, None)
        if step is not None:
            path.write_bytes(step)

    monkeypatch.setattr("edgecloud.client.frames.time.sleep", write_on)
    frame = folder.newest()
    assert frame is not None
    assert frame.read().size == (64, 64)


def test_a_file_that_is_no_picture_is_passed_over_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = Folder(tmp_path)

    def later() -> None:
        (tmp_path / "broken.png").write_bytes(b"no picture")
        while not caplog.records:
            time.sleep(0.01)
        picture(tmp_path / "good.png", 7, 10**18)

    thread = threading.Thread(target=later)
    thread.start()
    (shown,) = inputs_of(folder, lambda image: np.asarray(image, np.float32)[None], most=1)
    thread.join()
    assert shown.what.source == "frame:good.png"
    assert shown.frame.number == 2
    assert "broken.png" in caplog.text


def test_a_folder_that_is_not_there_is_a_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--watch .*missing"):
        Folder(tmp_path / "missing")


class Listed:
    """Frames from a list."""

    dropped = 5

    def __init__(self, names: list[str]) -> None:
        self._names: Iterator[tuple[int, str]] = iter(enumerate(names, 1))

    def newest(self) -> Frame | None:
        number, name = next(self._names, (0, ""))
        return Frame(number, name, 0.0, lambda: Image.new("L", (4, 4))) if number else None

    def close(self) -> None:
        return


def test_a_source_that_ends_ends_the_answers_and_the_rate_is_of_the_last_ones() -> None:
    shown = list(inputs_of(Listed(["x", "y", "z"]), lambda image: np.asarray(image, np.float32)[None]))
    assert [each.frame.name for each in shown] == ["x", "y", "z"]
    assert shown[0].rate_per_s == 0.0
    assert shown[2].rate_per_s > 0
    assert shown[0].dropped == 5


@pytest.mark.skipif(is_there("cv2"), reason="OpenCV is installed")
def test_without_opencv_a_video_names_what_to_install() -> None:
    with pytest.raises(AppError, match="opencv-python-headless"):
        frames.Video("0")


@pytest.mark.skipif(not is_there("cv2"), reason="no OpenCV is installed")
def test_a_video_gives_its_newest_frame_and_ends(tmp_path: Path) -> None:
    import cv2

    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 50.0, (32, 32))
    for shade in range(0, 250, 10):
        writer.write(np.full((32, 32, 3), (0, 0, shade), np.uint8))  # OpenCV has blue first
    writer.release()
    video, seen = frames.Video(str(path)), []
    while (frame := video.newest()) is not None:
        seen.append((frame.number, np.asarray(frame.read())[5, 5]))
    video.close()
    assert [number for number, _ in seen] == sorted({number for number, _ in seen})
    assert len(seen) + video.dropped == 25
    assert all(int(red) > 2 * max(int(green), int(blue)) for number, (red, green, blue) in seen if number > 5)
    with pytest.raises(UsageError, match="cannot be opened"):
        frames.Video(str(tmp_path / "none.avi"))
