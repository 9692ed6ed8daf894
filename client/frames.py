"""Pictures that keep coming: new files of a folder, or the frames of a camera or a video. The newest is taken first.

What came meanwhile and is older is dropped, and counted: an answer about now is worth more than one about every frame.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from edgecloud.models import inputs, pictures
from edgecloud.models.inputs import Input
from edgecloud.utils.errors import AppError, UsageError

if TYPE_CHECKING:
    from PIL import Image

log = logging.getLogger(__name__)

LOOK_S = 0.05
"""How often a folder is looked at. A file is read once it has kept its size from one look to the next."""
RATE_OF = 20
"""Answers that the rate is of."""
MOST_NAMES = 100_000
"""Files of a folder that are looked at."""
USUAL_FPS = 25.0
SILENT_S = 30.0
"""How long a camera may give nothing."""


@dataclass(frozen=True)
class Frame:
    """One picture."""

    number: int
    """Of all that came, from 1."""
    name: str
    at: float
    """When it came, by time.perf_counter."""
    read: "Callable[[], Image.Image]"
    """Raises UsageError for a file that cannot be read as a picture."""


class Frames(Protocol):
    """Where pictures come from."""

    dropped: int

    def newest(self) -> Frame | None:
        """Wait for a picture that was not given yet; None where there will be none any more."""

    def close(self) -> None:
        """End it."""


class Folder:
    """The pictures that come to a folder from now on, or change there."""

    def __init__(self, folder: Path) -> None:
        """Raises UsageError for a folder that cannot be read."""
        self._folder = folder
        self._count = self.dropped = 0
        self._seen = self._look()
        self._growing: dict[str, tuple[int, int]] = {}

    def newest(self) -> Frame | None:
        """Wait for a new picture; it never ends."""
        while True:
            ready = self._ready()
            if ready:
                self._count += len(ready)
                self.dropped += len(ready) - 1
                name = max(ready, key=lambda each: ready[each])
                path = self._folder / name
                at = time.perf_counter() - max(0.0, time.time() - ready[name][0] / 1e9)
                return Frame(self._count, name, at, partial(_image_of, path))
            time.sleep(LOOK_S)

    def _ready(self) -> dict[str, tuple[int, int]]:
        """New files that are whole, as `_look` gives them."""
        now = self._look()
        new = {name: found for name, found in now.items() if self._seen.get(name) != found}
        ready = {name: found for name, found in new.items() if self._growing.get(name) == found and found[1]}
        self._growing = new
        self._seen = {name: found for name, found in (self._seen | ready).items() if name in now}
        return ready

    def _look(self) -> dict[str, tuple[int, int]]:
        """When each picture was written last, in nanoseconds, and its size."""
        found: dict[str, tuple[int, int]] = {}
        try:
            for path in self._folder.iterdir():
                if path.suffix.lower() in inputs.PICTURES and len(found) < MOST_NAMES:
                    with contextlib.suppress(FileNotFoundError):  # it has gone meanwhile
                        about = path.stat()
                        found[path.name] = about.st_mtime_ns, about.st_size
        except OSError as error:
            raise UsageError(f"--watch {self._folder}: {error.strerror or error}") from None
        return found

    def close(self) -> None:
        """Nothing is open."""


def _image_of(path: Path) -> "Image.Image":
    return pictures.read(path).image


def _image_of_pixels(pixels: Any) -> "Image.Image":
    """OpenCV has blue first."""
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(pixels[..., ::-1]))


class Video:
    """A camera by its number, or a file that plays as fast as it was recorded. Read by a thread of its own."""

    def __init__(self, source: str) -> None:
        """Raises UsageError for what cannot be opened, and AppError without OpenCV."""
        try:
            import cv2
        except ImportError as error:
            raise AppError(f"--video needs OpenCV ({error}): pip install opencv-python-headless") from None

        is_camera = source.isdecimal()
        self._capture = cv2.VideoCapture(int(source) if is_camera else source)
        if not self._capture.isOpened():
            what = f"camera {source}" if is_camera else source
            raise UsageError(f"--video {what}: cannot be opened as a {'camera' if is_camera else 'video'}")
        self._pace_s = 0.0 if is_camera else 1 / (self._capture.get(cv2.CAP_PROP_FPS) or USUAL_FPS)
        self._source = source
        self.dropped = 0
        self._latest: Frame | None = None
        self._is_over = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, name="video", daemon=True)
        self._thread.start()

    def newest(self) -> Frame | None:
        """Wait for a frame that was not given yet; None at the end of a file, or where a camera stops."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._latest is not None or self._is_over, SILENT_S):
                raise AppError(f"--video {self._source}: no frame for {SILENT_S:g} s")
            frame, self._latest = self._latest, None
            return frame

    def close(self) -> None:
        """Stop reading."""
        with self._changed:
            self._is_over = True
        self._thread.join()
        self._capture.release()

    def _read(self) -> None:
        number, began = 0, time.perf_counter()
        while not self._is_over:
            is_there, pixels = self._capture.read()
            if not is_there:
                break
            number += 1
            time.sleep(max(0.0, began + number * self._pace_s - time.perf_counter()) if self._pace_s else 0.0)
            self._take(number, pixels)
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    def _take(self, number: int, pixels: Any) -> None:
        frame = Frame(number, f"{self._source} {number}", time.perf_counter(), partial(_image_of_pixels, pixels))
        with self._changed:
            self.dropped += self._latest is not None
            self._latest = frame
            self._changed.notify_all()


@dataclass(frozen=True)
class Shown:
    """A frame that is answered now, and what is known of its source."""

    frame: Frame
    what: Input
    rate_per_s: float
    """Of the last answers; 0 before the second."""
    dropped: int


def inputs_of(frames: Frames, preprocess: inputs.Preprocess, most: int | None = None) -> Iterator[Shown]:
    """At most so many pictures as inputs of a network, each to be answered before the next is asked for.

    A file that cannot be read as a picture is warned of, and passed over.
    """
    moments: list[float] = []
    count = 0
    while most is None or count < most:
        frame = frames.newest()
        if frame is None:
            return
        try:
            array = preprocess(frame.read())
        except UsageError as error:
            log.warning("passed over: %s", error)
            continue
        count += 1
        moments = [*moments[-RATE_OF:], time.perf_counter()]
        lasted_s = moments[-1] - moments[0]
        rate = (len(moments) - 1) / lasted_s if lasted_s > 0 else 0.0
        yield Shown(frame, Input(array, f"frame:{frame.name}"), rate, frames.dropped)
