"""Prometheus metrics of a cloud, over HTTP. Imported only on demand."""

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from edgecloud.net.endpoints import listen, name_of
from edgecloud.net.metrics import FleetLoad, Gauges, Spent
from edgecloud.net.page import BACKLOG, Page

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)
PREFIX = "edgecloud"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class PrometheusMetrics:
    """Keeps the figures. Labels are networks, codecs and codes that this program knows: there are only so many."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)

        def seconds(name: str, text: str) -> Histogram:
            return Histogram(f"{PREFIX}_{name}_seconds", text, ["model"], buckets=SECONDS, registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"{PREFIX}_{name}", text, labels, registry=registry)

        self._queue = seconds("queue", "Queueing time of answered requests.")
        self._decode = seconds("decode", "Time to decode their tensors.")
        self._compute = seconds("compute", "Compute time of their batches.")
        self._whole = seconds("request", "Time from the first byte of a request until its answer was sent.")
        self._requests = counter("requests", "Requests queued.", "model")
        self._answers = counter("answers", "Answers sent.", "model")
        self._refusals = counter("refusals", "Connections and requests refused.", "code")
        self._payload = counter("payload_bytes", "Tensor bytes.", "direction", "codec")
        self._connections = counter("connections", "Connections accepted.")

    def connected(self) -> None:
        """A connection was let in."""
        self._connections.inc()

    def refused(self, code: str, peer: str = "") -> None:
        """A connection or a request was refused; of whom there is no label, since there are any number of them."""
        self._refusals.labels(code).inc()

    def received(self, model: str, payload: Mapping[str, int]) -> None:
        """A request is complete and is queued."""
        self._requests.labels(model).inc()
        self._count("in", payload)

    def answered(self, model: str, spent: Spent, payload: Mapping[str, int]) -> None:
        """An answer has left."""
        self._answers.labels(model).inc()
        self._count("out", payload)
        self._queue.labels(model).observe(spent.queue_s)
        self._decode.labels(model).observe(spent.decode_s)
        self._compute.labels(model).observe(spent.compute_s)
        self._whole.labels(model).observe(spent.whole_s)

    def _count(self, direction: str, payload: Mapping[str, int]) -> None:
        for codec, count in payload.items():
            self._payload.labels(direction, codec).inc(count)

    def watch(self, gauges: Gauges) -> None:
        """From now on these are asked at every scrape."""
        for name, text, read in (
            ("open_connections", "Open connections.", gauges.connections),
            ("queue_length", "Queued requests.", gauges.waiting),
            ("load", "Recent slowdown of the cloud relative to idle.", gauges.load),
            ("speed", "Present speed of the machine relative to when it is quiet, as it was seen last.", gauges.speed),
            ("sent_networks", "Networks sent by edges that run now.", gauges.sent),
            ("store_bytes", "Bytes of all networks sent by edges that are kept.", gauges.store_bytes),
        ):
            Gauge(f"{PREFIX}_{name}", text, registry=self.registry).set_function(read)
        if gauges.fleet is not None:
            self._watch_fleet(gauges.fleet)

    def _watch_fleet(self, fleet: Callable[[], FleetLoad]) -> None:
        """Of a gateway: what autoscalers look at, and what an operator has to know."""
        reads: dict[str, tuple[str, Callable[[], float]]] = {
            "queued_seconds": ("Predicted seconds of requests that workers have.", lambda: fleet().queued_s),
            "workers": ("Workers that may be asked.", lambda: fleet().workers),
            "workers_wanted": ("Workers that there should be.", lambda: fleet().wanted),
            "workers_lost": ("Workers that died or hung since the start.", lambda: fleet().lost),
            "repeats": ("Requests sent to another worker since the start.", lambda: fleet().repeats),
        }
        for name, (text, read) in reads.items():
            Gauge(f"{PREFIX}_{name}", text, registry=self.registry).set_function(read)

    def listen(self, host: str, port: int) -> int:
        """Answer scrapes in a thread of its own from now on; returns the port. Raises ConnectError."""
        listeners = listen(host, port, BACKLOG, "--metrics-port")
        Page(listeners, lambda: generate_latest(self.registry), CONTENT_TYPE).start()
        return name_of(listeners[0])[1]
