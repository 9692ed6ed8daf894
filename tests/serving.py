"""A server of net.server that runs while a test looks at it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from edgecloud.net.server import Server


@contextmanager
def running(server: Server) -> Iterator[int]:
    """Serve in a thread; gives the port."""
    _, port = server.open()
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield port
    finally:
        server.stop()
        thread.join()
