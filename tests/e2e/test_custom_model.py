"""A network of the reader's own: a file with one function, run split between two programs. See docs/networks.md."""

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from edgecloud import deployment
from edgecloud.client.handshake import handshake
from edgecloud.models import custom_model, inputs, registry, weights
from edgecloud.models.torch_network import prepare
from edgecloud.net.codec import CODECS
from edgecloud.net.connection import connect
from edgecloud.net.messages import Hello
from edgecloud.utils.errors import MismatchError, UsageError
from tests.conftest import LONG_S, ROOT, CallEdge, CloudProcess, call, run_edge, run_script, running_cloud

FILE = """
import torch
from torch import nn

INPUT_SHAPE = (3, 16, 16)

def build():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(512, 5)
    )

def wider():
    return nn.Sequential(nn.Flatten(), nn.Linear(768, 9), nn.ReLU(), nn.Linear(9, 5))
"""


ODD = """
import torch
from torch import nn

INPUT_SHAPE = (6, 8)

class Halving(nn.Module):
    def forward(self, x):
        while x.abs().max() > 0.1:
            x = x / 2
        return x

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.recurrent = nn.Linear(8, 8), nn.LSTM(8, 8, batch_first=True)
        self.halving, self.last = Halving(), nn.Linear(8, 5)

    def forward(self, x):
        made, (state, cell) = self.recurrent(self.first(x))
        made = self.halving(made[:, -1] + state[0] * cell[0])
        return {"scores": self.last(made), "best": self.last(made).topk(2)}

build = lambda: nn.DataParallel(Net())
"""


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    monkeypatch.setattr(registry, "_OWN", {})


def write(path: Path, text: str = FILE) -> Path:
    """A user's file."""
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(text)
    return path


# --- what a file says


def test_a_name_is_split_without_opening_anything() -> None:
    assert custom_model.where("alex_net") is None
    assert custom_model.where("torchvision:resnet18") is None
    assert custom_model.where("a/b/my_net.py") == custom_model.Where(Path("a/b/my_net.py"), "build")
    assert custom_model.where("a/b/my_net.py:wider") == custom_model.Where(Path("a/b/my_net.py"), "wider")
    assert [custom_model.Where(Path("/x/n.py"), f).name for f in ("build", "wider")] == ["n.py", "n.py:wider"]


def test_one_function_and_a_shape_are_enough(tmp_path: Path) -> None:
    entry = registry.resolve_trusted(str(write(tmp_path / "my_net.py")))
    assert entry.name == "my_net.py"
    assert registry.lookup("my_net.py") is entry
    assert entry.parameter_bytes == 4 * (3 * 8 * 9 + 8 + 512 * 5 + 5)
    example = inputs.sample(entry.sample, entry.preprocess)
    assert example.tensor.shape == (1, 3, 16, 16)
    one, two = weights.load(entry), weights.load(registry.resolve_trusted(str(tmp_path / "my_net.py")))
    assert (one.digest, one.origin, one.trained) == (two.digest, "seed 0 (untrained)", False)
    network = prepare(one, example, entry.name)
    assert [layer.kind for layer in network.traced.graph.layers[1:]] == [
        "Conv2d", "ReLU", "MaxPool2d", "Flatten", "Linear",
    ]  # fmt: skip
    assert registry.resolve_trusted(f"{tmp_path}/my_net.py:wider").name == "my_net.py:wider"
    with pytest.raises(UsageError, match="does not take an image: it takes a tensor"):
        inputs.read(entry.name, entry.takes, inputs.PICTURE, Path("a.png"), entry.preprocess)


