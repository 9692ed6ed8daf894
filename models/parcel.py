"""Passes a captured network to another process, with its parameters once, in shared memory.

The process that loads a network puts the parameters into an anonymous file (`share`), captures the graph over them,
and sends what `pack` makes, with the file. The other one maps the file, so nothing is copied. What is packed is a
pickle, which is code: it may come from a process that we have started, never from anywhere else.
"""

import contextlib
import io
import mmap
import os
import pickle
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import fx, nn

from edgecloud.models.graph import LayerGraph
from edgecloud.models.trace import Traced

ALIGNED = 4096


class CannotPackError(Exception):
    """Something in this network exists only in the process that made it."""


@dataclass(frozen=True)
class Shared:
    """Memory that holds the parameters of a network."""

    descriptor: int
    memory: mmap.mmap
    offsets: dict[int, int]
    """Where what lies at an address of this process begins in the file."""
    bytes: int


def share(model: nn.Module) -> Shared:
    """Move the parameters and buffers of a network, one after the other, into a new file in memory."""
    tensors = [tensor for tensor in (*model.parameters(), *model.buffers()) if _is_plain(tensor)]
    sizes = {_address(tensor): tensor.untyped_storage().nbytes() for tensor in tensors}
    places, total = {}, 0
    for address, size in sizes.items():
        places[address] = total
        total += -(-size // ALIGNED) * ALIGNED
    descriptor = os.memfd_create("parameters")
    os.ftruncate(descriptor, max(total, ALIGNED))
    memory = _mapped(descriptor)
    offsets = {}
    moved: dict[int, torch.UntypedStorage] = {}
    for tensor in tensors:
        address = _address(tensor)
        if address not in moved:
            moved[address] = _storage(memory, places[address], sizes[address])
            moved[address].copy_(tensor.untyped_storage())
            offsets[moved[address].data_ptr()] = places[address]
        here = torch.empty(0, dtype=tensor.dtype)
        here.set_(moved[address], tensor.storage_offset(), tensor.shape, tensor.stride())
        tensor.data = here  # what it held before is freed here, so that there is never more than one of them twice
    return Shared(descriptor, memory, offsets, total)


def _is_plain(tensor: torch.Tensor) -> bool:
    is_known = type(tensor) in (torch.Tensor, nn.Parameter)
    is_dense = tensor.layout is torch.strided and not tensor.is_quantized
    return is_known and is_dense and tensor.device.type == "cpu" and tensor.numel() > 0


def _address(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _mapped(descriptor: int) -> mmap.mmap:
    memory = mmap.mmap(descriptor, os.fstat(descriptor).st_size)
    with contextlib.suppress(OSError, AttributeError):  # a layer reads all of its weights: fewer, larger pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def _storage(memory: mmap.mmap, offset: int, size: int) -> torch.UntypedStorage:
    return torch.frombuffer(memory, dtype=torch.uint8, count=size, offset=offset).untyped_storage()


# --- what is sent


@dataclass(frozen=True)
class _Packed:
    """A captured network without the objects of torch.fx, which refer to each other in circles."""

    graph: LayerGraph
    nodes: list[tuple[str, str, Any, Any, Any]]
    """Name, operation, target, arguments, arguments by name; other nodes in them as `_Node`."""
    layers: tuple[tuple[int, ...], ...]
    held: dict[str, Any]
    """The modules and tensors that nodes name."""
    more: dict[str, Any]
    """The other fields of `Traced`."""


@dataclass(frozen=True)
class _Node:
    number: int


_PACKED_APART = ("graph", "module", "nodes")


def pack(traced: Traced, more: Any, shared: Shared) -> bytes:
    """A captured network, and more that goes with it. Raises CannotPackError."""
    nodes = list(traced.module.graph.nodes)
    number_of = {node: number for number, node in enumerate(nodes)}

    def plain(value: Any) -> Any:
        numbered: Any = lambda node: _Node(number_of[node])  # noqa: E731  not what torch.fx itself would put there
        return fx.node.map_arg(value, numbered)

    packed = _Packed(
        traced.graph,
        [(node.name, node.op, node.target, plain(node.args), plain(node.kwargs)) for node in nodes],
        tuple(tuple(number_of[node] for node in group) for group in traced.nodes),
        {str(node.target): _held(traced.module, node) for node in nodes if node.op in ("call_module", "get_attr")},
        {each.name: getattr(traced, each.name) for each in fields(traced) if each.name not in _PACKED_APART},
    )
    into = io.BytesIO()
    try:
        _Pickler(into, shared).dump((packed, more))
    except Exception as error:  # pickle raises all kinds where an object cannot be taken elsewhere
        raise CannotPackError((str(error).splitlines() or [type(error).__name__])[0]) from error
    return into.getvalue()


def _held(root: nn.Module, node: fx.Node) -> Any:
    value: Any = root
    for name in str(node.target).split("."):
        value = getattr(value, name)
    return value


def unpack(packed: bytes, descriptor: int) -> tuple[Traced, Any]:
    """What was packed, over the parameters in the file `descriptor`. Raises CannotPackError."""
    memory = _mapped(descriptor)
    try:
        network, more = _Unpickler(io.BytesIO(packed), memory).load()
    except Exception as error:  # as for packing: some objects only tell when they are made again
        raise CannotPackError((str(error).splitlines() or [type(error).__name__])[0]) from error
    graph = fx.Graph()
    nodes: list[fx.Node] = []

    def real(value: Any) -> Any:
        return _map(value, nodes)

    for name, op, target, args, kwargs in network.nodes:
        nodes.append(graph.create_node(op, target, real(args), real(kwargs), name))
    module = _Uncompiled(network.held, graph)
    mine = list(module.graph.nodes)
    layers = tuple(tuple(mine[number] for number in group) for group in network.layers)
    return Traced(network.graph, module, layers, **network.more), more


def _map(value: Any, nodes: list[fx.Node]) -> Any:
    if isinstance(value, _Node):
        return nodes[value.number]
    if isinstance(value, dict):
        return {key: _map(one, nodes) for key, one in value.items()}
    if isinstance(value, slice):
        return slice(*(_map(one, nodes) for one in (value.start, value.stop, value.step)))
    if isinstance(value, list):
        return [_map(one, nodes) for one in value]
    if type(value) is tuple:
        return tuple(_map(one, nodes) for one in value)
    return value


class _Uncompiled(fx.GraphModule):
    """Holds modules, parameters and the graph. It is run by models.steps, so no code is made for it."""

    def recompile(self) -> Any:
        """Leave it."""


class _Pickler(pickle.Pickler):
    def __init__(self, into: io.BytesIO, shared: Shared) -> None:
        super().__init__(into, protocol=5)
        self._shared = shared

    def persistent_id(self, value: Any) -> Any:
        """Tensors and operations of torch are named, all else is pickled."""
        if isinstance(value, torch._ops.OpOverload):
            return ("operation", value._schema.name, value._overloadname)
        if type(value) not in (torch.Tensor, nn.Parameter) or value.layout is not torch.strided or value.is_quantized:
            return None  # torch pickles these itself
        is_parameter = isinstance(value, nn.Parameter)
        view = (value.dtype, value.storage_offset(), tuple(value.shape), value.stride())
        offset = self._shared.offsets.get(_address(value)) if value.numel() else None
        if offset is not None:
            return ("shared", is_parameter, view, offset, value.untyped_storage().nbytes())
        whole = value.detach().contiguous()
        data = whole.reshape(-1).view(torch.uint8).numpy().tobytes()
        return ("copied", is_parameter, (value.dtype, 0, tuple(value.shape), whole.stride()), data, len(data))


class _Unpickler(pickle.Unpickler):
    def __init__(self, packed: io.BytesIO, memory: mmap.mmap) -> None:
        super().__init__(packed)
        self._memory = memory

    def persistent_load(self, identifier: Any) -> Any:
        """The other way round."""
        if identifier[0] == "operation":
            _, name, overload = identifier
            space, _, short = name.partition("::")
            return getattr(getattr(getattr(torch.ops, space), short), overload)
        how, is_parameter, view, where, size = identifier
        dtype, start, shape, stride = view
        tensor = torch.empty(0 if size else shape, dtype=dtype)
        if size and how == "shared":
            tensor.set_(_storage(self._memory, where, size), start, shape, stride)
        elif size:
            tensor.set_(torch.frombuffer(bytearray(where), dtype=torch.uint8).untyped_storage(), start, shape, stride)
        return nn.Parameter(tensor, requires_grad=False) if is_parameter else tensor
