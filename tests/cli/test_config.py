"""Flags from files and from the environment: who wins, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from edgecloud import deployment, edge_api, tasks_edge_api
from edgecloud.cli import arguments, config, flags, script, settings
from edgecloud.cli.cloud_flags import build_parser as cloud_parser
from edgecloud.utils import environment
from edgecloud.utils.errors import UsageError
from edgecloud.utils.suggest import nearest
from tests.conftest import run_script

BOMB = "\n".join(f"k{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, 9))


@pytest.fixture(autouse=True)
def _nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [name for name in os.environ if name.startswith(environment.PREFIX)]:
        monkeypatch.delenv(name)


def written(folder: Path, text: str | bytes, name: str = "deploy.toml") -> str:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def edge(*arguments: str) -> Any:
    return edge_api.build_parser().parse_args(arguments)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that edge_api.py ends with, and its code is 2."""
    with pytest.raises(SystemExit) as ended:
        edge(*arguments)
    assert ended.value.code == 2
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    return text


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, 'type = "le_net"\nrepeat = 2\n')
    assert edge("-t", "le_net").repeat == 1
    assert edge("--config", path).repeat == 2
    monkeypatch.setenv("EDGE_CLOUD_REPEAT", "3")
    assert edge("--config", path).repeat == 3
    assert edge(f"--config={path}", "--repeat", "4").repeat == 4
    monkeypatch.setenv("EDGE_CLOUD_REPEAT", "")
    assert edge("--config", path).repeat == 2, "an empty variable counts as not set"


def test_the_file_itself_may_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_CLOUD_CONFIG", written(tmp_path, 'type = "vgg_net"'))
    assert edge().type == "vgg_net"
    assert edge("--config", written(tmp_path, 'type = "le_net"', "other.toml")).type == "le_net"


def test_values_become_what_the_flags_make_of_them(tmp_path: Path) -> None:
    same = {
        "deploy.toml": 'type = "le_net"\nemulate-link = ["5mbit", "20ms"]\nverify = true\ncompare = false\n'
        'fallback = false\nbandwidth = "5mbit"\nimage = "a.png"\ntimeout = 2\naccuracy-budget = 0.005\nrate = 1.5',
        "deploy.yaml": "type: le_net\nemulate-link: 5mbit,20ms\nverify: yes\ncompare: off\nfallback: off\n"
        "bandwidth: 5mbit\nimage: a.png\ntimeout: 2s\naccuracy-budget: 0.5%\nrate: 1.5",
    }
    flags = "-t le_net --emulate-link 5mbit,20ms --verify --fallback off --bandwidth 5mbit --image a.png --timeout 2s"
    wanted = vars(edge(*flags.split(), "--accuracy-budget", "0.5%", "--rate", "1.5"))
    for name, text in same.items():
        found = vars(edge("--config", written(tmp_path, text, name)))
        assert found.pop("config").endswith(name)
        assert found == {key: value for key, value in wanted.items() if key != "config"}


def test_yaml_is_not_cleverer_than_the_command_line(tmp_path: Path) -> None:
    """Plain YAML 1.1 reads 8, 5400 and False here."""
    path = written(tmp_path, "type: le_net\nwarm-up: 010\nweights: 1:30:00\nfallback: off", "deploy.yaml")
    found = edge("--config", path)
    assert (found.warm_up, found.weights, found.fallback) == (10, "1:30:00", "off")


def test_several_clouds_are_a_list_in_a_file_and_one_text_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, 'type = "le_net"\nip = ["10.0.0.1", "cloud.example:7000"]\n')
    assert flags.places_of(edge("--config", path)) == (("10.0.0.1", 9999), ("cloud.example", 7000))
    monkeypatch.setenv("EDGE_CLOUD_IP", "a,b:1")
    assert flags.places_of(edge("--config", path)) == (("a", 9999), ("b", 1))


def test_one_file_for_all_programs(tmp_path: Path) -> None:
    text = """
        [cloud_api]
        models = ["alex_net", "le_net"]
        weights = ["imagenet", "le_net=a.safetensors"]
        [tasks_edge_api]
        type = ["le_net", "alex_net"]
        rate = "3/s"
        [deployment]
        budget = "10s"
        [deployment.plan]
        type = "alex_net"
        bandwidth = "5mbit"
        method = "mincut"
    """
    path = written(tmp_path, text)
    cloud = cloud_parser("cloud_api.py", "", 1).parse_args(["--config", path])
    assert cloud.models == ("alex_net", "le_net")
    assert cloud.weights == ["imagenet", "le_net=a.safetensors"]
    tasks = tasks_edge_api.build_parser().parse_args(["--config", path])
    assert (tasks.type, tasks.rate) == (("le_net", "alex_net"), 3.0)
    assert deployment.build_parser().parse_args(["--config", path]).budget == 10
    for order in (["plan", "--config", path], ["--config", path, "plan"]):
        plan = deployment.build_parser().parse_args(order)
        assert (plan.type, plan.method, plan.command) == ("alex_net", "mincut", "plan")


