"""Layers of torch that can be computed by rows: how each looks at its inputs, and what makes some rows of it.

A layer is taken only where all of it is understood: torch's own modules as they are, without hooks, functions of torch,
and methods of tensors. A module is called on the rows as it would be on the whole tensor; of a convolution the
parameters are used, since its padding belongs at real borders alone. Anything else is computed whole.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, TypeAlias

import torch
from torch import fx, nn
from torch.nn import functional
from torch.nn.modules import module as nn_module

from edgecloud.models.ordering import Traced
from edgecloud.models.rows import ROWS, Kept, Made, RowOp, RowPlan, Rows, Window
from edgecloud.models.steps import Steps
from edgecloud.models.torch_arrays import Array, to_array, to_tensor

LEAST_PLACES = 96
"""Of the output of a convolution, in one block: each call reads all weights, and lays them out for the processor."""

Compute: TypeAlias = Callable[[Sequence[torch.Tensor], Made], torch.Tensor]
"""Makes rows of a layer out of the rows that it reads of each input."""


@dataclass(frozen=True)
class TorchRow:
    """A layer that can be computed by rows."""

    op: RowOp
    compute: Compute


class _WholeError(Exception):
    """A layer is computed whole: it looks further than a window, or not all of it is understood."""


def row_layers(traced: Traced) -> dict[int, TorchRow]:
    """Those of a network, by number."""
    place = {group[-1]: number for number, group in enumerate(traced.nodes)}
    axes: dict[int, int] = {}
    found: dict[int, TorchRow] = {}
    for number, layer in enumerate(traced.graph.layers):
        axes[number] = ROWS if len(layer.out_shape) > ROWS else -1
        if layer.inputs and _may_write(traced, number):
            try:
                call = _Call.of(traced, number, place, axes)
                with torch.inference_mode():
                    found[number] = call.rule(call)
            except _WholeError:
                continue
            axes[number] = found[number].op.axis
    return found


def _may_write(traced: Traced, number: int) -> bool:
    """Whether what a layer writes into is read by nobody else, so that no row that is read again can be spoilt."""
    written = [source for source, writers in traced.overwritten.items() if number in writers]
    return all(_leads_to(traced, source, number) for source in written)


def _leads_to(traced: Traced, source: int, number: int) -> bool:
    while source != number:
        readers = traced.graph.readers[source]
        if len(readers) != 1 or source in traced.graph.outputs:
            return False
        source = readers[0]
    return True


# --- one layer, as it is called


@dataclass(frozen=True)
class _Call:
    """How a network computes a layer."""

    root: nn.Module
    group: tuple[fx.Node, ...]
    sources: tuple[fx.Node, ...]
    """Of its inputs, in the graph's order."""
    constants: tuple[fx.Node, ...]
    """That it reads, with all that these are made of before them."""
    shapes: tuple[tuple[int, ...], ...]
    """Of its inputs."""
    axes: tuple[int, ...]
    """Of the rows of its inputs, -1 where there are none."""
    out_shape: tuple[int, ...]
    rule: "Rule"

    @classmethod
    def of(cls, traced: Traced, number: int, place: Mapping[fx.Node, int], axes: Mapping[int, int]) -> "_Call":
        """Raises _WholeError for a layer that no rule is for."""
        group, layers = traced.nodes[number], traced.graph.layers
        if any(node.target is not operator.getitem for node in group[1:]):
            raise _WholeError
        constants: dict[fx.Node, None] = {}
        for node in group:
            for read in node.all_input_nodes:
                if read not in place and read not in group:
                    _take_constant(read, place, constants)
        inputs = layers[number].inputs
        return cls(
            root=traced.module,
            group=group,
            sources=tuple(traced.nodes[source][-1] for source in inputs),
            constants=tuple(constants),
            shapes=tuple(layers[source].out_shape for source in inputs),
            axes=tuple(axes[source] for source in inputs),
            out_shape=layers[number].out_shape,
            rule=_rule_for(traced.module, group[0]),
        )

    @property
    def node(self) -> fx.Node:
        return self.group[0]

    @property
    def module(self) -> nn.Module | None:
        return self.root.get_submodule(str(self.node.target)) if self.node.op == "call_module" else None

    def setting(self, name: str, position: int, default: Any) -> Any:
        """Of the module, or an argument of the function or method; `position` counts what it is called on."""
        if self.module is not None:
            return getattr(self.module, name, default)
        if name in self.node.kwargs:
            return self.node.kwargs[name]
        return self.node.args[position] if position < len(self.node.args) else default

    def steps(self, *answers: fx.Node) -> Steps:
        """All of it as a function of its inputs."""
        return Steps(self.root, self.sources, (*self.constants, *self.group), answers or self.group[-1])

    def values(self, *nodes: fx.Node) -> tuple[torch.Tensor, ...]:
        """Constants as they are now."""
        made: tuple[torch.Tensor, ...] = Steps(self.root, (), self.constants, nodes)()
        return made

    @property
    def axis(self) -> int:
        """Of the only input that has rows."""
        if len(self.axes) != 1 or self.axes[0] < 0:
            raise _WholeError
        return self.axes[0]

    @property
    def rows(self) -> int:
        """Of that input."""
        return self.shapes[0][self.axis]


