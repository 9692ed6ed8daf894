"""Values of flags from the environment and from a configuration file, before their defaults.

Every value goes through the type and the choices of its flag, as its text on the command line would; an error says
where it comes from. See docs/deploy.md.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from edgecloud.cli import config
from edgecloud.utils.environment import PREFIX, SECRET
from edgecloud.utils.errors import UsageError
from edgecloud.utils.suggest import nearest

NO_SETTING = ("help", "version", "config")
WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
SECRET_IN_FILE = (
    "secrets are not allowed in a configuration file: put the token into a separate file and set token-file to it, "
    f"or use ${SECRET}"
)
_MANY = ("+", "*")


class Setting(NamedTuple):
    """A value for a flag, and where it stands."""

    key: str
    value: config.Value
    origin: str
    """For errors: `deploy.toml: port`, or `EDGE_CLOUD_PORT`."""


def apply(parser: argparse.ArgumentParser, arguments: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """Make what the environment and the file of --config say the defaults of a parser; returns warnings.

    `parser` is the one whose flags `arguments` are for: that of the command, where there are commands. A parser is used
    once: its defaults are changed. Raises UsageError for a value, key or file that does not serve.
    """
    actions = _flags(parser)
    values: dict[str, tuple[argparse.Action, Any]] = {}
    path = config_path(arguments, environment)
    from_file = [] if path is None else _from_file(path, section_of(parser.prog), actions)
    from_environment, warnings = _from_environment(environment, actions)
    for setting in (*from_file, *from_environment):  # the later one wins
        action = actions[setting.key]
        values[action.dest] = action, _converted(parser, action, setting)
    for action, value in values.values():
        action.required = False
        if not (isinstance(action, argparse._AppendAction) and _is_given(action, arguments)):
            parser.set_defaults(**{action.dest: value})  # a flag that may be repeated would add to it
    return warnings


def leaf(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of the command that is called, or the parser itself where none is."""
    commands = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not commands:
        return parser
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            command: argparse.ArgumentParser = commands[0].choices.get(word, parser)
            return command
        action = parser._option_string_actions.get(word)
        if action is not None and action.nargs != 0:
            rest = rest[1:]
    return parser


def config_path(arguments: Sequence[str], environment: Mapping[str, str]) -> Path | None:
    """The file of --config, the last one where there are several, or that of the environment."""
    path = environment.get(PREFIX + "CONFIG", "")
    for word, following in zip(arguments, [*arguments[1:], ""], strict=False):
        if word == "--config":
            path = following
        elif word.startswith("--config="):
            path = word.removeprefix("--config=")
    return Path(path) if path else None


def section_of(prog: str) -> tuple[str, ...]:
    """`deployment.py plan` is ("deployment", "plan"), and `python -m lab run` is ("lab", "run")."""
    return tuple(word.removesuffix(".py") for word in prog.removeprefix("python -m ").split())


def variable(key: str) -> str:
    """The environment variable of a flag: `EDGE_CLOUD_EMULATE_LINK` for `emulate-link`."""
    return PREFIX + key.upper().replace("-", "_")


def _flags(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """What may be set, by each long name of it without its dashes."""
    return {
        name[2:]: action
        for action in parser._actions
        for name in action.option_strings
        if name.startswith("--") and action.dest not in NO_SETTING
    }


def _from_file(path: Path, names: tuple[str, ...], actions: Mapping[str, argparse.Action]) -> list[Setting]:
    settings: dict[str, Setting] = {}
    for key, value in config.section(config.read(path), names, path).items():
        origin = f"{path}: {config.short(key)}"
        if isinstance(value, dict) and names[0] in config.WITH_COMMANDS:
            continue  # the section of a command
        if key == "token":
            raise UsageError(f"{origin}: {SECRET_IN_FILE}")
        if key not in actions:
            raise UsageError(f"{origin}: unknown key{nearest(str(key), actions)}")
        dest = actions[key].dest
        if dest in settings:
            raise UsageError(f"{origin}: duplicates {settings[dest].key}, which is also set")
        try:
            settings[dest] = Setting(key, config.value_of(value), origin)
        except ValueError as error:
            raise UsageError(f"{origin}: {error}") from None
    return list(settings.values())


def _from_environment(
    environment: Mapping[str, str], actions: Mapping[str, argparse.Action]
) -> tuple[list[Setting], list[str]]:
    """The settings, and a line for each variable that looks like one but is not. An empty one counts as not set."""
    keys = {variable(key): key for key in actions}
    settings, warnings = [], []
    for name in sorted(environment):
        if not name.startswith(PREFIX) or name in (SECRET, PREFIX + "CONFIG") or not environment[name]:
            continue
        if name in keys:
            settings.append(Setting(keys[name], environment[name], name))
        else:
            warnings.append(f"{config.short(name)} is not a setting of this program{nearest(name, keys)}")
    return settings, warnings


def _converted(parser: argparse.ArgumentParser, action: argparse.Action, setting: Setting) -> Any:
    """The value as the flag's own type makes it. Raises UsageError that names where the text stands."""
    try:
        return _value(parser, action, setting.value)
    except argparse.ArgumentError as error:
        raise UsageError(f"{setting.origin}: {error.message}") from None
    except ValueError as error:
        raise UsageError(f"{setting.origin}: {error}") from None


def _value(parser: argparse.ArgumentParser, action: argparse.Action, value: config.Value) -> Any:
    if action.nargs == 0:
        return action.const if _truth(value) else action.default
    if isinstance(value, bool):  # a flag such as --fallback on|off
        value = "on" if value else "off"
        if action.choices is None or value not in action.choices:
            raise ValueError("expected a value, not true or false")
    texts = value if isinstance(value, list) else [value]
    if isinstance(action, argparse._AppendAction) or action.nargs in _MANY:
        return [_checked(parser, action, text) for text in texts]
    if isinstance(value, list):
        if action.type is Path:
            raise ValueError("expected one value, not a list")
        if any("," in text for text in texts):  # it would fall apart, perhaps into something that is right as well
            raise ValueError("a list item contains a comma: write the whole list as one string, as on the command line")
        return _checked(parser, action, ",".join(texts))
    return _checked(parser, action, value)


def _checked(parser: argparse.ArgumentParser, action: argparse.Action, text: str) -> Any:
    value = parser._get_value(action, text)
    parser._check_value(action, value)
    return value


def _truth(value: config.Value) -> bool:
    if isinstance(value, bool):
        return value
    word = value.strip().lower() if isinstance(value, str) else ""
    if word not in WORDS:
        raise ValueError(f"{config.short(value)!r} is neither true nor false")
    return WORDS[word]


def _is_given(action: argparse.Action, arguments: Sequence[str]) -> bool:
    """Whether the command line has the flag: `--weights X`, `--weights=X`; abbreviations are not taken."""
    return any(word.partition("=")[0] in action.option_strings for word in arguments)
