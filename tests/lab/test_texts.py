"""The lab in two languages: the same texts with the same blanks, help for every flag, and doctor to its last word."""

import ast
import re
import string
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecloud.lab import doctor, hosts, texts
from edgecloud.lab.__main__ import COMMANDS, build_parser, main
from edgecloud.lab.show import cell_text
from tests.made_records import cell_of

CHINESE = re.compile(r"[\u4e00-\u9fff]")


@pytest.fixture
def chinese() -> Iterator[texts.Texts]:
    yield texts.choose("zh")
    texts.choose("en")


@pytest.fixture(autouse=True)
def back_to_english() -> Iterator[None]:
    yield
    texts.choose("en")


def table(language: str) -> dict[str, Any]:
    return tomllib.loads((texts.HERE / f"{language}.toml").read_text(encoding="utf-8"))


def blanks(text: str) -> set[str]:
    """Its names in braces, none of which looks into an object."""
    found = [name for _, name, _, _ in string.Formatter().parse(text) if name is not None]
    assert all(name.isidentifier() for name in found), text
    return set(found)


def test_both_languages_have_the_same_texts_with_the_same_blanks() -> None:
    english, chinese = (table(language) for language in texts.LANGUAGES)
    assert english.keys() == chinese.keys() - {"help"}
    assert english["said"].keys() == chinese["said"].keys()
    flat = {key: text for key, text in english.items() if key != "said"}
    for key, text in flat.items():
        assert blanks(text) == blanks(chinese[key]), key
    for key, text in english["said"].items():
        assert blanks(text) == blanks(chinese["said"][key]), key