def _take_constant(node: fx.Node, place: Mapping[fx.Node, int], constants: dict[fx.Node, None]) -> None:
    if node in constants:
        return
    if node in place or node.op == "placeholder":
        raise _WholeError
    for read in node.all_input_nodes:
        _take_constant(read, place, constants)
    constants[node] = None


Rule: TypeAlias = Callable[[_Call], TorchRow]
"""Raises _WholeError where a layer cannot be computed by rows as it is called."""


def _as_called(call: _Call) -> Compute:
    """The layer itself, on rows in place of whole tensors."""
    steps = call.steps()

    def compute(blocks: Sequence[torch.Tensor], _: Made) -> torch.Tensor:
        made: torch.Tensor = steps(*blocks)
        return made

    return compute


# --- rules: what looks at one row


def _per_row(call: _Call) -> TorchRow:
    """Of one input, each row alone, in the same place."""
    axis, rows = call.axis, call.rows
    if len(call.out_shape) <= axis or call.out_shape[axis] != rows:
        raise _WholeError
    return TorchRow(RowOp((Window(rows, axis=axis),), rows, axis), _as_called(call))


def _elementwise(call: _Call) -> TorchRow:
    """Of one input or several, which are broadcast; constants are the same for every row."""
    rank = len(call.out_shape)
    known = [(axis - len(shape), shape[axis]) for axis, shape in zip(call.axes, call.shapes, strict=True) if axis >= 0]
    from_end = next((end for end, rows in known if rank + end >= 0 and rows == call.out_shape[end]), None)
    if from_end is None or rank + from_end == 0:
        raise _WholeError
    rows = call.out_shape[from_end]
    constants = [node for node in call.constants if any(user in call.group for user in node.users)]
    for constant in call.values(*constants) if constants else ():
        if not isinstance(constant, torch.Tensor):
            raise _WholeError
        if constant.dim() >= -from_end and constant.shape[from_end] != 1:
            raise _WholeError
    windows = []
    for shape in call.shapes:
        is_same = len(shape) >= -from_end and shape[from_end] == rows
        axis = len(shape) + from_end
        windows.append(Window(rows, axis=axis) if is_same else Window(_size(shape), reads_all=True))
    return TorchRow(RowOp(tuple(windows), rows, rank + from_end), _as_called(call))


def _size(shape: Sequence[int]) -> int:
    return shape[ROWS] if len(shape) > ROWS else 1


def _unless_training(position: int, call: _Call) -> TorchRow:
    """Does nothing, or the same for all rows, unless it trains."""
    name = "train" if "train" in call.node.kwargs else "training"
    if call.setting(name, position, default=True):
        raise _WholeError
    return _per_row(call)


def _batch_norm(call: _Call) -> TorchRow:
    module = call.module
    if module is not None and (module.training or getattr(module, "running_mean", None) is None):
        raise _WholeError
    if call.axis == 1:
        raise _WholeError
    return _per_row(call)


def _batch_norm_function(call: _Call) -> TorchRow:
    if call.setting("training", 5, default=False) or call.axis == 1:
        raise _WholeError
    return _per_row(call)


