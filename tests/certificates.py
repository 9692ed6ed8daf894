"""Certificates for tests, made by the openssl program as SECURITY.md does it."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

NAMES = "IP:127.0.0.1,DNS:localhost"


@dataclass(frozen=True)
class Identity:
    """A self-signed certificate and its key."""

    cert: Path
    key: Path

    @property
    def flags(self) -> tuple[str, ...]:
        """As both sides take them."""
        return "--tls-cert", str(self.cert), "--tls-key", str(self.key)


def make(folder: Path, name: str, names: str = NAMES) -> Identity:
    """A new one, with these subject alternative names."""
    if shutil.which("openssl") is None:
        pytest.skip("the openssl program is not here")
    found = Identity(folder / f"{name}-cert.pem", folder / f"{name}-key.pem")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 825 -subj /CN=edge-cloud"
    files = ["-keyout", str(found.key), "-out", str(found.cert), "-addext", f"subjectAltName={names}"]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    return found
