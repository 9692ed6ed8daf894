"""Networks in ONNX that are drawn: branches, nodes of several outputs, shapes that are read, inner answers."""

import random
from collections.abc import Callable
from typing import Any

from tests.hostile_onnx import node
from tests.onnx_files import Drawn, model

Sides = tuple[int, int]


class Drawing:
    """Tensors of N x a x b so far, and the nodes that make them."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.w = Drawn()
        self.nodes: list[Any] = []
        self.tensors: list[tuple[str, Sides]] = [("x", (4, 6))]

    def add(self, op: str, inputs: list[str], *sides: Sides, **more: Any) -> None:
        """A node with as many outputs as there are shapes."""
        names = [f"t{len(self.nodes)}_{number}" for number in range(len(sides))]
        self.nodes.append(node(op, inputs, names, **more))
        self.tensors += zip(names, sides, strict=True)

    def wholes(self, *numbers: int) -> str:
        """A constant of its own."""
        return self.w.wholes(f"c{len(self.w.tensors)}", *numbers)

    def pick(self) -> tuple[str, Sides]:
        """A tensor, rather a late one."""
        return self.tensors[-1 - min(int(self.rng.expovariate(0.5)), len(self.tensors) - 1)]


def _single(d: Drawing) -> None:
    name, sides = d.pick()
    d.add(d.rng.choice(("Relu", "Tanh", "Sigmoid", "Identity", "Softmax", "Neg")), [name], sides)


def _pair(d: Drawing) -> None:
    name, sides = d.pick()
    same = [other for other, its in d.tensors if its == sides]
    d.add(d.rng.choice(("Add", "Mul", "Max", "Sub")), [name, d.rng.choice(same)], sides)


def _concat(d: Drawing) -> None:
    (name, (a, b)), axis = d.pick(), d.rng.choice((1, 2))
    fitting = [(other, its) for other, its in d.tensors if its[2 - axis] == (a, b)[2 - axis]]
    other, (c, e) = d.rng.choice(fitting)
    if a * b + c * e < 400:
        d.add("Concat", [name, other], (a + c, b) if axis == 1 else (a, b + e), axis=axis)


def _split(d: Drawing) -> None:
    name, (a, b) = d.pick()
    if b > 1:
        first = d.rng.randrange(1, b)
        d.add("Split", [name, d.wholes(first, b - first)], (a, first), (a, b - first), axis=2)


def _transpose(d: Drawing) -> None:
    name, (a, b) = d.pick()
    d.add("Transpose", [name], (b, a), perm=[0, 2, 1])


def _weights(d: Drawing) -> None:
    (name, (a, b)), wide = d.pick(), d.rng.randrange(1, 8)
    d.add("MatMul", [name, d.w(f"w{len(d.w.tensors)}", b, wide)], (a, wide))


def _reshape(d: Drawing) -> None:
    """To one row, with the number of inputs read from the shape of any tensor."""
    name, (a, b) = d.pick()
    count = len(d.nodes)
    d.nodes.append(node("Shape", [d.pick()[0]], [f"s{count}"]))
    d.nodes.append(node("Gather", [f"s{count}", d.wholes(0)], [f"n{count}"]))
    d.nodes.append(node("Concat", [f"n{count}", d.wholes(1, a * b)], [f"to{count}"], axis=0))
    d.add("Reshape", [name, f"to{count}"], (1, a * b))


def _slice(d: Drawing) -> None:
    name, (a, b) = d.pick()
    start = d.rng.randrange(b)
    d.add("Slice", [name, d.wholes(start), d.wholes(b), d.wholes(2)], (a, b - start))


def _reduce(d: Drawing) -> None:
    name, (a, _) = d.pick()
    d.add("ReduceMean", [name], (a, 1), axes=[2], keepdims=1)


def _sort(d: Drawing) -> None:
    name, (a, b) = d.pick()
    d.add("TopK", [name, d.wholes(b)], (a, b), axis=2)
    d.nodes[-1].output.append(f"{d.nodes[-1].output[0]}_places")


def _expand(d: Drawing) -> None:
    """A constant, repeated for every input."""
    count, (a, b) = len(d.nodes), (d.rng.randrange(1, 4), d.pick()[1][1])
    d.nodes.append(node("Shape", ["x"], [f"s{count}"]))
    d.nodes.append(node("Gather", [f"s{count}", d.wholes(0)], [f"n{count}"]))
    d.nodes.append(node("Concat", [f"n{count}", d.wholes(a, b)], [f"to{count}"], axis=0))
    d.add("Expand", [d.w(f"w{len(d.w.tensors)}", 1, a, b), f"to{count}"], (a, b))


KINDS: tuple[Callable[[Drawing], None], ...] = (
    *(_single, _single, _pair, _pair, _concat, _split, _transpose, _weights, _reshape, _slice, _reduce, _sort, _expand),
)


def drawn(seed: int) -> Any:
    """A network for a seed: one to four answers, all of which depend on the input."""
    d = Drawing(seed)
    for _ in range(d.rng.randrange(1, 25)):
        d.rng.choice(KINDS)(d)
    name, sides = d.pick()
    d.add("Add", [name, name], sides)
    last = d.tensors[-1][0]
    depends = _behind(d.nodes, "x")
    answers = [each for each, _ in d.tensors[1:] if each in depends]
    if last not in depends:
        d.add("Neg", ["x"], (4, 6))
        answers.append(d.tensors[-1][0])
    chosen = dict.fromkeys([answers[-1], *d.rng.sample(answers, min(len(answers), d.rng.randrange(4)))])
    return model(d.nodes, d.w, ["N", 4, 6], list(chosen), opset=17)


def _behind(nodes: list[Any], name: str) -> set[str]:
    """What depends on the numbers of a tensor, and not on its shape alone."""
    found = {name}
    for each in nodes:
        if each.op_type != "Shape" and found.intersection(each.input):
            found |= set(each.output)
    return found