def test_every_text_is_used() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in (texts.HERE).rglob("*.py"))
    built = re.compile(r"(about|state|help_group|verdict)_")
    unused = [key for key in table("en") if not re.search(f"[\"']{key}[\"']", sources) and not built.match(key)]
    assert unused == ["said"] or unused == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_has_help_in_chinese_and_no_help_is_for_a_flag_that_is_gone(command: str) -> None:
    parser = build_parser(command)
    flags = {action.dest for action in parser._actions}
    words = texts.Texts("zh")
    for action in parser._actions:
        told = words.help_of(command, action.dest)
        assert told, f"{command}: {action.dest}"
        assert CHINESE.search(told), f"{command}: {action.dest}"
        assert "%" not in told, "argparse would fill it in"
    assert set(table("zh")["help"].get(command, {})) <= flags


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_chinese_where_that_is_wanted(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as ended:
        main([command, "--help", "--language", "zh"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert told.startswith(f"用法：python -m lab {command}")
    assert not re.search(r"\b(options|show|usage)\b|\(default", told), told
    for line in told.splitlines():
        if CHINESE.search(line):
            assert texts.width(line) <= 80, line


def test_the_language_may_stand_before_the_command_or_in_the_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["--language", "zh"]) == 2
    assert "检查本机" in capsys.readouterr().out
    assert main(["--help", "--language=zh"]) == 0
    assert "检查本机" in capsys.readouterr().out
    assert main(["--language=zh", "nonsense"]) == 2
    assert "没有 'nonsense' 这个命令" in capsys.readouterr().err
    assert main(["--language", "zh", "compare", "/no/such", "/nor/this"]) == 2
    assert texts.now().language == "zh"
    capsys.readouterr()
    monkeypatch.setenv(texts.VARIABLE, "zh")
    assert main([]) == 2
    assert "检查本机" in capsys.readouterr().out
    monkeypatch.delenv(texts.VARIABLE)
    assert main([]) == 2
    assert "check this machine for experiments" in capsys.readouterr().out


def test_another_language_is_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--language", "fr"])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert "invalid choice: 'fr'" in told
    assert len(told.splitlines()) == 1


# --- sentences that are written down in English


def filled(template: str) -> str:
    return texts.FORMATTER.vformat(template, (), dict.fromkeys(blanks(template), "7"))


def test_every_sentence_is_retold(chinese: texts.Texts) -> None:
    for sentence in texts.sentences():
        told = chinese.translated(filled(sentence))
        assert CHINESE.search(told), sentence
        assert told.count("7") >= len(blanks(sentence))


def test_what_the_modes_say_is_retold_with_what_it_is_made_of(chinese: texts.Texts) -> None:
    assert chinese.translated("it was asked for") == "由用户指定"
    why = "no hosts: network namespaces need root: use sudo, or --mode emulated"
    assert chinese.translated(why) == "不能用 hosts：创建网络命名空间需要 root，请用 sudo，或加 --mode emulated"
    assert texts.Texts("en").translated(why) == why


ERRORS = {"UsageError", "AppError", "MismatchError", "DeadlineError", "NoChoice", "IperfError"}
MADE_OF_OTHERS = {("hosts.py", "7: 7"), ("link.py", "iperf3: 7"), ("spec.py", "7: 7"), ("testbed.py", "--mode 7: 7")}
"""Errors that hand on what somebody else says."""
APART = ("relay.py", "link_shape.py")
"""A program of its own, which speaks English."""


def sentence_of(argument: ast.expr) -> str | None:
    """What an error says, each value in it a 7; None where it is put together elsewhere."""
    match argument:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(str(part.value) if isinstance(part, ast.Constant) else "7" for part in parts)
    return None


def errors_of_the_lab() -> Iterator[tuple[str, str]]:
    for path in sorted(texts.HERE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Raise(exc=ast.Call(func=ast.Name(id=name), args=[argument])) if name in ERRORS:
                    sentence = sentence_of(argument)
                    if path.name not in APART and sentence and (path.name, sentence) not in MADE_OF_OTHERS:
                        yield path.name, sentence


def test_every_error_of_the_lab_is_retold(chinese: texts.Texts) -> None:
    sentences = list(errors_of_the_lab())
    assert len(sentences) > 60, "or they are not found"
    assert not [each for each in sentences if not CHINESE.search(chinese.translated(each[1]))]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--names", "me"], "没有对照方法 'me'，可选：all-edge, all-cloud"),
        (["--names", "dads"], "中没有 le_net 的逐层时间：请先执行 deployment.py profile -t le_net"),
        (["--names", "neurosurgeon", "--edge-survey", "no such"], "没有测量数据集 no such"),
        (["-t", "nonsense"], "没有网络 'nonsense'，可选：alex_net"),
        (["--edge-times", "no such", "--names", "dads"], "没有文件 no such"),
        (["--bandwidth", "5"], "参数 --bandwidth：'5' 不是速率：按比特请写 5mbit"),
        (["--load", "0"], "参数 --load：'0' 不是正数（--help 列出各参数）"),
        (["--bandwidht", "5mbit"], "没有这样的参数：--bandwidht；是不是想写 --bandwidth？"),
    ],
)
def test_errors_of_lab_baselines_are_chinese_where_that_is_wanted(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["baselines", "-t", "le_net", "--bandwidth", "5mbit", "--cache-dir", str(tmp_path), *arguments]
    try:
        code = main([*given, "--json", "--language", "zh"])
    except SystemExit as ended:
        code = int(str(ended.code))
    out, err = capsys.readouterr()
    assert (code, err.count("\n")) == (2, 1)
    assert words in err
    assert not CHINESE.search(out), "JSON is for programs"


@given(st.text(max_size=80))
def test_what_nobody_says_stays_as_it_is_or_is_never_lost(text: str) -> None:
    """A value may be anything: braces in it are no template."""
    words = texts.Texts("zh")
    told = words.translated(f"no such sentence {{}} {text!r}")
    assert told.endswith(f"{text!r}") or re.search("[；：]", told)
    assert text.strip() == "" or "{" not in words.translated(f"load {text}").replace(text, "")


@pytest.mark.parametrize(("root", "path"), [(True, None), (False, None), (False, "/nowhere")])
def test_doctor_speaks_chinese_and_its_json_stays_english(
    root: bool, path: str | None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not root:  # as most students are
        monkeypatch.setattr("os.geteuid", lambda: 1000)
    if path is not None:  # and has no tools of root's
        monkeypatch.setenv("PATH", path)
    assert main(["doctor", "--language", "zh"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(doctor.CHECKS) + 1
    for line in lines:
        assert line[:2] in ("正常", "缺少", "注意", "本机"), line
        advice = line.partition("-> ")[2]
        assert not advice or CHINESE.search(advice), line
    assert main(["doctor", "--language", "zh", "--json"]) == 0
    assert not CHINESE.search(capsys.readouterr().out)


def test_what_hosts_cannot_is_among_the_sentences(chinese: texts.Texts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert CHINESE.search(chinese.translated(hosts.cannot()))
    assert CHINESE.search(chinese.translated(hosts.missing()))


def test_cells_are_told_in_chinese(chinese: texts.Texts) -> None:
    assert cell_text(cell_of(None, "5mbit")) == "alex_net，整核，5mbit"


@given(st.text(alphabet="边缘端，。ab cd-", max_size=200), st.integers(8, 60))
def test_lines_of_two_columns_letters_fit_and_nothing_is_lost(text: str, columns: int) -> None:
    lines = texts.wrapped(text, columns)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    for line in lines:
        longest = max(
            (texts.width(piece) for piece in re.findall(r"[^\s\u2e80-\uffef]+|[\u2e80-\uffef][，。]*", line)), default=0
        )
        assert texts.width(line) <= max(columns, longest)


def test_files_of_texts_are_beside_the_module() -> None:
    assert {path.name for path in Path(texts.HERE).glob("*.toml")} == {f"{each}.toml" for each in texts.LANGUAGES}
