"""A relay of frames that reads nothing but their lengths: what no gateway in Python can be quicker than.

    python -m benchmarks.bare_relay PORT

It prints the port that it listens on, and passes whole frames on to PORT of this machine and back, with a thread for
each direction, as a gateway does. It checks nothing: for measurements on one machine alone.
"""

import socket
import sys
import threading

from edgecloud.net.frames import PREFIX_BYTES, Limits, parse_prefix

LOCAL = "127.0.0.1"
BUFFER_BYTES = 1 << 20


def fill(sock: socket.socket, into: memoryview) -> None:
    """Receive all of it. Raises EOFError at the end."""
    while into:
        got = sock.recv_into(into)
        if not got:
            raise EOFError
        into = into[got:]


def pump(source: socket.socket, target: socket.socket) -> None:
    """Pass frame after frame on, until one side ends."""
    buffer, limits = memoryview(bytearray(BUFFER_BYTES)), Limits()
    try:
        while True:
            fill(source, buffer[:PREFIX_BYTES])
            prefix = parse_prefix(buffer[:PREFIX_BYTES], limits)
            behind = PREFIX_BYTES + prefix.header_bytes
            fill(source, buffer[PREFIX_BYTES:behind])
            fill(source, buffer[behind : behind + prefix.payload_bytes])
            target.sendall(buffer[: behind + prefix.payload_bytes])
    except (OSError, EOFError):
        source.close()
        target.close()


def main(argv: list[str]) -> int:
    """Relay until killed."""
    with socket.create_server((LOCAL, 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            near, _ = listener.accept()
            far = socket.create_connection((LOCAL, int(argv[0])))
            for source, target in ((near, far), (far, near)):
                source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=pump, args=(source, target), daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
