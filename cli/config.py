"""Configuration files: TOML or YAML, keys named like the long flags, one section per program.

What the values mean is the flags' business (cli/settings.py). Here a file becomes tables of texts, or one clear line.
"""

import stat
from pathlib import Path
from typing import Any

from edgecloud.utils.errors import UsageError
from edgecloud.utils.suggest import nearest
from edgecloud.utils.units import printable

WITH_COMMANDS = ("deployment", "lab")
"""Programs whose sections hold one for each of their commands."""
PROGRAMS = ("edge_api", "cloud_api", "tasks_edge_api", "tasks_cloud_api", *WITH_COMMANDS)
MAX_BYTES = 64 << 10
LONGEST_REASON = 200
Table = dict[str, Any]
Value = str | bool | list[str]


def read(path: Path) -> Table:
    """The whole file as nested tables. Raises UsageError for what is no such file."""
    text = _text(path)
    parse = {".toml": _parse_toml, ".yaml": _parse_yaml, ".yml": _parse_yaml}.get(path.suffix.lower())
    if parse is None:
        raise UsageError(f"{path}: a configuration file must end in .toml, .yaml or .yml")
    try:
        document = parse(text)
    except RecursionError:
        raise UsageError(f"{path}: nested too deeply for a configuration") from None
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{path}: {printable(reason, LONGEST_REASON)}") from None
    if not isinstance(document, dict):
        raise UsageError(f"{path}: a configuration must be a table of keys and values, such as 'port: 9999'")
    return document


def _text(path: Path) -> str:
    """Of a regular file of bounded size; a pipe or a device might never end."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UsageError(f"{path}: not a regular file")
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot read the configuration {path}: {reason}") from None
    if len(raw) > MAX_BYTES:
        raise UsageError(f"{path}: larger than the limit of {MAX_BYTES >> 10} KiB for configurations")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not UTF-8 text") from None


def _parse_toml(text: str) -> object:
    """TOML refuses a key that is there twice by itself. Raises ValueError."""
    import tomllib

    return tomllib.loads(text)


def _parse_yaml(text: str) -> object:
    """Safe YAML in which plain scalars stay the text that they are. Raises ValueError.

    YAML would make a boolean of `off`, 8 of `010` and 5400 of `1:30:00`; a flag on the command line gets the text, so
    a flag in a file gets it too. Aliases are refused, because a few lines of them grow to gigabytes, and so are
    keys that are there twice, of which YAML would silently take the last.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  how yaml wants it

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise ValueError(f"line {self.line + 1}: aliases are not supported")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys: set[str] = set()
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    raise ValueError(f"line {key.start_mark.line + 1}: a key must be one word")
                if key.value in keys:
                    raise ValueError(f"line {key.start_mark.line + 1}: duplicate key {key.value!r}")
                keys.add(key.value)
            return super().construct_mapping(node, deep)

    try:
        document = yaml.load(text, Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
    return {} if document is None else document


def section(document: Table, names: tuple[str, ...], path: Path) -> Table:
    """The keys for one program: those of its section, or all of a file without sections.

    `names` is the way to the section, such as ("edge_api",) or ("deployment", "plan"). Raises UsageError where the file
    has sections but not this one: a file that is passed over in silence is worse than none.
    """
    sections = [key for key, value in document.items() if isinstance(value, dict)]
    if not sections:
        return document
    for key, value in document.items():
        if not isinstance(value, dict):
            raise UsageError(
                f"{path}: {short(key)} is outside of every section: move it into one, such as [{names[0]}]"
            )
        if key not in PROGRAMS:
            raise UsageError(f"{path}: unknown section [{short(key)}]{nearest(key, PROGRAMS)}")
    table = document
    for depth, name in enumerate(names):
        inner = table.get(name)
        if not isinstance(inner, dict):
            section_name = ".".join(names[: depth + 1])
            here = ", ".join(f"[{short(key)}]" for key in sections)
            raise UsageError(f"{path}: no section [{section_name}], only {here}")
        table = inner
    return table


def value_of(value: object) -> Value:
    """A value of a file as the text that would stand behind the flag, a truth value, or a list of texts.

    Raises ValueError for what no flag takes.
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, list):
        return [_scalar(item) for item in value]
    return _scalar(value)


def _scalar(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("expected a string, a number, true, false, or a list of strings")
    text = str(value)
    if not text.strip():
        raise ValueError("the value is empty: set one, or remove the key")
    if not text.isprintable():
        raise ValueError("the value contains unprintable characters")
    return text


def short(word: object) -> str:
    """An untrusted word for a line of an error."""
    return printable(str(word), 60)
