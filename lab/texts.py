"""Translations of the lab's commands: every text by a key, from the file of the language.

en.toml and zh.toml have the same keys. Templates come from these files only, values fill them in; the report has its
own files, lab/report/*.toml. Errors, and what is written to a file or printed as JSON, are English sentences:
`translated` gives them in another language.
"""

import argparse
import re
import string
import tomllib
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from edgecloud.cli import script
from edgecloud.utils.names import typed

HERE = Path(__file__).parent  # by importlib.resources every --help would take a tenth longer
LANGUAGES = ("en", "zh")
DEFAULT = "en"
VERBATIM = {"path", "folder", "file", "text", "value", "line", "known"}
"""Values of a sentence that are never sentences themselves: what somebody has typed."""
FLAG, VARIABLE = "--language", "EDGE_CLOUD_LANGUAGE"


class _WithNumbers(string.Formatter):
    """As `str.format`, and `{n:cell|cells}` is the first word where n is 1, else the second one."""

    def format_field(self, value: Any, format_spec: str) -> str:
        one, bar, more = format_spec.partition("|")
        if not bar:
            return str(super().format_field(value, format_spec))
        return one if value == 1 else more


FORMATTER = _WithNumbers()


@cache
def read(path: Path) -> dict[str, Any]:
    """The texts of one file."""
    return tomllib.loads(path.read_text(encoding="utf-8"))


class Texts:
    """`texts("key", name=value)` gives a text in one language."""

    def __init__(self, language: str) -> None:
        self.language = language
        self._texts = read(HERE / f"{language}.toml")

    def __call__(self, key: str, /, **values: object) -> str:
        """Raises KeyError for a text or a name that is not there: that is a bug."""
        return typed(FORMATTER.format(self._texts[key], **values))

    def has(self, key: str) -> bool:
        """Whether there is such a text."""
        return isinstance(self._texts.get(key), str)

    def translated(self, english: str) -> str:
        """A sentence of en.toml's [said] in this language, its values too; one that is not there stays as it is.

        So do the parts of one that is not there, between semicolons and colons.
        """
        if self.language == DEFAULT:
            return english
        for key, pattern in _patterns():
            match = pattern.fullmatch(english)
            if match is not None:
                values = match.groupdict()
                values = {name: text if name in VERBATIM else self.translated(text) for name, text in values.items()}
                return FORMATTER.format(self._texts["said"][key], **values)
        for mark, chinese in (("; ", "；"), (": ", "：")):
            parts = english.split(mark)
            told = [self.translated(part) for part in parts] if len(parts) > 1 else parts
            if told != parts:
                return chinese.join(told)
        return english

    def help_of(self, command: str, option: str) -> str | None:
        """What a flag does, by its `dest`; None where there is only the English of the parser itself."""
        helps: Mapping[str, Any] = self._texts.get("help", {})
        help_text = helps.get(command, {}).get(option, helps.get(option))
        return help_text if isinstance(help_text, str) else None


@cache
def _patterns() -> list[tuple[str, re.Pattern[str]]]:
    """The English sentences, those first that have most letters of their own."""
    english: dict[str, str] = read(HERE / f"{DEFAULT}.toml")["said"]
    return sorted(((key, _pattern(text)) for key, text in english.items()), key=lambda each: -_fixed(english[each[0]]))


def _pattern(template: str) -> re.Pattern[str]:
    parts = FORMATTER.parse(template)
    return re.compile("".join(re.escape(text) + (f"(?P<{name}>.+?)" if name else "") for text, name, _, _ in parts))


def _fixed(template: str) -> int:
    return sum(len(text) for text, _, _, _ in FORMATTER.parse(template))


# --- the language of this call

_now: list[Texts] = [Texts(DEFAULT)]


def choose(language: str) -> Texts:
    """The language of what `say` gives from now on."""
    _now[0] = Texts(language)
    return _now[0]


def now() -> Texts:
    """The language that was chosen."""
    return _now[0]


def say(key: str, /, **values: object) -> str:
    """A text in the language that was chosen."""
    return _now[0](key, **values)


def requested_language(arguments: Sequence[str], environment: Mapping[str, str]) -> str:
    """The language that a command line or the environment asks for, as far as one can see before the flags are known:
    their help is in it already. Another one than there is is left to the parser to refuse."""
    language = environment.get(VARIABLE, "")
    for word, following in zip(arguments, [*arguments[1:], ""], strict=False):
        if word == FLAG or word.startswith(f"{FLAG}="):
            language = following if word == FLAG else word.partition("=")[2]
    return language if language in LANGUAGES else DEFAULT


# --- help


def width(text: str) -> int:
    """Columns of a terminal: Chinese letters take two."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def padded(text: str, columns: int) -> str:
    """Filled up with spaces."""
    return text + " " * max(0, columns - width(text))


def wrapped(text: str, columns: int) -> list[str]:
    """Lines of at most so many columns: broken at spaces, and between letters of two columns, but not before a mark."""
    lines, line = [], ""
    for piece in re.findall(
        r"\s|[^\s\u2e80-\uffef]+|[\u2e80-\uffef][\uff0c\u3002\u3001\uff1b\uff1a\uff09\u201d]*", text
    ):
        if line and width(line + piece) > columns:
            lines.append(line.rstrip())
            line = ""
        line += piece if line or not piece.isspace() else ""
    return [*lines, line.rstrip()] if line else lines


class ChineseHelp(argparse.HelpFormatter):
    """Help with Chinese words around the flags."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help
        if text is None or "%(default)" in text or "默认" in text or action.default in (None, False, [], ()):
            return text
        return text if action.default is argparse.SUPPRESS else f"{text}（默认 %(default)s）"

    def _split_lines(self, text: str, width: int) -> list[str]:
        return wrapped(" ".join(text.split()), width)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(indent + line for line in wrapped(" ".join(text.split()), width - len(indent)))

    def _format_usage(self, usage: Any, actions: Any, groups: Any, prefix: str | None) -> str:
        mark = "用法：" if prefix is None else prefix
        self._width -= width(mark) - len(mark)
        try:
            return super()._format_usage(usage, actions, groups, mark)
        finally:
            self._width += width(mark) - len(mark)


def translate(parser: argparse.ArgumentParser, command: str, texts: Texts) -> None:
    """Put a parser's help into a language."""
    if texts.language == DEFAULT:
        return
    parser.formatter_class = ChineseHelp
    if isinstance(parser, script.Parser):
        parser.worded = texts.translated
    for group in parser._action_groups:
        titles = {"positional arguments": "help_positional", "options": "help_options"}
        key = titles.get(group.title or "", f"help_group_{(group.title or '').replace(' ', '_')}")
        group.title = texts(key) if texts.has(key) else group.title
    for action in parser._actions:
        action.help = texts.help_of(command, action.dest) or action.help


def sentences() -> Iterator[str]:
    """The English sentences that can be translated, for tests."""
    yield from read(HERE / f"{DEFAULT}.toml")["said"].values()
