"""What SECURITY.md promises and no other test holds."""

import os
import pickle
import re
from pathlib import Path

import pytest
import torch

from edgecloud.models import registry, weights
from edgecloud.net.security import is_token_right
from edgecloud.utils.errors import UsageError

ROOT = Path(__file__).resolve().parent.parent


class Gadget:
    """A pickle that makes a folder when it is read."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self._path,)


def test_a_weights_file_that_would_run_something_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    canary, file = tmp_path / "canary", tmp_path / "evil.pt"
    torch.save({"layer": Gadget(canary)}, file)
    with pytest.raises(UsageError):
        weights.load(registry.lookup("le_net"), str(file))
    file.write_bytes(pickle.dumps(Gadget(canary)))
    with pytest.raises(UsageError):
        weights.load(registry.lookup("le_net"), str(file))
    assert not canary.exists()


def test_a_token_is_right_only_where_it_is_the_same() -> None:
    assert is_token_right("a good secret", "a good secret")
    assert is_token_right("", "anything")
    for wrong in ("", "a good secre", "a good secret ", "A good secret", "\ud800"):
        assert not is_token_right("a good secret", wrong)


def test_every_test_that_security_md_names_is_there() -> None:
    named = set(re.findall(r"`((?:\w+/)?test_\w+\.py|fuzz/)`", (ROOT / "SECURITY.md").read_text()))
    assert len(named) > 10
    for name in named:
        assert (ROOT / "tests" / name).exists(), name


def test_there_is_one_recipe_for_an_open_port_and_the_others_point_there() -> None:
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    recipes = {path.name for path in documents if "openssl req" in path.read_text(encoding="utf-8")}
    assert recipes == {"operating.md"}
    for name in ("SECURITY.md", "README.md", "README.zh-CN.md"):
        assert "docs/operating.md#" in (ROOT / name).read_text(encoding="utf-8"), name
