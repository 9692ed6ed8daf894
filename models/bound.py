"""Values computed from the input that cannot cross a cut: numbers, and tensors of no fixed shape.

A number that depends on shapes alone is a constant, since the shape of the input is fixed. One that depends on values
(`(x > 50).sum().item()`) is another one for every input, and so is the size of `x[x > 0]`. Neither may become a
constant, nor travel. Which nodes those are is decided by following the graph from its inputs, not by trying inputs;
where that does not tell, a shape is taken for one that depends on values.
"""

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.fx.node import map_aggregate


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_FIXED = _words("dtype device layout ndim is_cuda is_cpu is_sparse is_quantized is_meta requires_grad itemsize")
_FIXED_CALLS = _words(
    "dim ndimension element_size is_floating_point is_complex is_signed get_device is_tensor result_type type"
)
_OF_SHAPE = _words("shape nbytes names")
_OF_SHAPE_CALLS = _words(
    "size numel nelement stride storage_offset is_contiguous len sym_size sym_numel sym_stride sym_storage_offset "
    "sym_is_contiguous"
)
_PER_ELEMENT = _words(
    "add sub rsub mul div truediv floordiv true_divide floor_divide remainder mod fmod pow neg abs exp log sqrt rsqrt "
    "sigmoid tanh relu relu6 gelu silu elu leaky_relu leakyrelu hardswish hardsigmoid hardtanh dropout identity clamp "
    "clip clamp_min clamp_max gt ge lt le eq ne maximum minimum masked_fill fill full_like to float half double long "
    "int bool type_as clone contiguous detach alias where lerp threshold radd iadd isub imul itruediv and or xor "
    "logical_and logical_or logical_not bitwise_and bitwise_or bitwise_not invert round floor ceil sign"
)
"""A number among the arguments of these changes no shape."""
_PER_ROW = _words("linear addmm layernorm layer_norm softmax log_softmax")
_LIKE_FIRST = _words(
    "index_put _index_put_impl index_add index_copy index_fill scatter scatter_add scatter_reduce index_reduce "
    "masked_scatter masked_fill"
)
"""What these make has the shape of their first argument."""
_REDUCTIONS = _words("sum mean prod amax amin max min any all norm std var logsumexp nansum nanmean median")
_ROWS_OF_VALUES = _words(
    "nonzero nonzero_numpy argwhere masked_select unique _unique _unique2 unique_consecutive unique_dim bincount nms "
    "batched_nms"
)


@dataclass(frozen=True)
class _Bound:
    """`rows`: a tensor of which the first dimension alone depends on values."""

    rows: bool = False


def find_bound(
    graph: fx.Graph, sources: Iterable[fx.Node], tensors: Mapping[fx.Node, tuple[torch.Size | Any, ...]]
) -> set[fx.Node]:
    """The nodes that make something that depends on the input's values and cannot cross a cut.

    `tensors` has for every node that makes any the (shape, dtype) of its tensors.
    """
    depends, bound = set(sources), dict[fx.Node, _Bound]()
    for node in graph.nodes:
        reads = node.all_input_nodes
        if node.op in ("placeholder", "output") or not any(read in depends for read in reads):
            continue
        if _is_fixed(node, bound):
            continue
        depends.add(node)
        binding = _bound(node, bound, tensors)
        if binding is not None:
            bound[node] = binding
    return set(bound)


def through(node: fx.Node, bound: Set[fx.Node]) -> Iterator[fx.Node]:
    """The bound nodes that a node reads, and those that they read, each after what it reads itself."""
    seen: dict[fx.Node, None] = {}

    def visit(one: fx.Node) -> None:
        for read in one.all_input_nodes:
            if read in bound and read not in seen:
                visit(read)
                seen[read] = None

    visit(node)
    return iter(seen)


def _name(node: fx.Node) -> str:
    target = node.target
    if node.op == "call_module":
        module = node.graph.owning_module
        return type(module.get_submodule(str(target))).__name__.lower() if module is not None else ""
    name = target if isinstance(target, str) else str(getattr(target, "__name__", target)).split(".")[0]
    return name if name.startswith("_") else name.rstrip("_")


