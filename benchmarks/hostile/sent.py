"""Bundles that mean harm: any ONNX graph, header and weights, packed as bundles are, whatever they say."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecloud.client.parcels import Parcel
from edgecloud.models import bundle
from edgecloud.models.bundle import PREFIX_BYTES, Content, Identity, InputForm
from edgecloud.models.graph import Layer, LayerGraph
from edgecloud.net.messages import Hello

SHAPE = (1, 3, 4, 4)


def content_of(output: str = "y", shape: tuple[int, ...] = SHAPE, dtype: str = "float32") -> Content:
    """A header of two layers, the input x and one that makes a tensor."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    layers = (
        Layer("x", "input", (), int(np.prod(SHAPE)) * 4, SHAPE, "float32"),
        Layer(output, "layer", (0,), size, shape, dtype),
    )
    return Content(
        identity=Identity("hostile", "sha256:0", "test", is_trained=False),
        input=InputForm(SHAPE[1:], "tensor", "test"),
        graph=LayerGraph("hostile", layers, (1,)),
        tensors=("x", output),
        is_batched=False,
    )


def packed(
    model: bytes,
    content: Content | None = None,
    weights: Mapping[str, NDArray[Any]] | None = None,
    change: Mapping[str, Any] | None = None,
) -> bytes:
    """The bytes of a bundle; `change` replaces keys of its header."""
    arrays = {bundle._EXAMPLE: np.zeros(SHAPE, np.float32), **(weights or {})}
    blobs, places, end = bundle._laid_out(model, arrays)
    rows = [
        {
            "name": name,
            "dtype": str(array.dtype),
            "shape": list(array.shape),
            "offset": places[name].offset,
            "bytes": places[name].bytes,
            "sha256": places[name].sha256,
        }
        for name, array in arrays.items()
    ]
    onnx = {"offset": places[""].offset, "bytes": places[""].bytes, "sha256": places[""].sha256}
    document = bundle._to_document(content or content_of()) | {"onnx": onnx, "arrays": rows, "bytes": end}
    return sealed(document | dict(change or {}), blobs, end)


def sealed(document: Any, blobs: Any, end: int) -> bytes:
    """A header with its digest, and what comes behind it."""
    header = json.dumps(document).encode()
    prefix = bundle._PREFIX.pack(bundle.MAGIC, bundle.VERSION, len(header), hashlib.sha256(header).digest())
    start = bundle._aligned(PREFIX_BYTES + len(header))
    raw = bytearray(start + end)
    raw[: len(prefix) + len(header)] = prefix + header
    for offset, part in blobs:
        raw[start + offset : start + offset + len(part)] = part
    return bytes(raw)


def parcel_of(path: Path, raw: bytes, proof: tuple[NDArray[Any], ...] | None = None) -> Parcel:
    """A bundle as an edge would send it that checks nothing."""
    path.write_bytes(raw)
    length = int(bundle._PREFIX.unpack(raw[:PREFIX_BYTES])[2])
    head = raw[PREFIX_BYTES : PREFIX_BYTES + length]
    answer = (np.zeros(SHAPE, np.float32),) if proof is None else proof
    return Parcel(path, hashlib.sha256(head).hexdigest(), PREFIX_BYTES + length, len(raw), answer)


def hello_of(parcel: Parcel) -> Hello:
    """What such an edge says."""
    return Hello("hostile", "sha256:0", content_of().graph.digest, ["raw"], "", bundle=parcel.digest)