def test_a_file_may_import_torchvision(tmp_path: Path) -> None:
    """Which is first made fit for this torch: in a process of its own, for this one has imported it."""
    code = "import torchvision\nINPUT_SHAPE = (3, 64, 64)\ndef build():\n"
    (tmp_path / "tv_net.py").write_text(f"{code}    return torchvision.models.squeezenet1_1(num_classes=10)\n")
    look = "import sys; from edgecloud.models.registry import *; print(resolve_trusted(sys.argv[1]).parameter_bytes)"
    command = [sys.executable, "-c", look, str(tmp_path / "tv_net.py")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LONG_S, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 1_000_000


NEIGHBOURS = {
    "net_of_mine.py": """
import utils
from models.blocks import wide

INPUT_SHAPE = (4,)

def build():
    from torch import nn
    from net.heads import head

    return nn.Sequential(nn.Linear(4, utils.WIDTH), wide(utils.WIDTH), head())
""",
    "utils.py": "WIDTH = 6\n",
    "models/blocks.py": "from torch import nn\n\ndef wide(width):\n    return nn.Linear(width, 8)\n",
    "net/__init__.py": "",
    "net/heads.py": "from torch import nn\n\ndef head():\n    return nn.ReLU()\n",
}
"""A file that imports what lies beside it, which is called as our own folders are; `models` has no __init__.py."""


def write_neighbours(folder: Path) -> Path:
    for name, text in NEIGHBOURS.items():
        write(folder / name, text)
    return folder / "net_of_mine.py"


def test_a_file_gets_what_lies_beside_it_and_not_what_a_checkout_has_of_that_name(cache: Path, tmp_path: Path) -> None:
    """On the edge, on the cloud that it starts, and in the process that loads networks for that."""
    done = run_edge(cache, "-t", str(write_neighbours(tmp_path)), "--point", "1", "--verify", "--json")
    assert done.code == 0, done.stderr
    assert done.document["verify"]["matches"]
    assert (done.document["completed_by"], done.document["result"]["shape"]) == ("split", [1, 8])


def test_a_file_may_bring_weights_labels_an_example_and_a_preprocessing(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(4, 2).state_dict(), tmp_path / "kept.pt")
    text = """
import torch
from pathlib import Path
from torch import nn
LABELS = ("cat", "dog")
def build():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    model[1].load_state_dict(torch.load(Path(__file__).with_name("kept.pt")))
    return model
def example():
    return torch.arange(4.0).reshape(1, 1, 2, 2)
def preprocess(picture):
    return torch.full((1, 1, 2, 2), float(picture.width))
"""
    entry = registry.resolve_trusted(str(write(tmp_path / "trained.py", text)))
    loaded = weights.load(entry)
    kept = torch.load(tmp_path / "kept.pt")
    assert torch.equal(loaded.model[1].weight, kept["weight"])  # type: ignore[index]
    assert (loaded.origin, loaded.trained, entry.labels) == ("as built", True, ("cat", "dog"))
    assert inputs.sample(entry.sample, entry.preprocess).tensor.flatten().tolist() == [0, 1, 2, 3]
    Image.new("RGB", (7, 5)).save(tmp_path / "a.png")
    assert inputs.from_image(tmp_path / "a.png", entry.preprocess).tensor.flatten().tolist() == [7] * 4


def test_the_digest_is_of_the_code_too(tmp_path: Path) -> None:
    """A constant in a function is neither a parameter nor a layer, and changes the answer all the same."""
    changed = FILE.replace("nn.ReLU(), nn.MaxPool2d", "nn.Threshold(0.5, 0.5), nn.MaxPool2d")
    digests = set()
    for folder, text in (("a", changed), ("b", changed.replace("0.5, 0.5", "0.6, 0.6"))):
        registry._OWN.clear()
        digests.add(weights.load(registry.resolve_trusted(str(write(tmp_path / folder / "net.py", text)))).digest)
    assert len(digests) == 2
    with pytest.raises(UsageError, match=r"two files are named net.py"):
        registry.resolve_trusted(str(tmp_path / "a" / "net.py"))


BUILD = "from torch import nn\nINPUT_SHAPE = (3,)\ndef build():\n    "
WRONG = {
    "syntax": ("def build(:\n", "line 1: SyntaxError"),
    "raises": (BUILD + "raise ValueError('no weights')\n", r"line 4: build\(\) raises ValueError: no weights"),
    "import": ("import no_such_thing\n", "line 1: ModuleNotFoundError"),
    "exit": ("import sys\nsys.exit(3)\n", "SystemExit"),
    "nothing": ("x = 1\n", r"no function build\(\)"),
    "no module": (BUILD + "return 3\n", "torch.nn.Module, not int"),
    "no shape": ("from torch import nn\ndef build():\n    return nn.ReLU()\n", "INPUT_SHAPE"),
    "odd shape": (BUILD.replace("(3,)", "(0, -1)") + "return nn.ReLU()\n", "INPUT_SHAPE"),
    "example": (BUILD + "return nn.ReLU()\ndef example():\n    return [1]\n", "no input: there is no tensor in it"),
    "dtype": (
        f"import torch\n{BUILD}return nn.ReLU()\ndef example():\n    return torch.zeros(1, 3).to(torch.float8_e5m2)\n",
        "tensor of float8_e5m2, .* which does not travel",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_in_a_file_is_one_line(name: str, tmp_path: Path) -> None:
    text, told = WRONG[name]
    with pytest.raises(UsageError, match=told) as caught:
        registry.resolve_trusted(str(write(tmp_path / "wrong.py", text)))
    assert "wrong.py" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_missing_or_none(tmp_path: Path) -> None:
    for name in (str(tmp_path / "none.py"), str(tmp_path)[:-1] + ".py"):
        with pytest.raises(UsageError, match="no file"):
            registry.resolve_trusted(name)


# --- two programs


@pytest.fixture(scope="module")
def serving(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CloudProcess]:
    """A cloud that was started with a copy of the file."""
    path = write(tmp_path_factory.mktemp("cloud") / "my_net.py")
    odd = write(path.with_name("odd_net.py"), ODD)
    with running_cloud(cache, "--models", "senna_pos", "--network", str(path), "--network", str(odd)) as cloud:
        yield cloud


def test_it_runs_split_between_two_programs(serving: CloudProcess, cache: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "my_net.py")
    done = run_edge(cache, "-p", str(serving.port), "-t", str(path), "--point", "3", "--verify", "--json")
    assert done.code == 0, done.stderr
    found = done.document
    assert found["verify"] == {"matches": True, "max_abs_diff": 0.0}
    assert (found["completed_by"], found["model"]) == ("split", "my_net.py")


@pytest.mark.filterwarnings("ignore")  # torch.export's own
def test_what_cannot_be_captured_is_one_layer_on_either_side(
    serving: CloudProcess, edge: CallEdge, tmp_path: Path
) -> None:
    path = write(tmp_path / "odd_net.py", ODD)
    last = len(registry.resolve_trusted(str(path)).network().graph.points) - 1
    for point in (1, last - 1):
        done = edge("-p", str(serving.port), "-t", str(path), "--verify", "--json", "--point", str(point))
        assert done.code == 0, done.stderr
        found = done.document
        assert found["verify"]["matches"]
        assert found["completed_by"] == "split"
        assert found["kept"] == {"halving": "its control flow depends on its values"}
        assert found["weights_origin"] == "seed 0 (untrained) (taken out of DataParallel)"


def test_another_file_of_that_name_is_refused(serving: CloudProcess, edge: CallEdge, tmp_path: Path) -> None:
    path = write(tmp_path / "my_net.py", FILE.replace("MaxPool2d(2)", "AvgPool2d(2)"))
    done = edge("-p", str(serving.port), "-t", str(path), "--point", "3")
    assert done.code == 4
    assert "my_net.py: the code differs" in done.stderr
    assert "same file" in done.stderr


def hello_of(name: str) -> Hello:
    return Hello(name, "sha256:0", "sha256:0", list(CODECS), "")


def test_a_stranger_cannot_make_a_cloud_load_code(serving: CloudProcess, tmp_path: Path) -> None:
    """The name in HELLO only chooses among what the cloud was started with; no path is ever opened."""
    ran = tmp_path / "ran"
    path = write(tmp_path / "evil.py", f"open({str(ran)!r}, 'w').close()\n" + FILE)
    for name in (str(path), f"{path}:wider", "evil.py", "my_net.py:wider", "../my_net.py", f"{path}:build"):
        with pytest.raises(MismatchError, match="UNKNOWN_MODEL"):
            handshake(("127.0.0.1", serving.port), [hello_of(name)], {name: 5}, 20)
    assert not ran.exists()
    with socket.create_connection(("127.0.0.1", serving.port)):
        pass  # it is still there
    connect("127.0.0.1", serving.port, 5).close()


def test_it_is_a_task_among_others_with_a_cloud_of_its_own(cache: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "my_net.py")
    tasks = tmp_path / "tasks.csv"
    tasks.write_text("model,input\nmy_net.py,\nsenna_chk,text:Ada left London .\nmnist,\nmy_net.py,\n")
    arguments = ("--tasks-file", str(tasks), "-t", str(path), "--verify", "--json", "--threads", "1")
    done = run_script("tasks_edge_api.py", "--cache-dir", str(cache), *arguments)
    assert done.code == 0, done.stderr
    assert [task["matches"] for task in done.document["tasks"]] == [True] * 4


def test_it_is_profiled_and_planned(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "my_net.py")
    where = ("-t", str(path), "--cache-dir", str(cache), "--json")
    done = call(deployment.main, ["profile", *where, "--threads", "1"], capsys)
    assert done.code == 0, done.stderr
    assert len(done.document["layers"]) == 6
    shutil.move(path, tmp_path / "gone")  # a plan needs the kept times alone
    monkeypatch.setattr(registry, "_OWN", {})
    done = call(deployment.main, ["plan", *where, "--bandwidth", "5mbit"], capsys)
    assert done.code == 0, done.stderr