def test_a_flat_file_serves_a_command_too(tmp_path: Path) -> None:
    path = written(tmp_path, "type: alex_net\nbandwidth: 5mbit", "plan.yml")
    found = deployment.build_parser().parse_args(["--log-level", "info", "plan", "--config", path])
    assert found.type == "alex_net"


def test_a_repeated_flag_replaces_the_list_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, 'weights = ["imagenet"]')
    for given in (["--weights", "a.pt"], ["--weights=a.pt"]):
        assert cloud_parser("cloud_api.py", "", 1).parse_args(["--config", path, *given]).weights == ["a.pt"]
    monkeypatch.setenv("EDGE_CLOUD_WEIGHTS", "le_net=b.pt")
    assert cloud_parser("cloud_api.py", "", 1).parse_args(["--config", path]).weights == ["le_net=b.pt"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('typ = "le_net"', "typ: unknown key; did you mean type?"),
        ("emulate_link = '5mbit'", "emulate_link: unknown key; did you mean emulate-link?"),
        ("xyzzy = 1", "xyzzy: unknown key (--help"),
        ("config = 'b.toml'", "config: unknown key"),
        ("token = 'hunter2hunter2'", "token: secrets are not allowed in a configuration file"),
        ("port = 70000", "port: '70000' is not a whole number from 1 to 65535"),
        ("port = [1, 2]", "port: '1,2' is not a whole number"),
        ("port = true", "port: expected a value, not true or false"),
        ("image = ['a', 'b']", "image: expected one value, not a list"),
        ("emulate-link = ['5mbit,20ms', '7mbit']", "emulate-link: a list item contains a comma"),
        ("ip = ''", "ip: the value is empty"),
        ("ip = 2026-11-21", "ip: expected a string, a number, true, false"),
        ("verify = 'perhaps'", "verify: 'perhaps' is neither true nor false"),
        ("objective = 'speed'", "objective: invalid choice: 'speed'"),
        ("rate = nan", "rate: 'nan' is not a number"),
        ("port = 1\nport = 2", "Cannot overwrite a value"),
        ("port = 1\n[edge_api]\nrepeat = 2", "port is outside of every section"),
        ("[edge-api]\nport = 1", "unknown section [edge-api]; did you mean edge_api?"),
        ("[cloud_api]\nport = 1", "no section [edge_api], only [cloud_api]"),
        ("[edge_api.plan]\nport = 1", "plan: unknown key"),
        ("port = ", "Invalid value"),
        (b"\x00\xff\xfe\x81", "not UTF-8 text"),
        ("# " + "x" * config.MAX_BYTES, "larger than the limit of 64 KiB"),
        ("a = " + "[" * 60_000, "nested too deeply"),
        ("port = 0x" + "f" * 60_000, "Exceeds the limit"),
        ("ip = '\\u001b[2J'".replace("'", '"'), "contains unprintable characters"),
    ],
)
def test_bad_toml_is_one_line_that_names_the_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | bytes, told: str
) -> None:
    line = refused(capsys, "--config", written(tmp_path, text))
    assert told in line
    assert "deploy.toml: " in line
    assert "hunter2" not in line
    assert len(line) < 600


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("port: 1\nport: 2", "line 2: duplicate key 'port'"),
        ("k0: &a0 [x]\n" + BOMB, "aliases are not supported"),
        ("a: &a [*a]", "aliases are not supported"),
        ("ip: !!python/object/apply:os.system [id]", "could not determine a constructor"),
        ("- port\n- 1", "a configuration must be a table"),
        ("9999", "a configuration must be a table"),
        ("? [a]\n: 1", "a key must be one word"),
        ("a: b: c", "mapping values are not allowed"),
        ("port: 1\n---\nport: 2", "expected a single document"),
        ("port:", "port: the value is empty"),
        ("port: {a: 1}", "unknown section [port]"),
        ("ip: !!binary aGFsbG8=", "ip: expected a string"),
        ("a: " + "[" * 60_000, "nested too deeply"),
    ],
)
def test_bad_yaml_is_one_line_that_names_the_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, told: str
) -> None:
    line = refused(capsys, "--config", written(tmp_path, text, "deploy.yaml"))
    assert told in line
    assert "deploy.yaml: " in line


def test_files_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "No such file" in refused(capsys, "--config", str(tmp_path / "missing.toml"))
    assert "not a regular file" in refused(capsys, "--config", str(tmp_path))
    assert "not a regular file" in refused(capsys, "--config", "/dev/zero")
    assert "must end in .toml, .yaml or .yml" in refused(
        capsys, "--config", written(tmp_path, "port = 1", "deploy.ini")
    )


def test_an_empty_file_says_nothing(tmp_path: Path) -> None:
    for name in ("empty.toml", "empty.yaml"):
        assert edge("-t", "le_net", "--config", written(tmp_path, "", name)).repeat == 1


