"""A network that somebody sent, as a bundle: what is checked of it, and what is known of it from its header alone.

Nothing of it is believed but its bytes, which its digest names. Its weights are known by that digest, not by the one
that it says, and its name has the digest in it, so that it is mistaken for nothing else. No torch.
"""

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgecloud.models import bundle_rules
from edgecloud.models.bundle import Bundle, Outline
from edgecloud.models.graph import LayerGraph
from edgecloud.models.inputs import Input
from edgecloud.models.network import Array, Fed, Take, Weights
from edgecloud.models.onnx_rules import Limits, OnnxError
from edgecloud.models.specs import LayerSpec, UnknownLayerError
from edgecloud.utils.dtypes import TRAVELLING, dtype_of
from edgecloud.utils.errors import UsageError

NAME_CHARS, DIGEST_CHARS = 40, 12
MAX_LAYERS = 5000


def name_of(outline: Outline) -> str:
    """What a network is called here: its own name as far as that is harmless, and which one it is."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", outline.content.identity.name)[:NAME_CHARS].strip(".-")
    return f"{name or 'network'}@{outline.digest[:DIGEST_CHARS]}"


class SentNetwork:
    """One `models.network.Network`, of which only the header and the example are in this process."""

    def __init__(self, path: Path, outline: Outline) -> None:
        """Raises UsageError where the header says what cannot be."""
        check_graph(outline.content.graph)
        self._outline = outline
        self.graph = replace(outline.content.graph, name=name_of(outline))
        about = outline.content.identity
        self.weights = Weights(f"bundle:{outline.digest}", "sent by an edge", about.is_trained, "", about.names)
        self.numbers = ""
        self.made_with = ""
        self.bound = outline.content.bound
        self.kept: Mapping[str, str] = {}
        self.call, self.answer = outline.content.input.call, outline.content.answer
        arrays = examples_of(path, outline)
        self.example = Input(arrays if len(arrays) > 1 else arrays[0], "sent by an edge")

    def specs(self) -> tuple[LayerSpec, ...]:
        """Every layer but the input as predictors see it. Raises UnknownLayerError."""
        if self._outline.content.specs is None:
            raise UnknownLayerError(f"{self.graph.name}: no predictor for some of its layers")
        return self._outline.content.specs

    def weight_bytes(self) -> tuple[int, ...]:
        """Not here."""
        raise UsageError(f"{self.graph.name} runs in a process of its own")

    def whole(self, x: Fed) -> list[Array]:
        """Not here: only its process runs it."""
        raise UsageError(f"{self.graph.name} runs in a process of its own")

    def copied(self) -> "SentNetwork":
        """Itself: nothing of it moves to another device."""
        return self

    def each_output(self, x: Fed, take: Take) -> None:
        """Not here either."""
        self.whole(x)


def check_graph(graph: LayerGraph) -> None:
    """Raises UsageError for sizes that no network has, or that its shapes do not give."""
    if len(graph.layers) > MAX_LAYERS:
        raise UsageError(f"a network that is sent has at most {MAX_LAYERS} layers, not {len(graph.layers)}")
    for layer in graph.layers:
        if len(layer.out_shape) > 8 or any(isinstance(side, bool) or side < 1 for side in layer.out_shape):
            raise UsageError(f"layer {layer.id!r} makes a tensor of an impossible shape")
        if layer.out_dtype not in TRAVELLING:
            raise UsageError(f"layer {layer.id!r} makes numbers of an unknown type")
        if layer.out_bytes != math.prod(layer.out_shape) * dtype_of(layer.out_dtype).itemsize:
            raise UsageError(f"layer {layer.id!r} makes a tensor of another size than its shape")


def examples_of(path: Path, outline: Outline) -> tuple[Array, ...]:
    """The example in a bundle, an array for each input. Raises UsageError where it is damaged, or of another shape."""
    graph = outline.content.graph
    arrays = []
    for weight, number in zip(outline.examples, graph.inputs, strict=True):
        layer = graph.layers[number]
        if (weight.shape, weight.dtype) != (layer.out_shape, layer.out_dtype):
            raise UsageError("its example is of another shape than its input")
        with path.open("rb") as file:
            file.seek(weight.blob.offset)
            raw = file.read(weight.blob.bytes)
        if hashlib.sha256(raw).hexdigest() != weight.blob.sha256:
            raise UsageError("its example is damaged")
        arrays.append(np.frombuffer(raw, dtype_of(weight.dtype)).reshape(weight.shape))
    return tuple(arrays)


def check(opened: Bundle, most_bytes: int) -> None:
    """Check the ONNX graph of a bundle before a runtime sees any of it: operators, names, sizes and what it would take,
    and that its layers make what the header says. Raises UsageError, in one line."""
    check_graph(opened.graph)
    try:
        bundle_rules.check(opened, Limits(tensor_bytes=most_bytes, total_bytes=most_bytes))
    except OnnxError as error:
        raise UsageError(str(error)) from None
