"""Pictures that keep coming, for `Edge.map`: `Frames`."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from edgecloud.client import frames
from edgecloud.client.frames import Shown
from edgecloud.models import inputs
from edgecloud.models.registry import Entry
from edgecloud.utils.errors import UsageError


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture of `Frames`: its `number` of all that came, from 1, its `name`, and `age_s`, the seconds from its
    coming to its answer."""

    number: int
    name: str
    age_s: float


class Frames:
    """Pictures that keep coming: new files of a folder, a video file that plays at its own rate, or a camera by its
    number (the last two need opencv-python-headless).

    `Edge.map` answers the newest one, then the one that is newest by then: an answer about now is worth more than one
    about every frame. `answer.frame` has its number, its name and its age in seconds. `dropped` counts those that were
    passed over. At most `most` are answered; None: as long as they come. It reads from the moment when it is made until
    `close`, or the end of a `with` statement.

    Raises UsageError for a folder, a file or a camera that cannot be read, EdgeCloudError without OpenCV.

    >>> import edgecloud as ec, tempfile, threading, shutil
    >>> net, folder = ec.load("le_net"), tempfile.mkdtemp()
    >>> with ec.Frames(folder, most=1) as frames, ec.Edge(net, cloud=None) as edge:
    ...     _ = shutil.copy("models/zoo/digit.png", folder)
    ...     print([(answer.frame.name, answer.outputs[0].argmax()) for answer in edge.map(frames)])
    [('digit.png', np.int64(2))]
    """

    def __init__(self, source: str | Path | int, most: int | None = None) -> None:
        folder = None if isinstance(source, int) or not Path(source).is_dir() else Path(source)
        self._frames: frames.Frames = frames.Video(str(source)) if folder is None else frames.Folder(folder)
        self._most = most

    @property
    def dropped(self) -> int:
        """Pictures that were passed over since a newer one had come."""
        return self._frames.dropped

    def of(self, entry: Entry) -> Iterator[Shown]:
        """For `Edge`: the pictures as inputs of a network. Raises UsageError for one that takes something else."""
        if entry.takes != inputs.PICTURE:
            raise UsageError(f"frames require a network that takes images, and {entry.name} does not")
        return frames.inputs_of(self._frames, entry.preprocess, self._most)

    def close(self) -> None:
        """Read no more."""
        self._frames.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
