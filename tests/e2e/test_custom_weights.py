"""The numbers of a network of one's own are those that its file makes in plain torch, to the last bit."""

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.custom_weights import WAYS, Made, plain_answers, same_bits, write_ways
from edgecloud.engine.identity import hello_of
from edgecloud.models import building, registry, weights
from edgecloud.net.messages import Hello
from edgecloud.net.tensors import Array
from edgecloud.server.requests import check_same
from edgecloud.utils.errors import MismatchError, UsageError
from tests.conftest import LONG_S, running_cloud

HEAD = "import random, os\nimport numpy as np\nimport torch\nfrom pathlib import Path\nfrom torch import nn\n"
HEAD += "HERE = Path(__file__).parent\nINPUT_SHAPE = (4,)\n"


@pytest.fixture(scope="module", autouse=True)
def _forget() -> Iterator[None]:
    """What these tests register is gone after them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_OWN", {})
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    """Every way of setting weights, as edge_api.py builds it."""
    return {name: Made.of(path) for name, path in write_ways(tmp_path_factory.mktemp("ways")).items()}


@pytest.fixture(scope="module")
def plain(made: dict[str, Made], tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Array]]:
    """What they answer in plain torch, in an interpreter that knows nothing of us."""
    found = plain_answers({each.path: each.x for each in made.values()}, tmp_path_factory.mktemp("plain"))
    return {name: found[each.path] for name, each in made.items()}


@pytest.mark.parametrize("name", WAYS)
def test_whatever_sets_the_weights_the_answer_is_that_of_plain_torch(
    name: str, made: dict[str, Made], plain: dict[str, list[Array]]
) -> None:
    each = made[name]
    given = each.x.clone()
    assert same_bits(each.at(each.last), plain[name])
    assert same_bits(each.whole(), plain[name]), "what --verify compares with is the user's own network"
    assert torch.equal(each.x, given), "the input is the user's"
    assert weights.load(each.edge.entry).digest == each.edge.network.weights.digest


def test_a_cloud_in_another_process_has_the_same_numbers(
    made: dict[str, Made], plain: dict[str, list[Array]], cache: Path
) -> None:
    names = ("numpy", "buffer", "in_place")
    with running_cloud(cache, *(flag for name in names for flag in ("--network", str(made[name].path)))) as cloud:
        for name in names:
            made[name].edge.connect("127.0.0.1", cloud.port, "", LONG_S)
            try:
                for _ in range(2):
                    assert same_bits(made[name].at(0), plain[name])
            finally:
                made[name].edge.close()


def test_what_was_learnt_is_told_from_what_was_drawn(made: dict[str, Made]) -> None:
    told = {name: (each.edge.network.weights.origin, each.edge.network.weights.trained) for name, each in made.items()}
    assert told["drawn"] == told["init_xavier"] == told["numpy"] == ("seed 0 (untrained)", False)
    assert told["fill"][0] == "seed 0 (untrained)"  # its last layer is drawn


# --- what cannot be the same on both sides


def own(folder: Path, text: str, name: str = "net.py") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(HEAD + text)
    return folder / name


def module(init: str, forward: str = "self.a(x)") -> str:
    return (
        "class M(nn.Module):\n    def __init__(self):\n        super().__init__()\n        self.a = nn.Linear(4, 3)\n"
        f"        {init}\n    def forward(self, x):\n        return {forward}\nbuild = M\n"
    )


REFUSED = {
    "never written": (module("self.w = nn.Parameter(torch.empty(3, 3))"), "w is never initialized by build\\(\\)"),
    "large": (module("self.w = nn.Parameter(torch.Tensor(3, 300_000))"), "w is never initialized by build"),
    "in part": (
        module("self.w = nn.Parameter(torch.empty(9).half()); self.w.data[:8] = 1"),
        "w is never initialized by build",
    ),
    "whole numbers": (
        module("self.register_buffer('i', torch.empty(9, dtype=torch.long), False)"),
        "i changes each time",
    ),
    "numpy": (module("self.w = nn.Parameter(torch.from_numpy(np.empty(9000, 'f')))"), "w changes each time"),
    "unseeded": (
        module("self.a.bias.data = torch.from_numpy(np.random.default_rng().random(3).astype('f'))"),
        "a.bias",
    ),
    "the system's": (module("self.a.bias.data[0] = int.from_bytes(os.urandom(3), 'big')"), "a.bias changes each time"),
    "unsaved": (
        module("self.t = torch.frombuffer(bytearray(os.urandom(8)), dtype=torch.uint8)"),
        "t changes each time",
    ),
    "at times": (module("if not hasattr(nn, 'once'): nn.once = self.z = torch.ones(2)"), "z only sometimes"),
    "scripted": ("build = lambda: torch.jit.script(nn.Linear(4, 3))\n", "returns TorchScript, which cannot be cut"),
    "meta": ("build = lambda: nn.Linear(4, 3, device='meta')\n", "bias cannot be compared: .* meta"),
    "exported": (
        "build = lambda: torch.export.export(nn.Linear(4, 3), (torch.zeros(1, 4),))\n",
        "returns an ExportedProgram: return its module\\(\\)",
    ),
    "no forward": (
        "class YOLO(nn.Module):\n    def __init__(self):\n        super().__init__(); self.model = nn.Linear(4, 3)\n"
        "build = YOLO\n",
        "returns YOLO, which has no forward\\(\\): return its .model",
    ),
    "lazy": (
        "build = lambda: nn.Sequential(nn.Linear(5, 4), nn.LazyLinear(3))\n",
        r"its example, input of shape \(1, 4\)",
    ),
}


@pytest.mark.filterwarnings("ignore")  # torch's, of TorchScript
@pytest.mark.parametrize("name", REFUSED)
def test_a_network_that_is_not_the_same_each_time_is_refused_by_the_name_of_what_differs(
    name: str, tmp_path: Path
) -> None:
    text, told = REFUSED[name]
    path = own(tmp_path, text)
    registry._OWN.clear()
    with pytest.raises(UsageError, match=f"net.py.*{told}") as caught:
        weights.load(registry.resolve_trusted(str(path)))
    assert "\n" not in str(caught.value)


WRAPPED = {
    "DataParallel": "build = lambda: nn.DataParallel(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3)))\n",
    "torch.compile": "build = lambda: torch.compile(nn.Sequential(nn.Linear(4, 4), torch.compile(nn.Linear(4, 3))))\n",
}
SAVED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "plain": lambda network: network,
    "module.": nn.DataParallel,
    "_orig_mod.": torch.compile,  # type: ignore[dict-item]  # a module of a module
    "_orig_mod.module.": lambda network: torch.compile(nn.DataParallel(network)),  # type: ignore[dict-item, return-value]
}


@pytest.mark.parametrize("saved", SAVED)
@pytest.mark.parametrize("wrapped", WRAPPED)
def test_a_wrapped_network_is_taken_out_and_filled_from_a_file_of_any_wrapper(
    wrapped: str, saved: str, tmp_path: Path
) -> None:
    registry._OWN.clear()
    entry = registry.resolve_trusted(str(own(tmp_path, WRAPPED[wrapped])))
    assert weights.load(entry).origin == f"seed 0 (untrained) (taken out of {wrapped})"
    trained = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3)).requires_grad_(False)
    torch.save({"epoch": 3, "state_dict": SAVED[saved](trained).state_dict()}, tmp_path / "trained.ckpt")
    loaded = weights.load(entry, str(tmp_path / "trained.ckpt"))
    told = "" if saved == "plain" else f", without the prefix '{saved}'"
    assert f"(taken from 'state_dict'{told}" in loaded.origin
    x = torch.rand(1, 4)
    assert torch.equal(loaded.model(x), trained(x))


def test_the_module_of_an_exported_program_is_a_network(tmp_path: Path) -> None:
    registry._OWN.clear()
    text = "build = lambda: torch.export.export(nn.Linear(4, 3).eval(), (torch.zeros(1, 4),)).module()\n"
    network = registry.resolve_trusted(str(own(tmp_path, text))).network()
    assert [layer.kind for layer in network.graph.layers] == ["input", "linear"]


def test_a_file_of_weights_fills_what_build_leaves_open_and_what_torch_does_not_save(tmp_path: Path) -> None:
    """The cure of a mismatch: numbers that torch draws, or computes, otherwise on another processor."""
    text = module(
        "self.w = nn.Parameter(torch.empty(4)); self.register_buffer('t', torch.rand(4), False)", "x * self.w"
    )
    registry._OWN.clear()
    entry = registry.resolve_trusted(str(own(tmp_path, text)))
    state = {"w": torch.arange(4.0), "a.weight": torch.ones(3, 4), "a.bias": torch.ones(3), "t": torch.full((4,), 7.0)}
    torch.save(state, tmp_path / "kept.pt")
    loaded = weights.load(entry, str(tmp_path / "kept.pt"))
    assert torch.equal(loaded.model.t, state["t"])  # type: ignore[arg-type]
    assert torch.equal(loaded.model.w, state["w"])  # type: ignore[arg-type]
    assert loaded.trained
    del state["t"]
    torch.save(state, tmp_path / "kept.pt")
    assert weights.load(entry, str(tmp_path / "kept.pt")).digest != loaded.digest


def test_generators_are_left_as_they_were() -> None:
    before = torch.get_rng_state(), np.random.get_state(legacy=True), random.getstate()
    with building.seeded() as is_drawn:
        assert not is_drawn()
        torch.rand(1)
        assert is_drawn()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert repr(np.random.get_state(legacy=True)) == repr(before[1])
    assert random.getstate() == before[2]
    for draw in (random.random, np.random.rand):
        with building.seeded() as is_drawn:
            draw()
            assert is_drawn()


READ = "(HERE / 'beside.txt').read_text()"
BESIDE = {
    "saved": (module(f"self.a.bias.data.fill_(float({READ}))"), r"first in a\.bias: save its weights once"),
    "unsaved": (
        module(f"self.register_buffer('t', torch.full((4,), float({READ})), False)", "x + self.t"),
        "first in t:",
    ),
    "attribute": (
        module(f"self.t = torch.full((4,), float({READ}))", "self.a(x + self.t)"),
        "first in t; the graph differs: ",
    ),
    "number": (
        module(f"self.t = float({READ})", "self.a(x * self.t)"),
        "the graph differs: everything that its file imports or",
    ),
    "setting": (
        module(f"self.r = nn.LeakyReLU(float({READ}))", "self.r(self.a(x))"),
        "the graph differs: everything that its file",
    ),
}


@pytest.mark.parametrize("name", BESIDE)
def test_sides_whose_files_read_other_numbers_are_told_which(name: str, tmp_path: Path) -> None:
    text, told = BESIDE[name]
    hellos: list[Hello] = []
    names: tuple[str, ...] = ()
    for folder, number in (("a", "0.25"), ("b", "0.5"), ("c", "0.25")):
        path = own(tmp_path / folder, text)
        (tmp_path / folder / "beside.txt").write_text(number)
        registry._OWN.clear()
        network = Made.of(path).edge.network
        hellos.append(hello_of(network))
        names = network.weights.names
    check_same(hellos[0], hellos[2], names)
    with pytest.raises(MismatchError, match=told):
        check_same(hellos[0], hellos[1], names)
    with pytest.raises(MismatchError, match="the code differs: use the same file on both sides"):
        check_same(replace(hellos[0], code="sha256:0", weights="sha256:1"), hellos[2], names)


@pytest.mark.filterwarnings("ignore")  # torch's, of what it will move elsewhere
def test_a_quantised_network_runs_and_takes_no_file(tmp_path: Path) -> None:
    text = (
        "def build():\n    return torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(4, 3)), {nn.Linear})\n"
    )
    registry._OWN.clear()
    each = Made.of(own(tmp_path, text))
    assert same_bits(each.at(each.last), each.whole())
    torch.save({}, tmp_path / "none.pt")
    with pytest.raises(UsageError, match=r"net\.py has state that is not a tensor"):
        weights.load(each.edge.entry, str(tmp_path / "none.pt"))


def test_a_network_without_numbers_and_one_that_does_not_take_its_example(tmp_path: Path) -> None:
    registry._OWN.clear()
    each = Made.of(own(tmp_path, "build = nn.ReLU\n"))
    assert same_bits(each.whole(), each.at(each.last))
    assert each.edge.network.weights.trained
    with pytest.raises(UsageError, match=r"^bad\.py fails on its input of shape \(1, 4\): mat1 and mat2") as caught:
        Made.of(own(tmp_path, "build = lambda: nn.Linear(5, 3)\n", "bad.py"))
    assert "\n" not in str(caught.value)
