"""A cloud in this process: `Cloud`. It is the cloud of cloud_api.py, with networks that are loaded already."""

import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from edgecloud.engine.device_config import DeviceConfig
from edgecloud.engine.learned import by_wire_name
from edgecloud.library.network import Loadable, all_loaded
from edgecloud.library.settings import cache_of, path_of, token_of
from edgecloud.library.wording import wording
from edgecloud.net.codec import OPTIONAL
from edgecloud.net.frames import Limits
from edgecloud.net.metrics import Metrics
from edgecloud.net.security import check_binding
from edgecloud.net.tls import server_context
from edgecloud.server import cloud as server
from edgecloud.server.cloud_config import CloudConfig
from edgecloud.utils import addresses, defaults
from edgecloud.utils.errors import UsageError

DRAIN_S = 5.0
"""How long requests in hand may take when it is closed."""


class Cloud:
    """A cloud that listens, and serves networks to edges from threads of this process until it is closed.

    `networks` are what `load` takes: names, files, `(module, example_input)`, or networks that are loaded; only these
    are served. `port` 0 lets the system choose; `address` says which it was. Other machines reach it with `host`
    `"0.0.0.0"`, which needs a `token` (8 to 1,024 characters, the same on both sides; None takes $EDGE_CLOUD_TOKEN
    where it is set), TLS (`tls_cert`, `tls_key`, perhaps `tls_client_ca`: PEM files), or `insecure=True`. With
    `grpc_port` it also takes edges with `transport="grpc"`, at `grpc_address`; 0 lets the system choose. `device`,
    `backend` and `threads` are as for `Edge`; with `accept_networks` networks of edges that authenticated, or on
    loopback, are taken as well, run in processes of their own (docs/operating.md), and kept in the folder
    `network_store`, or until it is closed; `max_batch` requests for one network and one cut are computed together.
    With `workers` so many child processes compute (docs/operating.md); then `networks` are names and files.

    It listens once it is made. Use it in a `with` statement, or call `close`. Methods may be called from any thread.

    It shares the interpreter, the processor and torch's threads with whatever else runs in this process. So what an
    `Edge` in the same process measures is not what two machines would take; `edgecloud-cloud` is a process of its own.

    Raises UsageError for settings that do not serve and what `load` raises, and ConnectError where it cannot listen.

    >>> import edgecloud as ec, torch
    >>> module = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU())
    >>> with ec.Cloud(networks=["le_net", (module, torch.zeros(1, 8))]) as cloud:
    ...     print(cloud.address.split(":")[0], cloud.networks)
    127.0.0.1 ('le_net', 'module:Sequential')
    """

    def __init__(
        self,
        *,
        networks: Sequence[Loadable] = (),
        accept_networks: bool = False,
        network_store: str | Path | None = None,
        port: int = 0,
        grpc_port: int | None = None,
        host: str = CloudConfig.host,
        token: str | None = None,
        device: str = DeviceConfig.name,
        threads: int | None = None,
        backend: str = defaults.Device.BACKEND,
        max_batch: int = CloudConfig.max_batch,
        max_connections: int = CloudConfig.max_connections,
        workers: int | None = None,
        allow_jpeg: bool = False,
        codec_files: Sequence[str | Path] = (),
        tls_cert: str | Path | None = None,
        tls_key: str | Path | None = None,
        tls_client_ca: str | Path | None = None,
        insecure: bool = False,
        cache_dir: str | Path | None = None,
    ) -> None:
        with wording():
            secret = token_of(token)
            tls = server_context(*map(path_of, (tls_cert, tls_key, tls_client_ca)))
            check_binding(host, secret, has_tls=tls is not None, insecure=insecure)
            named = None if workers is None else _named(networks)
            loaded = [] if named is not None or (accept_networks and not networks) else all_loaded(networks)
            config = CloudConfig(
                host=host,
                port=port,
                grpc_port=grpc_port,
                device=DeviceConfig(name=device, threads=threads, backend=backend, cache_dir=cache_of(cache_dir)),
                token=secret,
                tls=tls,
                limits=Limits(
                    more_codecs=frozenset(OPTIONAL) if allow_jpeg else frozenset(),
                    learned=by_wire_name(map(Path, codec_files)),
                ),
                accepts_networks=accept_networks,
                network_store=None if network_store is None else Path(network_store),
                authenticates=tls_client_ca is not None,
                max_batch=max_batch,
                max_connections=max_connections,
                drain_s=DRAIN_S,
                codec_files=tuple(map(Path, codec_files)),
                models=named or (),
                workers=None if workers is None else ("local", str(workers)),
            )
            made = [(net.entry, net.made_for(device)) for net in loaded]
            self._listen(_made(config) if workers is not None else server.Cloud(config, loaded=made))
        self._thread: threading.Thread | None = threading.Thread(target=self.serve, name="ec.Cloud", daemon=True)
        self._thread.start()

    @classmethod
    def of(cls, config: CloudConfig, metrics: Metrics | None = None) -> Self:
        """For the programs of this project: the cloud of a configuration, which listens, and serves once it is told to.

        Errors name flags instead of keyword arguments. Raises what `Cloud(...)` raises.
        """
        cloud = cls.__new__(cls)
        cloud._listen(_made(config, metrics))
        cloud._thread = None
        return cloud

    def _listen(self, cloud: server.Cloud) -> None:
        self._cloud = cloud
        self.networks = cloud.names
        """The names of what it serves."""
        self._closing = threading.Lock()
        self._is_closed = False
        _Switching.begin()
        try:
            cloud.check_weights()
            self._place = cloud.server.open()
            self._grpc_places = cloud.server.grpc_addresses
            cloud.begin()
        except BaseException:
            _Switching.end()
            cloud.close()
            raise

    @property
    def address(self) -> str:
        """HOST:PORT, as `Edge` takes it."""
        return addresses.show(*self._place)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Host and port of everything that it listens on, that of `address` first."""
        return [self._place, *self._cloud.server.addresses[1:]]

    @property
    def grpc_addresses(self) -> list[tuple[str, int]]:
        """Host and port of everything that it listens on for gRPC."""
        return self._cloud.server.grpc_addresses

    @property
    def grpc_address(self) -> str:
        """HOST:PORT, as `Edge` takes it with `transport="grpc"`. Raises UsageError without `grpc_port`."""
        if not self._grpc_places:
            raise UsageError("this cloud does not listen for gRPC: give it a grpc_port")
        return addresses.show(*self._grpc_places[0])

    def serve(self) -> None:
        """Serve in this thread until it is stopped. Only where it does not do so already: see `of`."""
        self._cloud.server.serve()

    def stop(self) -> None:
        """Take no more requests, without waiting for those in hand; `close` does. Safe in a handler of signals."""
        self._cloud.server.stop()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is closed, by another thread; for at most `timeout` seconds. Returns whether it is."""
        if self._thread is None:
            return self._is_closed
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def close(self) -> None:
        """Finish the requests in hand, for at most 5 seconds, and stop. A second time does nothing."""
        with self._closing:
            if self._is_closed:
                return
            self._is_closed = True
            self._cloud.server.stop()
            if self._thread is not None:
                self._thread.join()
            self._cloud.close()
            _Switching.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Cloud {self.address} {', '.join(self.networks)}{' closed' if self._is_closed else ''}>"


def _named(networks: Sequence[Loadable]) -> tuple[str, ...]:
    """Networks that a process of their own can load too. Raises UsageError for others."""
    for each in networks:
        if not isinstance(each, str | Path):
            raise UsageError("workers load networks by name: give names and files, or remove workers=")
    return tuple(map(str, networks))


def _made(config: CloudConfig, metrics: Metrics | None = None) -> server.Cloud:
    if config.workers is None:
        return server.Cloud(config, metrics)
    from edgecloud.server.gateway import Gateway

    return Gateway(config, metrics)


class _Switching:
    """Threads change places more often while any cloud of this process serves, and as before once none does."""

    _lock = threading.Lock()
    _clouds = 0
    _before_s = 0.0

    @classmethod
    def begin(cls) -> None:
        with cls._lock:
            if not cls._clouds:
                cls._before_s = sys.getswitchinterval()
                sys.setswitchinterval(min(cls._before_s, server.SWITCH_S))
            cls._clouds += 1

    @classmethod
    def end(cls) -> None:
        with cls._lock:
            cls._clouds -= 1
            if not cls._clouds:
                sys.setswitchinterval(cls._before_s)
