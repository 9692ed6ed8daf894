"""From a captured torch network to an ONNX graph in which the tensor of every layer has a known name.

The graph is exported once, with the output of every layer as an output, so that nothing is joined across layers: then
every cut of the network is a cut of the ONNX graph. An in-place operation would take the tensor before it away; such a
tensor is copied before, and the copy is taken out again once the graph is ONNX, where nothing works in place.
"""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from edgecloud.models import onnx_graph
from edgecloud.models.example import Tensors
from edgecloud.models.graph import LayerGraph
from edgecloud.models.onnx_graph import TYPES, OnnxGraph
from edgecloud.models.protobuf import WireError, bytes_field, varint_field
from edgecloud.models.trace import Traced
from edgecloud.utils.errors import UsageError
from edgecloud.utils.extras import require
from edgecloud.utils.quiet import silent_stderr

INLINE_BYTES = 256
"""Constants up to this size stay in the graph: shapes and axes, which a runtime wants to see when it optimises."""
OPSET = 20


@dataclass(frozen=True)
class Exported:
    """An ONNX graph, the tensor of every layer in it, and its weights."""

    model: bytes
    """An ONNX model whose weights are named and described, and elsewhere."""
    tensors: tuple[str, ...]
    """For every layer the name of its tensor; layers that compute nothing have that of their input."""
    weights: Mapping[str, NDArray[Any]]
    is_batched: bool
    """Whether the graph takes any number of inputs in the first axis."""


def export(traced: Traced, examples: Sequence[torch.Tensor]) -> Exported:
    """Export a network for inputs of the shapes of `examples`, or where those are (1, ...) and it allows that for any
    number of them.

    Raises UsageError where ONNX cannot express it, and MissingLibraryError where what exports is not installed.
    """
    require("onnx", "onnxscript", "onnx_ir")
    name = traced.graph.name
    for kept, why in traced.kept.items():
        raise UsageError(f"{name} cannot be exported: {kept} runs your own code ({why}), which ONNX has no words for")
    if strange := {layer.out_dtype for layer in traced.graph.layers} - set(TYPES):
        raise UsageError(f"{name} cannot be exported: nothing that runs bundles knows tensors of {min(strange)}")
    module, given = _with_all_outputs(traced), tuple(each.detach().cpu() for each in examples)
    _check_dtypes(module, name)
    reason = ""
    for count in (2, 1) if _takes_batches(traced, module, given) else (1,):
        try:
            model = _to_onnx(module, tuple(torch.cat([each] * count) for each in given), is_batched=count > 1)
            return _in_order(traced.graph, model, is_batched=count > 1)
        except WireError as error:
            reason = str(error)
        except Exception as error:  # noqa: BLE001  the exporter raises whatever an operator makes it raise
            logging.getLogger(__name__).info("%s: %s", name, error)
            reason = _reason(error)
    raise UsageError(f"{name} cannot be exported: {reason}")


