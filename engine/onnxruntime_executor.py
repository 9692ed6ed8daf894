"""ONNX Runtime as a back-end: runs segments of a bundle on the processor, each in a session of its own."""

from functools import cached_property

from edgecloud.engine.bundle_executor import BundleExecutor
from edgecloud.engine.bundle_rows import BundleRows
from edgecloud.engine.executor import ONNXRUNTIME, CpuShare
from edgecloud.models.bundle import Bundle
from edgecloud.models.network import Network
from edgecloud.models.onnx_session import OPTIONS, OnnxPart, runtime
from edgecloud.predictor.profile import Machine
from edgecloud.utils.inference_utils import CPU, processor_name


def machine_of(threads: int) -> Machine:
    """What times that this runtime takes here depend on. Raises MissingLibraryError without it."""
    return Machine(f"{CPU} {processor_name()}", threads, _about(), ONNXRUNTIME)


def _about() -> str:
    return f"{runtime().__version__} ({OPTIONS})"


class OnnxRuntimeExecutor(BundleExecutor):
    """Runs segments of a bundle, each in a session of its own that holds no other layer's weights."""

    backend = ONNXRUNTIME

    def __init__(
        self, network: Network, device: str, share: CpuShare | None = None, *, is_behind: bool = False
    ) -> None:
        """Raises UsageError for another device than the processor, and for a network that is no bundle."""
        super().__init__(network, device, share, is_behind=is_behind)
        runtime()

    @property
    def about(self) -> str:
        """The version of the runtime and what it was told, for the keys of profiles."""
        return _about()

    @cached_property
    def rows(self) -> BundleRows:
        """What runs segments by rows."""
        return BundleRows(self._bundle, self._threads)

    def _part(self, bundle: Bundle, layers: frozenset[int], threads: int) -> OnnxPart:
        return OnnxPart(bundle, layers, threads)