def _across(position: int, call: _Call) -> TorchRow:
    """Along one axis, which is not that of the rows."""
    dim = call.setting("dim", position, default=None)
    if not isinstance(dim, int) or dim % len(call.out_shape) == call.axis:
        raise _WholeError
    return _per_row(call)


def _across_channels(call: _Call) -> TorchRow:
    if call.axis == 1:
        raise _WholeError
    return _per_row(call)


def _across_last(position: int, call: _Call) -> TorchRow:
    """Along the last axes: of a normalisation as many as its shape has, of a matrix one."""
    shape = call.setting("normalized_shape", position, default=(0,)) if position >= 0 else (0,)
    count = len(shape) if isinstance(shape, tuple | list) else 1
    if call.axis >= len(call.out_shape) - count or len(call.shapes[0]) != len(call.out_shape):
        raise _WholeError
    return _per_row(call)


def _concat(call: _Call) -> TorchRow:
    if call.constants:  # they have all rows
        raise _WholeError
    dim = call.setting("dim", 1, default=0)
    rank = len(call.out_shape)
    axes = set(call.axes)
    axis = axes.pop()
    if axes or axis < 0 or not isinstance(dim, int) or dim % rank == axis:
        raise _WholeError
    rows = call.out_shape[axis]
    return TorchRow(RowOp(tuple(Window(rows, axis=axis) for _ in call.shapes), rows, axis), _as_called(call))


def _part(call: _Call) -> TorchRow:
    """One of the parts into which a tensor is taken apart, along another axis."""
    dim = call.setting("dim", 2, default=0)
    if len(call.group) != 2 or not isinstance(dim, int) or dim % len(call.shapes[0]) == call.axis:
        raise _WholeError
    return _per_row(call)


def _permuted(call: _Call) -> TorchRow:
    order: Any = call.node.kwargs.get("dims", call.node.args[1:])
    if len(order) == 1 and isinstance(order[0], tuple | list):
        order = order[0]
    if len(order) != len(call.out_shape) or not all(isinstance(each, int) for each in order):
        raise _WholeError
    return _moved(call, [each % len(order) for each in order])


def _transposed(call: _Call) -> TorchRow:
    rank = len(call.out_shape)
    dims = [call.setting(f"dim{number}", number + 1, default=None) for number in (0, 1)]
    if not all(isinstance(each, int) for each in dims):
        raise _WholeError
    order, (a, b) = list(range(rank)), (each % rank for each in dims)
    order[a], order[b] = b, a
    return _moved(call, order)


def _moved(call: _Call, order: Sequence[int]) -> TorchRow:
    axis = order.index(call.axis)
    if axis == 0:
        raise _WholeError
    op = RowOp((Window(call.rows, axis=call.axis),), call.rows, axis)
    return TorchRow(op, _as_called(call))


def _reshaped(call: _Call) -> TorchRow:
    """The axis of the rows stays one; those before and behind it are split or joined."""
    if any(isinstance(each, torch.dtype) for each in (*call.node.args, *call.node.kwargs.values())):
        raise _WholeError  # the same bytes as other numbers
    axis, rows = call.axis, call.rows
    before, shape = prod(call.shapes[0][:axis]), call.out_shape
    places = [place for place, side in enumerate(shape) if side == rows and prod(shape[:place]) == before]
    if not places or places[0] == 0 or shape[0] != call.shapes[0][0]:
        raise _WholeError
    to = places[0]

    def compute(blocks: Sequence[torch.Tensor], made: Made) -> torch.Tensor:
        return blocks[0].reshape(-1, *shape[1:to], made.stop - made.start, *shape[to + 1 :])

    return TorchRow(RowOp((Window(rows, axis=axis),), rows, to), compute)


def _indexed(call: _Call) -> TorchRow:
    """All rows, and places or ranges of other axes, as in x[:, 0]."""
    index, axis = call.node.args[1], call.axis
    if not isinstance(index, tuple) or not all(isinstance(each, int | slice) for each in index):
        raise _WholeError
    kept = (index[0], index[axis]) if axis < len(index) else (index[0],)
    if any(each != slice(None) for each in kept):
        raise _WholeError
    to = axis - sum(isinstance(each, int) for each in index[:axis])
    return TorchRow(RowOp((Window(call.rows, axis=axis),), call.rows, to), _as_called(call))