def _with_all_outputs(traced: Traced) -> fx.GraphModule:
    """The captured graph with the output of every layer as an output, as it is before others write into it."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    makers = {group[-1]: number for number, group in enumerate(traced.nodes)}
    outputs: dict[int, fx.Node] = {}
    for node in traced.module.graph.nodes:
        if node.op == "output":
            continue
        copies[node] = graph.node_copy(node, copies.__getitem__)
        if node in makers:
            number = makers[node]
            is_lost = number in traced.overwritten
            clone = torch.ops.aten.clone.default
            outputs[number] = graph.call_function(clone, (copies[node],)) if is_lost else copies[node]
    graph.output(tuple(outputs[number] for number in range(len(traced.nodes))))
    return fx.GraphModule(traced.module, graph)


def _check_dtypes(module: fx.GraphModule, name: str) -> None:
    numbers = {str(t.dtype).removeprefix("torch.") for t in (*module.parameters(), *module.buffers())}
    if strange := sorted(numbers & {"float16", "bfloat16"} | numbers - set(TYPES)):
        raise UsageError(f"{name} holds {', '.join(strange)} numbers: convert it to float32 (.float()) in its build()")


def _takes_batches(traced: Traced, module: fx.GraphModule, given: Tensors) -> bool:
    """Whether two different inputs at once give what each gives alone, in every layer: their shapes may be fixed."""
    if traced.capture != "fx" or traced.bound:
        return False
    if any(each.shape[:1] != (1,) for each in given):
        return False
    inputs = (given, tuple(_other(each) for each in given))
    with torch.no_grad():
        singles = [module(*(each.clone() for each in x)) for x in inputs]
        if any(tensor.shape[:1] != (1,) for tensor in singles[0]):
            return False
        try:
            with _quiet():  # else a graph prints where in it that failed
                both = module(*map(torch.cat, zip(*inputs, strict=True)))
        except Exception:  # noqa: BLE001  a shape that was folded to a number, say
            return False
    return all(
        tensor.shape[0] == len(inputs)
        and all(torch.allclose(tensor[n], one[0], 1e-3, 1e-4) for n, one in enumerate(each))
        for tensor, *each in zip(both, *singles, strict=True)
    )


def _other(tensor: torch.Tensor) -> torch.Tensor:
    """Other values that the network takes too: whole numbers may be tokens."""
    flipped = tensor.flip(-1)
    return flipped * 0.5 if tensor.is_floating_point() else flipped


def _to_onnx(module: fx.GraphModule, x: Tensors, *, is_batched: bool) -> Any:
    batch = torch.export.Dim(onnx_graph.BATCH)
    shapes = tuple({0: batch} for _ in x) if is_batched else None
    with _quiet():
        program = torch.onnx.export(
            module, x, dynamo=True, optimize=False, dynamic_shapes=shapes, opset_version=OPSET, verbose=False
        )
    if program is None:
        raise WireError("torch.onnx gave no program")
    return program.model


@contextmanager
def _quiet() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "torch.export", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), silent_stderr():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _reason(error: Exception) -> str:
    """The innermost cause, in one line: the exporter wraps it in pages."""
    while (inner := error.__cause__ or error.__context__) is not None and isinstance(inner, Exception):
        error = inner
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0][:200]


# --- from the exporter's graph to ours


def _in_order(graph: LayerGraph, model: Any, *, is_batched: bool) -> Exported:
    """The simplest form of the graph in which every layer still reads what it reads in the network.

    Raises WireError where there is none.
    """
    reason = ""
    for simplify in (_optimized, _folded, lambda model: model):
        with _quiet():
            simplified = simplify(model.clone())
        exported = _written(graph, simplified, is_batched=is_batched)
        try:
            check(graph, onnx_graph.parse(memoryview(exported.model)), exported.tensors)
        except WireError as error:
            reason = str(error)
        else:
            return exported
    raise WireError(reason)


def _optimized(model: Any) -> Any:
    from onnxscript import optimizer

    optimizer.optimize(model)
    return model


def _folded(model: Any) -> Any:
    from onnxscript import optimizer

    optimizer.fold_constants(model)
    return model


def check(graph: LayerGraph, onnx: OnnxGraph, tensors: Sequence[str]) -> None:
    """Raise WireError unless every layer can be taken out of an ONNX graph by itself."""
    for number, layer in enumerate(graph.layers):
        if number in graph.only_inputs or tensors[number] in {tensors[source] for source in layer.inputs}:
            continue
        inputs = [onnx_graph.Value(tensors[source], "float32", (), False) for source in layer.inputs]
        try:
            onnx_graph.take(onnx, inputs, [onnx_graph.Value(tensors[number], "float32", (), False)])
        except WireError as error:
            raise WireError(f"layer {layer.id} reads another layer's inside: {error}") from None


def _written(graph: LayerGraph, model: Any, *, is_batched: bool) -> Exported:
    """Name the tensors after the layers, and write nodes, constants and what the weights are."""
    from onnx_ir import serde
    from onnx_ir.passes import common

    common.InlinePass()(model)
    layers = [_source(value) for value in model.graph.outputs]
    for node in list(model.graph):
        if node.op_type == "Identity" and node.domain == "":
            for user, place in list(node.outputs[0].uses()):
                user.replace_input_with(place, _source(node.outputs[0]))
    if is_batched:
        _count_where_it_is_read(graph, model, layers)
    model.graph.outputs.clear()
    model.graph.outputs.extend(dict.fromkeys(layers))
    common.RemoveUnusedNodesPass()(model)
    _rename(graph, model, layers)
    weights: dict[str, NDArray[Any]] = {}
    messages: list[bytes] = []
    for value in model.graph.initializers.values():
        tensor = value.const_value
        array = np.asarray(tensor.numpy(), order="C")  # a number keeps its shape, ()
        if array.nbytes > INLINE_BYTES and str(array.dtype) in TYPES:
            weights[str(value.name)] = array
            messages.append(onnx_graph.weight_message(str(value.name), str(array.dtype), array.shape))
        else:
            messages.append(_constant(str(value.name), serde.serialize_tensor(tensor).SerializeToString(), array))
    body = b"".join(
        (
            *(bytes_field(1, _bare(node, serde)) for node in model.graph),
            bytes_field(2, "network"),
            *(bytes_field(5, message) for message in messages),
        )
    )
    message = onnx_graph.model_message(model.ir_version, model.opset_imports[""], body)
    return Exported(message, tuple(str(value.name) for value in layers), weights, is_batched)


def _count_where_it_is_read(graph: LayerGraph, model: Any, layers: Sequence[Any]) -> None:
    """Let each layer take the number of inputs from a tensor that it reads: the exporter takes it from the input of the
    network, which does not cross a cut. All tensors have it in their first axis."""
    counts = _counts_of(model)
    for number, layer in enumerate(graph.layers):
        if not counts or not layer.inputs:
            continue
        sources = [layers[source] for source in layer.inputs]
        copies: dict[int, Any] = {}
        waiting, seen = [layers[number]], set(map(id, sources))
        while waiting:
            value = waiting.pop()
            node = value.producer()
            if id(value) in seen or node is None or id(node) in counts:
                continue
            seen.add(id(value))
            for place, read in enumerate(node.inputs):
                if read is not None and id(read.producer()) in counts:
                    node.replace_input_with(place, _copied(read, sources[0], node, copies))
            waiting += [read for read in node.inputs if read is not None]
    model.graph.sort()


def _counts_of(model: Any) -> set[int]:
    """The nodes, by id, that compute something of the number of inputs and of nothing else."""
    counts: set[int] = set()
    inputs, fixed = set(map(id, model.graph.inputs)), set(map(id, model.graph.initializers.values()))
    for node in model.graph:
        read = [value for value in node.inputs if value is not None]
        if node.op_type == "Constant":
            fixed |= set(map(id, node.outputs))
        elif node.op_type == "Shape" and id(_source(read[0])) in inputs:
            ends = [node.attributes.get(name) for name in ("start", "end")]
            if [None if end is None else end.value for end in ends] in ([0, 1], [None, 1]):
                counts.add(id(node))
        elif any(id(each.producer()) in counts for each in read) and all(
            id(each) in fixed or id(each.producer()) in counts for each in read
        ):
            counts.add(id(node))
    return counts


def _copied(value: Any, source: Any, before: Any, copies: dict[int, Any]) -> Any:
    """What is computed of the number of inputs, computed of the first axis of `source`."""
    import onnx_ir

    node = value.producer()
    if node is None or id(value) in copies:
        return copies.get(id(value), value)
    is_first = node.op_type == "Shape" and _source(node.inputs[0]).producer() is None
    read = [each if each is None else _copied(each, source, before, copies) for each in node.inputs]
    made = onnx_ir.Node(
        node.domain,
        node.op_type,
        [source] if is_first else read,
        list(node.attributes.values()),
        num_outputs=len(node.outputs),
    )
    before.graph.insert_before(before, made)
    copies |= zip(map(id, node.outputs), made.outputs, strict=True)
    return copies[id(value)]


def _source(value: Any) -> Any:
    """Where a value that only goes by other names comes from."""
    node = value.producer()
    while node is not None and node.op_type == "Identity" and node.domain == "":
        value = node.inputs[0]
        node = value.producer()
    return value


def _rename(graph: LayerGraph, model: Any, layers: Sequence[Any]) -> None:
    """A layer's tensor is called as the layer, a weight as the network calls it, and all else gets a number."""
    taken = {layer.id for layer in graph.layers}
    for value in list(model.graph.initializers.values()):
        if value.name in taken:
            value.name = f"weight:{value.name}"
    for number, value in enumerate(value for node in model.graph for value in node.outputs):
        value.name = f"inner:{number}"
    named: set[int] = set()
    for layer, value in zip(graph.layers, layers, strict=True):
        if id(value) not in named:
            value.name = layer.id
            named.add(id(value))


def _constant(name: str, message: bytes, array: NDArray[Any]) -> bytes:
    """A small tensor with its numbers in it, under its new name."""
    if str(array.dtype) not in TYPES:
        return message
    dims = b"".join(varint_field(1, side) for side in array.shape)
    code = varint_field(2, TYPES[str(array.dtype)])
    return dims + code + bytes_field(8, name) + bytes_field(9, array.tobytes())


def _bare(node: Any, serde: Any) -> bytes:
    """A node without its history, which names the exporting user's files."""
    node.metadata_props.clear()
    node.doc_string = None
    message = serde.serialize_node(node)
    message.ClearField("name")
    raw: bytes = message.SerializeToString(deterministic=True)
    return raw
