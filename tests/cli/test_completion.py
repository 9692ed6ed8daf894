"""Completion in the shell: what parsers answer, that nothing heavy is loaded for it, and that shells take it."""

import argparse
import os
import shutil
import subprocess
import sys

import pytest

from edgecloud import deployment, edge_api, tasks_edge_api
from edgecloud.cli import completion
from edgecloud.cli.cloud_flags import build_parser as cloud_parser
from edgecloud.cli.completion import candidates
from edgecloud.cli.flags import NETWORKS
from edgecloud.lab import __main__ as lab
from edgecloud.lab.__main__ import build_parser as lab_parser
from edgecloud.lab.baselines import registry as baselines
from edgecloud.models import registry
from edgecloud.net.codec import CODECS
from edgecloud.utils.names import COMMANDS
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--ob"], ["--objective"]),
        (["-t", "alex"], ["alex_net"]),
        (["--type", "senna_p"], ["senna_pos"]),
        (["-t", "alex_net", "--objective", "w"], ["weighted"]),
        (["--objective=th"], ["--objective=throughput"]),
        (["--image", ""], []),
        (["--no-such"], []),
        (["--verify", "--comp"], ["--compare"]),
        (["--times", "m"], ["measured"]),
    ],
)
def test_what_may_follow_on_the_edges_line(words: list[str], expected: list[str]) -> None:
    assert candidates(edge_api.build_parser(), words) == expected


def test_all_flags_are_offered_and_no_hidden_one() -> None:
    parser = edge_api.build_parser()
    parser.add_argument("--secret-alias", help=argparse.SUPPRESS)
    found = candidates(parser, ["-"])
    assert {"--help", "--type", "--emulate-link"} <= set(found)
    assert "--secret-alias" not in found
    assert all(flag.startswith("--") for flag in found)


def test_lists_are_completed_at_their_last_item_and_commands_have_their_own_flags() -> None:
    assert candidates(tasks_edge_api.build_parser(), ["-t", "alex_net,vg"]) == ["alex_net,vgg_net"]
    parser = deployment.build_parser()
    assert candidates(parser, ["p"]) == ["plan", "profile"]
    assert candidates(parser, ["plan", "--bandw"]) == ["--bandwidth"]
    assert candidates(parser, ["profile", "--bandw"]) == []
    assert candidates(cloud_parser("", "", 1), ["--models", "le_"]) == ["le_net"]
    assert candidates(lab_parser("run"), ["--mo"]) == ["--mode", "--model"]
    assert candidates(lab_parser("report"), ["--language", "z"]) == ["zh"]


def test_what_is_offered_is_what_is_taken() -> None:
    for name in NETWORKS:
        assert registry.lookup(name).name == name
    assert set(completion.VALUES["codec"]) <= {"auto", *CODECS}
    baselines.check(completion.VALUES["baselines"])


CALLS = {
    "flag": (["edge_api.py", "--ob"], "--objective\n"),
    "network": (["edge_api.py", "-t", "mobile"], "mobile_net\n"),
    "command": (["-m", "lab", "do"], "doctor\n"),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_program_answers_the_shell_without_torch(name: str) -> None:
    arguments, expected = CALLS[name]
    environment = os.environ | {completion.VARIABLE: "1", "PYTHONPROFILEIMPORTTIME": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == expected
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "argparse" in loaded, "or this says nothing"
    assert not loaded & {"torch", "numpy", "rich", "matplotlib"}


BASH_LINES = {
    "{python} edge_api.py --ob": "--objective",
    "{python} edge_api.py --objective=la": "latency",
    "{python} -m lab rep": "report",
    "{python} somebody_elses.py --ob": "",
    "{python} -m pytest --ob": "",
}


def test_bash_completes_our_lines_and_no_others() -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash is installed")
    lines = [line.format(python=sys.executable) for line in BASH_LINES]
    asked = "".join(
        f"COMP_LINE='{line}' COMP_POINT={len(line)}; COMPREPLY=(); _edge_cloud; echo \"${{COMPREPLY[*]}}\"\n"
        for line in lines
    )
    script = f"shopt -u progcomp_alias 2>/dev/null; {completion.script('bash')}\n{asked}"
    done = subprocess.run([bash, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines() == list(BASH_LINES.values()), done.stderr


def test_fish_completes_our_lines() -> None:
    fish = shutil.which("fish")
    if fish is None:
        pytest.skip("no fish is installed")
    script = f"{completion.script('fish')}\ncomplete -C '{sys.executable} edge_api.py --ob'"
    done = subprocess.run([fish, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    assert "--objective" in done.stdout.splitlines()


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_the_script_of_every_shell_is_one(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert completion.main([shell]) == 0
    text = capsys.readouterr().out
    assert "@" not in text.replace("[@]", "").replace("${(@", "")
    assert all(name in text for name in completion.PROGRAMS)
    found = shutil.which(shell)
    if found is None:
        pytest.skip(f"no {shell} is installed")
    done = subprocess.run([found, "-n"], input=text, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert completion.main(["tcsh"]) == 2
    assert "bash|zsh|fish" in capsys.readouterr().err


def test_a_program_says_what_a_shell_has_to_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """For an installation, whose commands need no folder and no python."""
    monkeypatch.setenv(completion.VARIABLE, "bash")
    with pytest.raises(SystemExit) as end:
        edge_api.main([])
    assert end.value.code == 0
    assert lab.main([]) == 0
    assert capsys.readouterr().out == 2 * completion.script("bash")
    assert all(command in completion.script("fish") for command in COMMANDS.values())
