"""Fair scheduling on the cloud: one queue per edge, served in turns, with batches of compatible requests.

Pure: no thread, no clock. `engine.worker` holds the lock.
"""

from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar


class Waiting(Protocol):
    """What stands in a line."""

    @property
    def edge(self) -> Hashable:
        """Whose it is."""

    @property
    def key(self) -> Hashable | None:
        """Requests with equal keys may be computed together; None is computed alone."""


J = TypeVar("J", bound=Waiting)


class FairQueue(Generic[J]):
    """A bounded number of jobs, in one line for each edge. Lines are served in turns, each in its own order."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lines: OrderedDict[Hashable, deque[J]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(self, job: J) -> tuple[bool, J | None]:
        """Add a job. Returns whether it was taken, and who was evicted for it.

        Where the queue is full, the last of the longest queue is evicted for an edge whose queue is shorter by two or
        more; otherwise no edge starves and the new job is refused.
        """
        evicted = None
        if self._count >= self._most:
            longest = max(self._lines.values(), key=len)
            if len(longest) < len(self._lines.get(job.edge, ())) + 2:
                return False, None
            evicted = longest.pop()
            self._count -= 1
        self._lines.setdefault(job.edge, deque()).append(job)
        self._count += 1
        return True, evicted

    def take(self, most: int) -> list[J]:
        """The next job, with up to `most` - 1 others that can be computed with it, from all lines in turns."""
        if not self._count:
            return []
        jobs = [self._pop(next(iter(self._lines)))]
        if jobs[0].key is not None:
            jobs += self.more(jobs[0].key, most - 1)
        return jobs

    def more(self, key: Hashable, most: int) -> list[J]:
        """Up to `most` jobs with this key that stand first in their lines."""
        jobs: list[J] = []
        while len(jobs) < most:
            edge = next((edge for edge, line in self._lines.items() if line[0].key == key), None)
            if edge is None:
                break
            jobs.append(self._pop(edge))
        return jobs

    def drop(self, edge: Hashable) -> list[J]:
        """Take everything of an edge that has left out of the queue."""
        line = self._lines.pop(edge, None) or deque()
        self._count -= len(line)
        return list(line)

    def _pop(self, edge: Hashable) -> J:
        """The first of a line, which then goes behind the others."""
        line = self._lines[edge]
        job = line.popleft()
        self._count -= 1
        if line:
            self._lines.move_to_end(edge)
        else:
            del self._lines[edge]
        return job
