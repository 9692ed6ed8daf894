"""The flags of a worker that is to serve what its gateway was told to serve. Pure."""

from collections.abc import Iterator

from edgecloud.net.codec import OPTIONAL
from edgecloud.server.cloud_config import CloudConfig

SPARE_CONNECTIONS = 16
"""That a worker takes beside --max-connections, for gateways that ask how it is, or that have it load."""


def arguments_of(config: CloudConfig) -> tuple[str, ...]:
    """What goes behind `cloud_api.py --worker`, apart from where it listens, its device and its threads.

    Limits that guard against clients are the gateway's; a worker has those that guard its memory and its time.
    """
    return tuple(word for flag, value in _flags(config) for word in (flag, value) if word)


def _flags(config: CloudConfig) -> Iterator[tuple[str, str]]:
    device = config.device
    yield "--backend", device.backend
    yield "--cache-dir", str(device.cache_dir)
    yield "--times", device.times
    if device.predictors is not None:
        yield "--predictors", str(device.predictors)
    if config.models:
        yield "--models", ",".join(config.models)
    for network in config.networks:
        yield "--network", network
    for model, source in config.weights.items():
        yield "--weights", f"{model}={source}" if model else source
    for name in sorted(config.limits.more_codecs):
        yield OPTIONAL[name], ""
    for path in config.codec_files:
        yield "--codec-file", str(path)
    yield from _limits(config)


def _limits(config: CloudConfig) -> Iterator[tuple[str, str]]:
    yield "--max-payload", f"{config.limits.payload_bytes}B"
    yield "--max-header", f"{config.limits.header_bytes}B"
    yield "--max-tensors", str(config.limits.tensors)
    yield "--max-network-bytes", f"{config.max_network_bytes}B"
    yield "--max-connections", str(config.max_connections)
    yield "--max-queue", str(config.max_queue)
    yield "--max-batch", str(config.max_batch)
    yield "--batch-wait", f"{config.batch_wait_s!r}s"
    yield "--timeout", f"{config.request_s!r}s"
    yield "--drain-timeout", f"{config.drain_s!r}s"
