"""What the link took for frames that came one after the other, each of them when its sender had made it. Pure.

The reader unpacks a frame while the next one travels, so two things must not be taken for the link: that the sender was
not ready yet, and that the reader came late. A frame whose first byte was waited for was read as it came. Where a part
of it had come before, the link was busy since the end of the frame before, as far as one can tell. Where all of it had,
its own time is not known, and the rate of the others stands for it.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgecloud.net.connection import Frame
from edgecloud.net.frames import PREFIX_BYTES

READ_SHARE = 0.75  # of the time between two frames, that must have been spent on reading to tell a rate from it


@dataclass(slots=True)
class Train:
    """The frames that have come, in seconds of time.monotonic."""

    began_at: float = 0.0
    ended_at: float = 0.0
    timed_bytes: int = 0
    """Those from which the rate of the link can be told ..."""
    timed_s: float = 0.0
    """... and how long they took."""
    _busy_s: float = 0.0
    _bytes: int = 0
    _is_sharp: bool = False
    """Whether the last byte was read when it came."""

    def take(self, frame: "Frame") -> None:
        """The next frame has come."""
        nbytes, since_s = PREFIX_BYTES + frame.header_bytes + frame.payload.nbytes, frame.at - self.ended_at
        self._bytes += nbytes
        if not self.began_at:
            self.began_at = frame.at - frame.received_s
        if frame.is_awaited:
            self._count(frame.received_s, frame.timed_bytes, frame.timed_s)
        elif frame.is_followed and self._is_sharp:
            is_telling = frame.received_s >= READ_SHARE * since_s
            self._count(since_s, nbytes if is_telling else 0, since_s if is_telling else 0.0)
        self.ended_at, self._is_sharp = frame.at, frame.is_awaited or frame.is_followed

    def _count(self, busy_s: float, timed_bytes: int, timed_s: float) -> None:
        self._busy_s += busy_s
        self.timed_bytes += timed_bytes
        self.timed_s += timed_s

    @property
    def received_s(self) -> float:
        """From the first byte to the last."""
        return self.ended_at - self.began_at

    @property
    def idle_s(self) -> float:
        """Of these, how long nothing was on its way."""
        at_rate_s = self._bytes * self.timed_s / self.timed_bytes if self.timed_bytes else 0.0
        return max(0.0, self.received_s - max(self._busy_s, at_rate_s))