# --- rules: what looks at a window


def _sides(value: Any, dims: int) -> tuple[int, ...]:
    """A setting for each axis of a picture."""
    sides = tuple(value) if isinstance(value, tuple | list) else (value,)
    sides = sides * dims if len(sides) == 1 else sides
    if len(sides) != dims or not all(isinstance(side, int) for side in sides):
        raise _WholeError
    return sides


def _spatial(call: _Call, dims: int) -> int:
    """Which of the axes behind the channels the rows are."""
    if len(call.shapes[0]) != dims + 2 or len(call.out_shape) != dims + 2 or call.axis < ROWS:
        raise _WholeError
    return call.axis - ROWS


def _padded(position: int, call: _Call) -> TorchRow:
    """With a constant, the argument at that position, which belongs at real borders alone."""
    pads = call.setting("padding" if call.module is not None else "pad", 1, default=None)
    mode = call.setting("mode", 2, default="constant") if position > 2 else "constant"
    value: Any = call.setting("value", position, default=None)
    if not isinstance(pads, tuple | list) or not all(isinstance(each, int) for each in pads) or mode != "constant":
        raise _WholeError
    axis, sides = call.axis, [*pads, *[0] * (2 * len(call.out_shape) - len(pads))]
    place = 2 * (len(call.out_shape) - 1 - axis)
    before, behind = sides[place : place + 2]
    if before < 0 or behind < 0:
        raise _WholeError

    def compute(blocks: Sequence[torch.Tensor], made: Made) -> torch.Tensor:
        (block,), (rows,) = blocks, made.reads
        return functional.pad(block, [*sides[:place], rows.before, rows.behind, *sides[place + 2 :]], value=value)

    return TorchRow(RowOp((Window(call.rows, before=before, axis=axis),), call.out_shape[axis], axis), compute)