def test_required_is_still_required(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "required: -t/--type" in refused(capsys, "--config", written(tmp_path, "repeat = 2"))


def test_variables(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_CLOUD_TOKEN", "a good secret")
    monkeypatch.setenv("EDGE_CLOUD_TYPE", "le_net")
    monkeypatch.setenv("EDGE_CLOUD_VERIFY", "yes")
    monkeypatch.setenv("EDGE_CLOUD_EMULTE_LINK", "5mbit")
    monkeypatch.setenv("EDGE_CLOUD_SERVICE_HOST", "10.0.0.1")
    found = edge()
    assert (found.type, found.verify) == ("le_net", True)
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2
    assert "EDGE_CLOUD_EMULTE_LINK is not a setting of this program; did you mean EDGE_CLOUD_EMULATE_LINK?" in told[0]
    assert "EDGE_CLOUD_SERVICE_HOST is not a setting" in told[1]
    monkeypatch.setenv("EDGE_CLOUD_PORT", "tcp://10.0.0.1:9999")  # what Kubernetes sets for a Service "edge-cloud"
    assert "EDGE_CLOUD_PORT: 'tcp://10.0.0.1:9999' is not a whole number" in refused(capsys)


def test_help_answers_whatever_is_set(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("EDGE_CLOUD_PORT", "tcp://10.0.0.1:9999")
    with pytest.raises(SystemExit) as ended:
        edge("--help")
    assert ended.value.code == 0
    assert "--config FILE" in capsys.readouterr().out


def test_every_flag_of_every_script_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """None whose kind of action has no meaning in a file, and none whose variable is another one's."""
    commands = deployment.build_parser()._subparsers
    assert commands is not None
    parsers = [
        edge_api.build_parser(),
        tasks_edge_api.build_parser(),
        cloud_parser("cloud_api.py", "", 1),
        deployment.build_parser(),
        *commands._group_actions[0].choices.values(),  # type: ignore[union-attr]
    ]
    assert len(parsers) == 11
    for parser in parsers:
        flags = settings._flags(parser)
        assert "log-level" in flags
        assert len({settings.variable(key) for key in flags}) == len(flags)
        assert environment.SECRET not in map(settings.variable, flags)
        for action in flags.values():
            assert action.nargs in (None, 0, "+", "*"), action
            assert action.nargs != 0 or action.const is not None, action


def test_what_a_program_starts_does_not_inherit_its_settings() -> None:
    found = environment.without_settings({"EDGE_CLOUD_PORT": "1", "EDGE_CLOUD_TOKEN": "a good secret", "PATH": "/bin"})
    assert found == {"EDGE_CLOUD_TOKEN": "a good secret", "PATH": "/bin"}


def test_sections_follow_the_names_of_programs() -> None:
    assert settings.section_of("edge_api.py") == ("edge_api",)
    assert settings.section_of("deployment.py plan") == ("deployment", "plan")
    assert settings.section_of("python -m lab run") == settings.section_of("lab run") == ("lab", "run")


def test_a_parser_of_the_house_needs_nothing_more(tmp_path: Path) -> None:
    parser = script.Parser("python -m lab run", "")
    parser.add_argument("--cpu", type=arguments.names)
    parser.add_argument("--model")
    parser.add_argument("--kinds", nargs="+", choices=("a", "b"))
    parser.add_argument("spec", nargs="?")
    path = written(
        tmp_path,
        "[lab.run]\ncpu = [0.3, 0.5]\nmodel = ['a', 'b']\nkinds = ['a', 'b']\n[lab.report]\nx = 1",
    )
    found = parser.parse_args(["--config", path, "spec.toml"])
    assert found.model == "a,b", "commas are for the program to read"
    assert (found.cpu, found.kinds, found.spec) == (("0.3", "0.5"), ["a", "b"], "spec.toml")


def test_nearest() -> None:
    assert nearest("EMULATE_LINK", ["emulate-link", "port"]) == "; did you mean emulate-link?"
    assert nearest("q", ["port"]) == ""


def test_read_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a\.toml: "):
        config.read(Path(written(tmp_path, "= 1", "a.toml")))


def test_the_real_program_takes_its_settings_and_says_errors_as_json(tmp_path: Path, cache: Path) -> None:
    text = f"""
        [edge_api]
        type = "le_net"
        point = 12
        json = true
        threads = 1
        cache-dir = "{cache}"
    """
    path = written(tmp_path, text)
    done = run_script("edge_api.py", "--config", path)
    assert done.code == 0, done.stderr
    assert (done.document["model"], done.document["plan"]["point"]) == ("le_net", 12)
    done = run_script("edge_api.py", "--config", path, "--point", "x")
    assert done.code == 2
    assert "point" in done.document["error"]["message"]
    done = run_script("deployment.py", "plan", "--json", "--config", path)
    assert done.code == 2
    assert json.loads(done.stdout)["error"]["message"].endswith("no section [deployment], only [edge_api]")
