"""Parts of a bundle in ONNX Runtime, which is imported when the first one is made. No torch.

A session holds only the weights of its own layers, and no copy of those where the runtime needs none: they are views of
the bundle's file. What is set here, and why: docs/decisions/0025-bundles-and-onnx-runtime.md.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecloud.models.bundle import Bundle
from edgecloud.models.onnx_graph import Part
from edgecloud.utils.errors import AppError, UsageError
from edgecloud.utils.extras import MissingLibraryError

Array = NDArray[Any]
PROVIDERS = ["CPUExecutionProvider"]
AS_NEEDED = 1
NO_MEMORY = "allocate memory"
QUIET = 3  # errors and worse: the rest is about graphs that nobody wrote by hand
OPTIONS = "shared arena, no spinning"
"""What makes times differ, for the key of a profile."""

log = logging.getLogger(__name__)


def runtime() -> Any:
    """The library. Raises MissingLibraryError where it is not installed."""
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise
        raise MissingLibraryError("onnxruntime") from None
    except ImportError as error:  # for another processor or C library
        raise AppError(f"onnxruntime cannot be loaded: {error}") from None
    return _prepared(onnxruntime)


@cache
def _prepared(library: Any) -> Any:
    """With one arena for all sessions of this process, as large as the largest of them needs."""
    library.set_default_logger_severity(QUIET)
    kind = library.OrtMemoryInfo("Cpu", library.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, library.OrtMemType.DEFAULT)
    try:
        library.create_and_register_allocator(kind, library.OrtArenaCfg({"arena_extend_strategy": AS_NEEDED}))
    except Exception as error:  # noqa: BLE001  somebody else in this process has made one, which serves as well
        log.info("onnxruntime: %s", error)
    return library


class OnnxPart:
    """Some layers of a network. The numbers of its inputs and outputs are layer numbers of the graph."""

    def __init__(self, bundle: Bundle, layers: Collection[int], threads: int, outputs: Sequence[int] | None = None):
        """Raises UsageError where the weights are damaged or the layers cannot be taken out of the graph.

        `outputs` are the layers' own where no others of them are wanted.
        """
        self.inputs, usual = bundle.io_of(layers)
        self.outputs = usual if outputs is None else tuple(outputs)
        self.runs = 0
        tensors = bundle.content.tensors
        self._inputs = tuple(tensors[number] for number in self.inputs)
        self._outputs = tuple(tensors[number] for number in self.outputs)
        self._made = tuple(name for name in dict.fromkeys(self._outputs) if name not in self._inputs)
        part = bundle.part(layers, self.outputs) if self._made else None
        self.weight_bytes = 0 if part is None else sum(bundle.weight(name).nbytes for name in part.weights)
        """Of its own layers: what it may hold a copy of."""
        self._session: Any = None if part is None else _session(bundle, part, threads)
        self._read = [] if self._session is None else [value.name for value in self._session.get_inputs()]

    def __call__(self, arrays: Sequence[Array]) -> list[Array]:
        """Run it on the arrays of its inputs, which stay as they are. An output that is an input is that array."""
        self.runs += 1
        values: dict[str, Array] = {
            name: np.asarray(array, order="C") for name, array in zip(self._inputs, arrays, strict=True)
        }
        if self._session is not None:
            feeds = {name: values[name] for name in self._read}
            values |= zip(self._made, self._run(feeds), strict=True)
        return [values[name] for name in self._outputs]

    def _run(self, feeds: dict[str, Array]) -> list[Array]:
        """Raises MemoryError where there is none left: its errors have no class of their own that could be imported."""
        try:
            results: list[Array] = self._session.run(self._made, feeds)
        except Exception as error:
            if NO_MEMORY in str(error):
                raise MemoryError(str(error)) from None
            raise
        return results


def _session(bundle: Bundle, part: Part, threads: int) -> Any:
    try:
        session = session_of(part.model, {name: bundle.weight(name) for name in part.weights}, threads)
        bundle.rest()  # it has copied what it joins and packs
        return session
    except Exception as error:  # its errors have no class of their own that could be imported
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UsageError(f"{bundle.path}: onnxruntime cannot run it: {reason}") from error


def session_of(model: bytes, weights: Mapping[str, Array], threads: int, profile: str = "") -> Any:
    """A session with the options of all that are timed. With `profile` it writes what each node takes to a file, whose
    name begins so, until that is ended. Raises what the runtime raises."""
    library = runtime()
    options = library.SessionOptions()
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, profile
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = library.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = QUIET
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if weights:
        values = [library.OrtValue.ortvalue_from_numpy(weight) for weight in weights.values()]
        options.add_external_initializers(list(weights), values)
    return library.InferenceSession(model, options, providers=PROVIDERS)