def _is_fixed(node: fx.Node, bound: Mapping[fx.Node, _Bound]) -> bool:
    """Whether it is the same for every input of this shape: what kind of tensor something is, or its shape."""
    name, is_attribute = _name(node), node.target is getattr
    if is_attribute:
        name = str(node.args[1])
    fixed, of_shape = (_FIXED, _OF_SHAPE) if is_attribute else (_FIXED_CALLS, _OF_SHAPE_CALLS)
    if name == "type" and len(node.args) > 1:
        return False  # a conversion
    return name in fixed or (name in of_shape and not any(read in bound for read in node.all_input_nodes))


def _bound(node: fx.Node, bound: Mapping[fx.Node, _Bound], tensors: Mapping[fx.Node, Any]) -> _Bound | None:
    """What a node that depends on values makes that cannot cross a cut; None where it makes tensors of fixed shapes."""
    if node not in tensors:
        return _Bound()
    name, reads = _name(node), [read for read in node.all_input_nodes if read in bound]
    numbers, of_no_shape = [r for r in reads if r not in tensors], [r for r in reads if r in tensors]
    if made := _made(node, name, tensors):
        return made
    if not reads:
        return None
    if of_no_shape:
        return _follows(node, name, of_no_shape, bound, tensors)
    return None if name in _PER_ELEMENT | _LIKE_FIRST and len(tensors[node]) == 1 and numbers else _Bound()


def _made(node: fx.Node, name: str, tensors: Mapping[fx.Node, Any]) -> _Bound | None:
    """Where an operation itself makes as many numbers as the values say."""
    if name in _ROWS_OF_VALUES or (name == "where" and len(node.args) + len(node.kwargs) == 1):
        return _Bound(rows=True)
    if name in ("getitem", "index", "_unsafe_index"):
        masks = _indices(
            node, lambda read: any(dtype in (torch.bool, torch.uint8) for _, dtype in tensors.get(read, ()))
        )
        return _Bound(rows=_is_alone(node)) if masks else None
    if name == "repeat_interleave":
        counts = node.kwargs.get("repeats", node.args[1] if len(node.args) > 1 else node.args[0])
        is_fixed = not isinstance(counts, fx.Node) or counts not in tensors or "output_size" in node.kwargs
        return None if is_fixed else _Bound()
    tags = getattr(node.target, "tags", ())
    return _Bound() if torch.Tag.dynamic_output_shape in tags else None


def _indices(node: fx.Node, is_one: Any) -> list[fx.Node]:
    indices: list[fx.Node] = []
    index = node.args[1] if len(node.args) > 1 else None
    map_aggregate(index, lambda one: indices.append(one) if isinstance(one, fx.Node) and is_one(one) else None)
    return indices


def _is_alone(node: fx.Node) -> bool:
    """Whether there is one index, which then makes the first dimension."""
    index = node.args[1]
    return isinstance(index, fx.Node) or (isinstance(index, tuple | list) and len(index) == 1)


def _follows(
    node: fx.Node, name: str, reads: list[fx.Node], bound: Mapping[fx.Node, _Bound], tensors: Mapping[fx.Node, Any]
) -> _Bound | None:
    """What becomes of a tensor of no fixed shape."""
    first = node.args[0] if node.args else None
    if name in _LIKE_FIRST and first not in bound:
        return None
    rows = all(bound[read].rows for read in reads)
    if isinstance(first, fx.Node) and first in bound:
        if name in _REDUCTIONS and len(tensors[node]) == 1:
            dims: Any = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
            listed = [dims] if isinstance(dims, int) else list(dims or ())
            is_whole = not listed or (rows and {0, -len(tensors[first][0][0])}.intersection(listed))
            return None if is_whole else _Bound()
        if name == "getitem":  # of several tensors, or of its rows
            return _Bound(rows=rows and isinstance(node.args[1], int) and len(tensors[first]) > 1)
    elif name in ("getitem", "index"):
        return _Bound(rows=rows and _is_alone(node))
    rank = max(len(shape) for shape, _ in tensors[node])
    keeps = name in _PER_ELEMENT or (name in _PER_ROW and rank > 1)
    others = [r for r in node.all_input_nodes if r not in reads and any(len(s) >= rank for s, _ in tensors.get(r, ()))]
    return _Bound(rows=rows and keeps and (not others or name in _PER_ROW))
