"""OpenVINO as a back-end, where it is installed: runs segments of a bundle on the processor.

An export compares the cuts of a bundle as ONNX Runtime computes them. Here every segment is compared with that on the
example, before it is used.
"""

import numpy as np

from edgecloud.engine.answers import is_close
from edgecloud.engine.bundle_executor import BundleExecutor
from edgecloud.engine.certificates import NotCertifiedError
from edgecloud.engine.executor import CpuShare, Segment
from edgecloud.models import openvino_session
from edgecloud.models.bundle import Bundle
from edgecloud.models.network import Network
from edgecloud.models.onnx_session import OnnxPart
from edgecloud.models.openvino_session import OPTIONS, OpenVinoPart
from edgecloud.utils.extras import version_of


class OpenVinoExecutor(BundleExecutor):
    """Runs segments of a bundle, each in a compiled model of its own."""

    backend = "openvino"

    def __init__(
        self, network: Network, device: str, share: CpuShare | None = None, *, is_behind: bool = False
    ) -> None:
        """Raises AppError where it is not installed, UsageError for another device than the processor, and for a
        network that is no bundle."""
        super().__init__(network, device, share, is_behind=is_behind)
        openvino_session.check()

    @property
    def about(self) -> str:
        """The version of the runtime and what it was told, for the keys of profiles."""
        return f"{version_of('openvino')} ({OPTIONS})"

    def _part(self, bundle: Bundle, layers: frozenset[int], threads: int) -> OpenVinoPart:
        return OpenVinoPart(bundle, layers, threads)

    def _make(self, layers: frozenset[int]) -> Segment:
        """Raises NotCertifiedError where it computes something else than ONNX Runtime."""
        segment = self._part(self._bundle, layers, self._threads)
        before = OnnxPart(self._bundle, self._network.graph.everything, self._threads, outputs=segment.inputs)
        given = [np.array(array) for array in before(self._network.example.arrays)]
        expected = OnnxPart(self._bundle, layers, self._threads)(given)
        if not is_close(segment(given), expected):
            name = self._network.graph.name
            raise NotCertifiedError(f"openvino and onnxruntime give other answers for {name}: use onnxruntime")
        return segment
