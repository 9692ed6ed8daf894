"""What happened lately, kept within bounds: the last so many items, each with its number. For several threads."""

import threading
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")

KEPT = 1000
"""Requests, and as many changes of plan, link and speed."""


class Record(Generic[T]):
    """The last items that were added. Adding one costs about a microsecond; nobody is called."""

    def __init__(self, size: int = KEPT) -> None:
        self._items: deque[T] = deque(maxlen=size)
        self._count = 0
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """How many were ever added: the number of the last one, from 1."""
        return self._count

    def add(self, item: T) -> None:
        """Keep one more; the oldest makes room."""
        with self._lock:
            self._items.append(item)
            self._count += 1

    def since(self, number: int, most: int = KEPT) -> list[tuple[int, T]]:
        """At most so many of the last items after that number, oldest first, with their numbers."""
        with self._lock:
            count, kept = self._count, len(self._items)
            wanted = min(most, kept, max(0, count - number))
            items = [self._items[index] for index in range(kept - wanted, kept)]
        return [(count - wanted + index + 1, item) for index, item in enumerate(items)]
