"""Parts of a bundle in ONNX Runtime, which is imported when the first one is made. No torch.

A session holds only the weights of its own layers, and no copy of those where the runtime needs none: they are views of
the bundle's file. What is set here, and why: docs/decisions/0025-bundles-and-onnx-runtime.md.
"""

import logging
from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any

from edgecloud.models.bundle import Bundle
from edgecloud.models.bundle_part import Array, BundlePart, Compiled
from edgecloud.models.onnx_graph import Part
from edgecloud.utils.errors import AppError, UsageError
from edgecloud.utils.extras import MissingLibraryError

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


class OnnxPart(BundlePart):
    """Some layers of a network, in a session of ONNX Runtime."""

    def _prepare(self, bundle: Bundle, part: Part, threads: int) -> Compiled:
        session = session_for(bundle, part, threads)
        return tuple(value.name for value in session.get_inputs()), partial(run, session, self.made)


def run(session: Any, names: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
    """Its outputs of these names. Raises MemoryError where there is none left: the runtime's errors have no class that
    could be imported."""
    try:
        results: list[Array] = session.run(names, feeds)
    except Exception as error:
        if NO_MEMORY in str(error):
            raise MemoryError(str(error)) from None
        raise
    return results


def session_for(bundle: Bundle, part: Part, threads: int) -> Any:
    """A session of a part of a bundle. Raises UsageError where the runtime cannot run it."""
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
