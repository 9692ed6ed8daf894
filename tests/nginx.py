"""A real nginx between an edge and the port of gRPC of a cloud, started as a program of ours on a free port."""

import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.certificates import Identity
from tests.conftest import LONG_S

CONFIG = """
daemon off;
master_process off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
    uwsgi_temp_path {folder}; scgi_temp_path {folder};
    server {{
        listen 127.0.0.1:{port} {tls} http2;
        {certificate}
        client_max_body_size 0;
        client_body_timeout 1h;
        location /edgecloud.Frames/ {{
            grpc_pass grpc://127.0.0.1:{cloud};
            grpc_read_timeout 1h;
            grpc_send_timeout 1h;
        }}
    }}
}}
"""
"""As docs/deploy.md has it."""


class Nginx:
    """A proxy in front of a cloud, that can be ended and started again at the same place."""

    def __init__(self, folder: Path, cloud: int, identity: Identity | None = None) -> None:
        if shutil.which("nginx") is None:
            pytest.skip("nginx is not here")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        named = "" if identity is None else f"ssl_certificate {identity.cert}; ssl_certificate_key {identity.key};"
        tls = "" if identity is None else "ssl"
        more = {"cloud": cloud, "port": self.port, "tls": tls, "certificate": f"{named} ssl_protocols TLSv1.3;"}
        (folder / "nginx.conf").write_text(CONFIG.format(folder=folder, **more))
        self._command = ["nginx", "-c", str(folder / "nginx.conf"), "-p", str(folder), "-e", str(folder / "error.log")]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Wait until it listens."""
        self._process = subprocess.Popen(self._command)
        end = time.monotonic() + LONG_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                assert self._process.poll() is None, "nginx did not start"
                assert time.monotonic() < end, "nginx does not listen"
                time.sleep(0.02)

    def kill(self) -> None:
        """At once, so that every stream is cut."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
