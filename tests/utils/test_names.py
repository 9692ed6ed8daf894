"""The names of our programs, as they are typed in a checkout and in an installation."""

import sys

import pytest

from edgecloud.utils import names
from edgecloud.utils.names import typed


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """As if the packages lay inside the namespace."""
    monkeypatch.setattr(names, "is_checkout", lambda: False)
    monkeypatch.setattr(sys, "argv", ["/usr/bin/edgecloud-edge", "-t", "le_net"])
    return monkeypatch


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("edge_api.py: no", "edgecloud-edge: no"),
        ("run deployment.py fit.", "run edgecloud-deployment fit."),
        ("run deployment.py.", "run edgecloud-deployment."),
        ("(start cloud_api.py there)", "(start edgecloud-cloud there)"),
        ("tasks_edge_api.py, tasks_cloud_api.py", "edgecloud-tasks-edge, edgecloud-tasks-cloud"),
        ("`python -m lab doctor --clean`", "`edgecloud-lab doctor --clean`"),
        ("run: python -m lab", "run: edgecloud-lab"),
        ("python -m lab.relay", "python -m lab.relay"),
        ("/home/me/deployment.py: no", "/home/me/deployment.py: no"),
        ("deployment.py:build is none", "deployment.py:build is none"),
        ("my_edge_api.py edge_api.pyc edge_api", "my_edge_api.py edge_api.pyc edge_api"),
        ("[edge_api] key", "[edge_api] key"),
    ],
)
def test_texts_have_the_commands_of_an_installation(text: str, told: str, installed: pytest.MonkeyPatch) -> None:
    assert typed(text) == told
    installed.setattr(names, "is_checkout", lambda: True)
    assert typed(text) == told, "a command of an installation in editable mode"
    installed.setattr(sys, "argv", ["edge_api.py"])
    assert typed(text) == text


def test_a_file_of_the_users_keeps_its_name(installed: pytest.MonkeyPatch) -> None:
    installed.setattr(sys, "argv", ["edgecloud-edge", "-t", "deployment.py"])
    assert typed("edge_api.py: deployment.py has no build()") == "edgecloud-edge: deployment.py has no build()"


def test_this_is_a_checkout() -> None:
    assert names.is_checkout()
    assert not names.is_installed()
