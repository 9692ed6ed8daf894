"""Errors of the packages below as a caller of the library meets them: of the right class, with the names it knows."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from edgecloud.utils.errors import EdgeCloudError

KEYWORDS = {
    "--timeout": "timeout",
    "--ready-timeout": "ready_timeout",
    "--token-file": "token",
    "--accuracy-budget": "accuracy_budget",
    "--codec": "codec",
    "--fallback": "fallback",
    "--bandwidth": "link",
    "--threads": "threads",
    "--device": "device",
    "-d": "device",
    "--weights": "weights",
    "--record": "record",
    "--times": "times",
    "--edge-times": "edge_times",
    "--cloud-times": "cloud_times",
    "--power": "power",
    "--radio": "radio",
    "--transport": "transport",
    "--grpc-port": "grpc_port",
    "--tls-ca": "tls_ca",
    "--tls-cert": "tls_cert",
    "--tls-key": "tls_key",
    "--tls-client-ca": "tls_client_ca",
    "--cache-dir": "cache_dir",
    "--emulate-cpu": "emulate_cpu",
    "--emulate-link": "emulate_link",
    "--ship": "ship",
}
"""Flags of the programs, and the keyword arguments that are the same."""
_FLAG = re.compile(r"(?<![\w-])--?[a-z][a-z-]*")
_PHRASES = (
    (re.compile(r"check -i and -p"), "check the address"),
    (re.compile(r"--point \d+ runs"), "cloud=None runs"),
    (re.compile(r"--token-file FILE"), "token=..."),
    (re.compile(r"--insecure"), "insecure=True"),
    (re.compile(r"--ship wait"), 'ship="wait"'),
    (re.compile(r"--(tls)-(\w+) FILE"), r"\1_\2=FILE"),
)
UNKNOWN = "UNKNOWN_MODEL"
NEEDS_A_FILE = (
    "; a module is known to this program only: serve it with ec.Cloud(networks=[(module, example)]), or put it into "
    "FILE.py for ec.load and for cloud_api.py --network FILE.py on the other machine"
)


def words(text: str) -> str:
    """A message with keyword arguments where it names flags that are the same."""
    for phrase, ours in _PHRASES:
        text = phrase.sub(ours, text)
    return _FLAG.sub(lambda match: KEYWORDS.get(match[0], match[0]), text)


def worded(error: EdgeCloudError, *, is_module: bool = False) -> EdgeCloudError:
    """The same error for a caller; `is_module` says that the network is known to this program only."""
    from edgecloud.client.handshake import RefusedError
    from edgecloud.net.refusals import refusal

    reworded = refusal(error.error) if isinstance(error, RefusedError) else error
    text = words(str(error)) if not reworded.refusal else str(error)  # a cloud speaks of its own flags
    reworded.args = (text + NEEDS_A_FILE if is_module and reworded.refusal == UNKNOWN else text,)
    return reworded


@contextmanager
def wording(*, is_module: bool = False) -> Iterator[None]:
    """Raise the errors of the packages below in the library's words."""
    try:
        yield
    except EdgeCloudError as error:
        reworded = worded(error, is_module=is_module)
        if reworded is error:
            raise
        raise reworded from error