def _pool(dims: int, kind: str, call: _Call) -> TorchRow:
    """Called on rows that begin at a multiple of its stride, so that its own padding is right at real borders."""
    place = _spatial(call, dims)
    if call.setting("return_indices", 6, default=False) and call.module is not None:
        raise _WholeError
    if any(node.args[1] != 0 for node in call.group[1:]):
        raise _WholeError
    kernel = _sides(call.setting("kernel_size", 1, default=None), dims)
    stride = call.setting("stride", 2, default=None)
    stride = _sides(stride, dims) if stride not in (None, [], ()) else kernel
    before = _sides(call.setting("padding", 3, default=0), dims)
    dilation = _sides(call.setting("dilation", 4, default=1), dims) if kind == "max" else (1,) * dims
    reach = (kernel[place] - 1) * dilation[place] + 1
    window = Window(call.rows, reach, stride[place], before[place], call.axis, is_aligned=True)
    whole, axis = _as_called(call), call.axis

    def compute(blocks: Sequence[torch.Tensor], made: Made) -> torch.Tensor:
        rows = whole(blocks, made)
        return rows.narrow(axis, made.start - made.reads[0].start // stride[place], made.stop - made.start)

    return TorchRow(_checked(RowOp((window,), call.out_shape[axis], axis)), compute)


def _checked(op: RowOp) -> RowOp:
    """Raises _WholeError where some row of the output would be made of padding alone."""
    (window,) = op.windows
    first, last = window.read(0, 1), window.read(op.rows - 1, op.rows)
    if window.before >= window.reach or first.stop <= first.start or last.stop <= last.start:
        raise _WholeError
    return op


_CONVOLUTIONS: dict[int, Callable[..., torch.Tensor]] = {
    1: functional.conv1d,
    2: functional.conv2d,
    3: functional.conv3d,
}


@dataclass(frozen=True)
class _Convolution:
    """The settings of one."""

    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int

    @classmethod
    def of(cls, kernel: Sequence[int], stride: Any, padding: Any, dilation: Any, groups: int) -> "_Convolution":
        dims = len(kernel)
        dilations = _sides(dilation, dims)
        if padding == "same":
            totals = [each * (side - 1) for each, side in zip(dilations, kernel, strict=True)]
            pads = tuple((total // 2, total - total // 2) for total in totals)
        else:
            pads = tuple((side, side) for side in _sides(0 if padding == "valid" else padding, dims))
        return cls(_sides(stride, dims), pads, dilations, groups)

    def compute(self, place: int, parameters: Callable[[], tuple[torch.Tensor, torch.Tensor | None]]) -> Compute:
        """What makes rows, which are the axis `place` of those behind the channels."""
        run = _CONVOLUTIONS[len(self.stride)]
        own = tuple(0 if number == place else before for number, (before, _) in enumerate(self.padding))
        more = [(0, behind - before) for before, behind in self.padding]

        def compute(blocks: Sequence[torch.Tensor], made: Made) -> torch.Tensor:
            (block,), (rows,) = blocks, made.reads
            more[place] = (rows.before, rows.behind)
            if any(map(any, more)):
                block = functional.pad(block, [side for pair in reversed(more) for side in pair])
            return run(block, *parameters(), self.stride, own, self.dilation, self.groups)

        return compute


def _conv_module(call: _Call) -> TorchRow:
    module = call.module
    assert isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    if module.padding_mode != "zeros":
        raise _WholeError
    settings = (module.stride, module.padding, module.dilation, module.groups)
    return _conv(call, module.kernel_size, settings, lambda: (module.weight, module.bias))


def _conv_function(call: _Call) -> TorchRow:
    names = (("stride", 3, 1), ("padding", 4, 0), ("dilation", 5, 1), ("groups", 6, 1))
    return _conv_of_constants(call, tuple(call.setting(*each) for each in names))


def _convolution(call: _Call) -> TorchRow:
    """torch.export's, which may be a transposed one."""
    if call.setting("transposed", 6, default=True):
        raise _WholeError
    names = (("stride", 3, 1), ("padding", 4, 0), ("dilation", 5, 1), ("groups", 8, 1))
    return _conv_of_constants(call, tuple(call.setting(*each) for each in names))


def _conv_of_constants(call: _Call, settings: tuple[Any, ...]) -> TorchRow:
    weight, bias = call.setting("weight", 1, default=None), call.setting("bias", 2, default=None)
    nodes = [each for each in (weight, bias) if each is not None]
    if not nodes or any(each not in call.constants for each in nodes):
        raise _WholeError

    def parameters() -> tuple[torch.Tensor, torch.Tensor | None]:
        values = call.values(*nodes)
        return values[0], values[1] if bias is not None else None

    return _conv(call, parameters()[0].shape[2:], settings, parameters)


def _conv(
    call: _Call,
    kernel: Sequence[int],
    settings: tuple[Any, ...],
    parameters: Callable[[], tuple[torch.Tensor, torch.Tensor | None]],
) -> TorchRow:
    stride, padding, dilation, groups = settings
    place = _spatial(call, len(kernel))
    conv = _Convolution.of(kernel, stride, padding, dilation, groups)
    reach = (kernel[place] - 1) * conv.dilation[place] + 1
    window = Window(call.rows, reach, conv.stride[place], conv.padding[place][0], call.axis)
    rows = call.out_shape[call.axis]
    least = -(-LEAST_PLACES * rows // prod(call.out_shape[2:]))
    op = _checked(RowOp((window,), rows, call.axis, least))
    return TorchRow(op, conv.compute(place, parameters))


# --- which rule is for what


_ELEMENTWISE = """
    relu relu6 hardtanh silu gelu tanh sigmoid hardswish hardsigmoid leaky_relu elu celu selu softplus
    mish logsigmoid tanhshrink softsign hardshrink softshrink threshold add sub mul div true_divide
    truediv iadd isub imul itruediv maximum minimum neg abs exp log log1p sqrt rsqrt square pow clamp
    clip clamp_min clamp_max reciprocal erf sin cos floor ceil round sign where contiguous clone detach
    alias
"""
_NAMED: dict[str, Rule] = {
    **dict.fromkeys(_ELEMENTWISE.split(), _elementwise),
    "dropout": partial(_unless_training, 2),
    "feature_dropout": partial(_unless_training, 2),
    "batch_norm": _batch_norm_function,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "softmax": partial(_across, 1),
    "_softmax": partial(_across, 1),
    "log_softmax": partial(_across, 1),
    "local_response_norm": _across_channels,
    "layer_norm": partial(_across_last, 1),
    "linear": partial(_across_last, -1),
    "cat": _concat,
    "concat": _concat,
    "chunk": _part,
    "split": _part,
    "split_with_sizes": _part,
    "permute": _permuted,
    "transpose": _transposed,
    "flatten": _reshaped,
    "unsqueeze": _reshaped,
    "squeeze": _reshaped,
    "getitem": _indexed,
    "view": _reshaped,
    "reshape": _reshaped,
    "pad": partial(_padded, 3),
    "constant_pad_nd": partial(_padded, 2),
    **{f"conv{dims}d": _conv_function for dims in _CONVOLUTIONS},
    "convolution": _convolution,
    **{f"max_pool{dims}d": partial(_pool, dims, "max") for dims in _CONVOLUTIONS},
    **{f"max_pool{dims}d_with_indices": partial(_pool, dims, "max") for dims in _CONVOLUTIONS},
    **{f"avg_pool{dims}d": partial(_pool, dims, "avg") for dims in _CONVOLUTIONS},
}
"""Functions of torch and methods of tensors by name; one that ends with `_` works in place and has the same rule."""
_OWNERS = (torch, functional, operator)
_FUNCTIONS: dict[Any, Rule] = {
    getattr(owner, name): rule
    for owner in _OWNERS
    for base, rule in _NAMED.items()
    for name in (base, f"{base}_")
    if hasattr(owner, name)
}
_ACTIVATIONS = (
    *(nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.SiLU, nn.GELU, nn.Tanh, nn.Sigmoid, nn.Hardswish, nn.Hardsigmoid),
    *(nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.Softplus, nn.Mish, nn.LogSigmoid, nn.Softsign, nn.Tanhshrink),
    *(nn.Hardshrink, nn.Softshrink, nn.Threshold),
)
_MODULES: dict[type[nn.Module], Rule] = {
    **dict.fromkeys((*_ACTIVATIONS, nn.Identity), _elementwise),
    **dict.fromkeys((nn.PReLU, nn.LocalResponseNorm, nn.Softmax2d), _across_channels),
    **dict.fromkeys((nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d), partial(_unless_training, 0)),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), _batch_norm),
    **dict.fromkeys((nn.Softmax, nn.LogSoftmax), partial(_across, 0)),
    nn.LayerNorm: partial(_across_last, 0),
    nn.Linear: partial(_across_last, -1),
    nn.Flatten: _reshaped,
    **dict.fromkeys((nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d), partial(_padded, 2)),
    **dict.fromkeys((nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d), partial(_padded, 2)),
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _conv_module),
    nn.MaxPool1d: partial(_pool, 1, "max"),
    nn.MaxPool2d: partial(_pool, 2, "max"),
    nn.MaxPool3d: partial(_pool, 3, "max"),
    nn.AvgPool1d: partial(_pool, 1, "avg"),
    nn.AvgPool2d: partial(_pool, 2, "avg"),
    nn.AvgPool3d: partial(_pool, 3, "avg"),
}
"""Torch's own, by exact type: a subclass may do something else."""
_STOCHASTIC_DEPTH = "torchvision.ops.stochastic_depth"


def _rule_for(root: nn.Module, node: fx.Node) -> Rule:
    """Raises _WholeError where there is none."""
    rule: Rule | None = None
    if node.op == "call_module":
        module = root.get_submodule(str(node.target))
        rule = None if _is_changed(module) else _MODULES.get(type(module))
    elif node.op == "call_method":
        rule = _NAMED.get(str(node.target).removesuffix("_"))
    elif isinstance(node.target, torch._ops.OpOverload):
        name = node.target._schema.name
        rule = _NAMED.get(name.removeprefix("aten::").removesuffix("_")) if name.startswith("aten::") else None
    elif node.op == "call_function":
        rule = _FUNCTIONS.get(node.target)
        if getattr(node.target, "__module__", "") == _STOCHASTIC_DEPTH:
            rule = partial(_unless_training, 3)
    if rule is None:
        raise _WholeError
    return rule


def _is_changed(module: nn.Module) -> bool:
    """Whether calling it does more than what torch wrote: hooks, or a method of its own."""
    everywhere = (nn_module._global_forward_hooks, nn_module._global_forward_pre_hooks)
    return bool(module._forward_hooks or module._forward_pre_hooks or any(everywhere) or "forward" in vars(module))


# --- following a plan


class TorchRowRun:
    """One run of a plan: the rows that are there now. Nothing in it is shared with another run."""

    def __init__(self, traced: Traced, layers: Mapping[int, TorchRow], plan: RowPlan) -> None:
        self._graph, self._layers, self._plan = traced.graph, layers, plan
        region = frozenset(plan.region)
        self._copied = frozenset(n for n, writers in traced.overwritten.items() if writers & region)
        self._whole: dict[int, torch.Tensor] = {}
        self._blocks: dict[int, tuple[int, torch.Tensor]] = {}

    def give(self, number: int, array: Array) -> None:
        """A whole tensor, which stays as it is."""
        self._whole[number] = self._own(number, array)

    def whole(self, number: int) -> Array:
        """A tensor that was given, or put together."""
        return to_array(self._whole[number])

    def run(self, place: int, array: Array | None = None) -> None:
        """A step of the plan; `array` is its chunk where that comes, and stays as it is."""
        step = self._plan.steps[place]
        with torch.inference_mode():
            if array is not None:
                piece = step.piece
                self._add(piece.layer, piece.start, self._own(piece.layer, array), piece.axis)
            kept = {each.layer: each for each in step.kept}
            last = {source: each for each in step.made for source in self._graph.layers[each.layer].inputs}
            for each in step.made:
                inputs = self._graph.layers[each.layer].inputs
                blocks = [self._take(source, rows) for source, rows in zip(inputs, each.reads, strict=True)]
                made = self._layers[each.layer].compute(blocks, each)
                self._add(each.layer, each.start, made, self._plan.axes[each.layer])
                for source in inputs:
                    if last[source] is each and source in self._blocks:
                        self._trim(source, kept.get(source))
            for number in list(self._blocks):
                self._trim(number, kept.get(number))

    def _own(self, number: int, array: Array) -> torch.Tensor:
        tensor = to_tensor(array)
        return tensor.clone() if number in self._copied else tensor

    def _add(self, number: int, start: int, block: torch.Tensor, axis: int) -> None:
        if number not in self._plan.full:
            if number in self._blocks:
                start, before = self._blocks[number]
                block = torch.cat((before, block), axis)
            self._blocks[number] = start, block
            return
        rows = self._graph.layers[number].out_shape[axis]
        if block.shape[axis] == rows:
            self._whole[number] = block
            return
        if number not in self._whole:
            shape = (*block.shape[:axis], rows, *block.shape[axis + 1 :])
            self._whole[number] = torch.empty(shape, dtype=block.dtype)
        self._whole[number].narrow(axis, start, block.shape[axis]).copy_(block)

    def _take(self, number: int, rows: Rows) -> torch.Tensor:
        start, tensor = (0, self._whole[number]) if number in self._whole else self._blocks[number]
        if rows.axis is None or rows.stop - rows.start == tensor.shape[rows.axis]:
            return tensor
        return tensor.narrow(rows.axis, rows.start - start, rows.stop - rows.start)

    def _trim(self, number: int, kept: Kept | None) -> None:
        """Keep what is read again; a copy, so that the rest is let go."""
        start, tensor = self._blocks[number]
        if kept is None:
            del self._blocks[number]
        elif start != kept.start:
            rows = tensor.narrow(self._axis(number), kept.start - start, kept.stop - kept.start)
            self._blocks[number] = kept.start, rows.clone()

    def _axis(self, number: int) -> int:
        known = self._plan.axes.get(number)
        return known if known is not None else next(p.axis for p in self._plan.pieces if p.layer == number)
