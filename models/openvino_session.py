"""Parts of a bundle in OpenVINO, which is imported when the first one is made. No torch. OpenVINO is optional.

float32 is forced: on processors that compute faster in bfloat16 it would be rounded otherwise. Threads are not pinned
to cores, since the cores that a process may use can change.
"""

from functools import cache
from typing import Any

from edgecloud.models.bundle import Bundle
from edgecloud.models.bundle_part import Array, BundlePart, Compiled
from edgecloud.models.onnx_graph import Part
from edgecloud.utils.errors import AppError, UsageError

LIBRARY = "openvino"
DEVICE = "CPU"
OPTIONS = "f32, one stream, no pinning"
"""What makes times differ, for the key of a profile."""


@cache
def core() -> Any:
    """The library. Raises AppError where it is not installed, or not for this machine."""
    try:
        import openvino
    except ModuleNotFoundError as error:
        if error.name != LIBRARY:
            raise
        raise AppError("--backend openvino needs openvino, which is not installed: pip install openvino") from None
    except ImportError as error:
        raise AppError(f"openvino cannot be loaded: {error}") from None
    return openvino.Core()


def check() -> None:
    """Raises AppError where it cannot be used."""
    core()


def settings(threads: int) -> dict[str, Any]:
    """What a model is compiled with."""
    return {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
    }


class OpenVinoPart(BundlePart):
    """Some layers of a network, in a model that OpenVINO has compiled."""

    def _prepare(self, bundle: Bundle, part: Part, threads: int) -> Compiled:
        library = core()
        whole = bundle.part(self.layers, self.outputs, has_weights=True)
        try:
            compiled = library.compile_model(library.read_model(whole.model), DEVICE, settings(threads))
        except RuntimeError as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1][:200]
            raise UsageError(f"{bundle.path}: openvino cannot run it: {reason}") from error
        request = compiled.create_infer_request()
        ports = {name: port for port in compiled.outputs for name in port.names}
        made = [ports[name] for name in self.made]

        def run(feeds: dict[str, Array]) -> list[Array]:
            results = request.infer(feeds)
            return [results[port] for port in made]  # copies: what they are taken from is written to again

        return tuple(port.any_name for port in compiled.inputs), run
