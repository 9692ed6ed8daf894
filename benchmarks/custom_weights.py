"""Whether a custom model keeps the weights that its file sets, bit for bit, over a real cloud.

    python -m benchmarks.custom_weights [FILE.py ...]

Every way of setting weights in `WAYS`, and the given files, are run three times: in plain torch
in a fresh interpreter without this project, and split between this process and a cloud in another one at
point 0 and at the last. The answers have to be bit-identical. So have those that `edge_api.py --verify` compares with.
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.clouds import running_cloud
from benchmarks.fingerprint import write_table
from edgecloud.client.edge import Edge
from edgecloud.engine.executor import make_executor
from edgecloud.models import inputs, registry, weights
from edgecloud.models.torch_network import TorchNetwork, prepare, whole_answer
from edgecloud.net.tensors import Array
from edgecloud.utils.errors import AppError

TIMEOUT_S = 120.0

_NET = """
import copy, random
import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize
INPUT_SHAPE = (4,)
def net():
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
"""


def _sets(body: str) -> str:
    """A file whose build() does something to the first weights, `w` and `b`, of a small network `m`."""
    indented = "\n".join("    " + line for line in body.splitlines())
    return f"{_NET}def build():\n    m = net()\n    w, b = m[0].weight, m[0].bias\n{indented}\n    return m\n"


def _module(init: str, forward: str) -> str:
    """A file with a module of its own."""
    lines = "\n".join("        " + line for line in init.splitlines())
    head = "class M(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
    return f"{_NET}{head}{lines}\n    def forward(self, x):\n        return {forward}\nbuild = M\n"


WAYS: Mapping[str, str] = {
    "drawn": _sets("pass"),
    "fill": _sets("w.data.fill_(0.5); b.data.fill_(1.0)"),
    "init_constant": _sets("nn.init.constant_(w, 1 / 9); nn.init.ones_(b)"),
    "init_zeros": _sets("nn.init.zeros_(w); nn.init.zeros_(b)"),
    "init_eye": _sets("nn.init.eye_(w)"),
    "init_orthogonal": _sets("nn.init.orthogonal_(w)"),
    "init_xavier": _sets("nn.init.xavier_normal_(w); nn.init.uniform_(b, 2, 3)"),
    "init_trunc_normal": _sets("nn.init.trunc_normal_(w, std=0.02)"),
    "add": _sets("with torch.no_grad():\n    w.add_(0.25); b.mul_(3).sub_(1)"),
    "slice": _sets("w.data[:] = torch.arange(16.0).reshape(4, 4) / 7; w.data[1, 2:] = 5"),
    "numpy": _sets(
        "w.data = torch.from_numpy(np.random.normal(size=(4, 4)).astype('f')); np.copyto(b.data.numpy(), 2)"
    ),
    "random": _sets("b.data.copy_(torch.tensor([random.gauss(0, 1) for _ in range(4)]))"),
    "load_state_dict": _sets("m[0].load_state_dict({'weight': torch.full((4, 4), 0.1), 'bias': torch.ones(4)})"),
    "assign": _sets("m[0].load_state_dict({'weight': torch.eye(4), 'bias': torch.ones(4)}, assign=True)"),
    "parameter": _sets("m[0].weight = nn.Parameter(torch.linspace(-1, 1, 16).reshape(4, 4))"),
    "bernoulli": _sets("w.data.bernoulli_(0.5); b.data.exponential_()"),
    "apply": _sets("m.apply(lambda l: isinstance(l, nn.Linear) and nn.init.normal_(l.weight, 1, 0.1))"),
    "deepcopy": _sets("m[2] = nn.Sequential(copy.deepcopy(m[0]), copy.deepcopy(m[0]), m[2])"),
    "half": _sets("m[0] = m[0].half().float()"),
    "weight_norm": _sets("m[0] = nn.utils.parametrizations.weight_norm(m[0]); nn.utils.weight_norm(m[2])"),
    "parametrize": _module(
        "class Twice(nn.Module):\n    def forward(self, w): return w * 2\n"
        "self.a = nn.Linear(4, 3); parametrize.register_parametrization(self.a, 'weight', Twice())",
        "self.a(x)",
    ),
    "lazy": _NET + "def build():\n    return nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.LazyLinear(3))\n",
    "buffer": _module(
        "noise = torch.randn(4, generator=torch.Generator().manual_seed(7))\n"
        "self.register_buffer('noise', noise, persistent=False); self.a = nn.Linear(4, 3)",
        "self.a(x + self.noise)",
    ),
    "attribute": _module("self.shift = torch.rand(4); self.a = nn.Linear(4, 3)", "self.a(x + self.shift)"),
    "constant": _module("self.c = random.random(); self.a = nn.Linear(4, 3)", "self.a(x * self.c)"),
    "encoder": _NET.replace("(4,)", "(5, 8)")
    + "class M(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
    + "        self.e = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)\n"
    + "        self.f = nn.Linear(8, 3)\n    def forward(self, x):\n"
    + "        return self.f(self.e(x).mean(1))\nbuild = M\n",
    "in_place": _module("self.a = nn.Linear(4, 3)", "self.a(x.sub_(0.5).div_(0.25))"),
}
"""By name, a file that sets weights, or holds numbers, in its own way."""

_PLAIN = """
import importlib.util, random, sys
import numpy as np
import torch
given = torch.load(sys.argv[1])
torch.set_num_threads(given["threads"])
answers = {}
for path, x in given["inputs"].items():
    spec = importlib.util.spec_from_file_location("plain_" + str(len(answers)), path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    torch.manual_seed(0); np.random.seed(0); random.seed(0)
    model = module.build().eval()
    with torch.inference_mode():
        found = model(x)
    answers[path] = list(found) if isinstance(found, (tuple, list)) else [found]
torch.save(answers, sys.argv[2])
"""


def write_ways(folder: Path) -> dict[str, Path]:
    """The files of `WAYS`."""
    for name, text in WAYS.items():
        (folder / f"way_{name}.py").write_text(text)
    return {name: folder / f"way_{name}.py" for name in WAYS}


def plain_answers(given: Mapping[Path, torch.Tensor], folder: Path) -> dict[Path, list[Array]]:
    """What the networks of files answer in plain torch, in an interpreter of their own that never sees this project."""
    threads, ins, outs = torch.get_num_threads(), folder / "inputs.pt", folder / "answers.pt"
    torch.save({"threads": threads, "inputs": {str(path): x for path, x in given.items()}}, ins)
    subprocess.run([sys.executable, "-c", _PLAIN, str(ins), str(outs)], cwd=folder, check=True, timeout=TIMEOUT_S)
    found = torch.load(outs)
    return {path: [one.numpy() for one in found[str(path)]] for path in given}


@dataclass(frozen=True)
class Made:
    """One file's network here."""

    path: Path
    network: TorchNetwork
    edge: Edge

    @classmethod
    def of(cls, path: Path) -> "Made":
        """Build it as edge_api.py does. Raises UsageError where it is refused."""
        entry = registry.resolve_trusted(str(path))
        example = inputs.sample(entry.sample, entry.preprocess)
        network = prepare(weights.load(entry), example, entry.name, entry.call)
        return cls(path, network, Edge(entry, network, make_executor(network, "cpu")))

    @property
    def x(self) -> torch.Tensor:
        """Its example."""
        return self.network.example.tensor

    def at(self, point: int) -> list[Array]:
        """The answer where the network is cut at a point."""
        answered = self.edge.infer(self.x.numpy(), self.edge.graph.head_at(point), TIMEOUT_S)
        return list(answered.outputs)

    @property
    def last(self) -> int:
        """The point that runs everything on the edge."""
        return len(self.edge.graph.points) - 1

    def whole(self) -> list[Array]:
        """What `--verify` compares with."""
        return whole_answer(self.network.loaded.model, self.x)


def same_bits(answer: Iterable[Array], expected: Iterable[Array]) -> bool:
    """Whether two answers are the same, to the last bit."""
    return all(
        a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == np.ascontiguousarray(b).tobytes()
        for a, b in zip(answer, expected, strict=True)
    )


def main() -> None:
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = [*write_ways(folder).values(), *map(Path, sys.argv[1:])]
        made, rows = [], []
        for path in paths:
            try:
                made.append(Made.of(path))
            except AppError as error:
                rows.append([path.stem, "refused", "", "", "", str(error).replace("|", "/")[:160]])
        plain = plain_answers({each.path: each.x for each in made}, folder)
        served = [f for path in (each.path for each in made) for f in ("--network", str(path))]
        with running_cloud(folder / "cache", *served) as cloud:
            for each in made:
                rows.append(_row(each, plain[each.path], cloud.port))
            cloud.kill()  # nothing is left to be finished
    head = ["file", "captured by", "point 0", "the last point", "verify's reference", "weights"]
    write_table("custom_weights", "Custom models compared with plain torch, over a real cloud", head, rows, [])


def _row(made: Made, expected: list[Array], port: int) -> list[str]:
    edge = made.edge
    edge.connect("127.0.0.1", port, "", TIMEOUT_S)
    found = (made.at(0), made.at(made.last), made.whole())
    edge.close()
    verdicts = ["same bits" if same_bits(answer, expected) else "DIFFER" for answer in found]
    return [made.path.stem, made.network.traced.capture, *verdicts, made.network.weights.origin]


if __name__ == "__main__":
    main()
