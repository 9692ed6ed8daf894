"""The specification of an experiment: read from a TOML file or from flags, checked, and written back."""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from edgecloud.lab import traces
from edgecloud.lab.baselines import registry
from edgecloud.lab.testbed import AUTO, LinkSpec
from edgecloud.utils.errors import UsageError
from edgecloud.utils.files import require_file
from edgecloud.utils.resources import or_shipped
from edgecloud.utils.units import parse_duration, parse_link

NONE = "none"
LINK_KEYS = ("name", "link", "radio")
MOST_BYTES = 1 << 20
OBJECTIVES = ("latency", "energy")
MOST_REPEATS = 10_000


@dataclass(frozen=True)
class Spec:
    """An experiment. Every combination of models, cpu, links, traces and objectives is a cell."""

    models: tuple[str, ...]
    links: tuple[LinkSpec, ...]
    cpu: tuple[float | None, ...] = (None,)
    """Shares of one core; None is no limit."""
    points: str = ""
    """As `edge_api.py --points` takes them; `contenders` leaves out those that cannot be the best of their cell; ""
    measures only the baselines."""
    repeat: int = 3
    warm_up: int = 1
    codec: str = "raw"
    """Of the points; `auto` and the baselines choose their own."""
    codec_files: tuple[str, ...] = ()
    """Learned codecs, which the edge and the cloud are given."""
    accuracy_budget: float = 0.0
    """The share of answers that lossy codecs of `auto`, and a JPEG of all-cloud-in-budget, may change."""
    objectives: tuple[str, ...] = ("latency",)
    power: str = "raspberry_pi_4"
    mode: str = AUTO
    baselines: tuple[str, ...] = ("auto",)
    traces: tuple[str, ...] = ()
    """Files of rates over time, in place of those of the links."""
    verify: bool = True
    cloud_threads: int = 0
    """0: as many as it has cores."""

    def __post_init__(self) -> None:
        """Refuse what cannot be. Raises UsageError."""
        for name in ("models", "links", "cpu", "objectives"):
            if not getattr(self, name):
                raise UsageError(f"{name} is empty: give at least one")
            _no_twice(name, getattr(self, name))
        for share in self.cpu:
            if share is not None and not 0 < share <= 1:
                raise UsageError(f"cpu {share:g} is not a share of a core: use a number above 0 and at most 1, or none")
        for link in self.links:
            parse_link(link.shape)
        if unknown := [one for one in self.objectives if one not in OBJECTIVES]:
            raise UsageError(f"no objective {unknown[0]!r}: choose {', '.join(OBJECTIVES)}")
        self._check_numbers()
        registry.check(self.baselines)
        if not self.points and not self.baselines:
            raise UsageError("nothing to measure: set points, for example all, or baselines")
        if self.points == registry.CONTENDERS:
            self._check_contenders()

    def _check_numbers(self) -> None:
        if not 0 <= self.accuracy_budget <= 1:
            raise UsageError(f"accuracy_budget {self.accuracy_budget:g} is not a share of answers: use 0.01, say")
        if not 1 <= self.repeat <= MOST_REPEATS or not 0 <= self.warm_up <= MOST_REPEATS or self.cloud_threads < 0:
            raise UsageError("repeat must be at least 1; warm_up and cloud_threads at least 0")

    def _check_contenders(self) -> None:
        """What says which points cannot be the best has to be there."""
        if registry.AUTO not in self.baselines:
            raise UsageError("points contenders requires the baseline auto, which records the boundary sizes")
        if self.codec not in ("raw", "auto"):
            raise UsageError(
                f"points contenders requires the codec raw or auto: sizes under {self.codec} are not known in advance"
            )
        if self.traces:
            raise UsageError("points contenders cannot be combined with traces: use points all")

    def codec_file_flags(self) -> tuple[str, ...]:
        """What both sides are told of learned codecs."""
        return tuple(word for path in self.codec_files for word in ("--codec-file", path))

    def to_toml(self) -> str:
        """The text of spec.toml."""
        lines = []
        for name, value in asdict(self).items():
            if name == "links":
                links = [{"name": one["name"], "link": one["shape"], "radio": one["radio"]} for one in value]
                tables = [", ".join(f"{k} = {json.dumps(v)}" for k, v in link.items()) for link in links]
                lines.append("links = [\n" + "".join(f"    {{ {table} }},\n" for table in tables) + "]")
            else:
                value = [NONE if each is None else each for each in value] if name == "cpu" else value
                lines.append(f"{name} = {json.dumps(value)}")
        return "\n".join(lines) + "\n"


def _no_twice(name: str, values: tuple[Any, ...]) -> None:
    names = [value.name if isinstance(value, LinkSpec) else value for value in values]
    twice = next((value for value in names if names.count(value) > 1), None)
    if twice is not None:
        raise UsageError(f"{name}: {twice} is listed twice")


def read(path: Path) -> Spec:
    """Read a spec. Raises UsageError, in one line, for whatever is wrong with it."""
    path = or_shipped(path)
    require_file(path)
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UsageError(f"{path} is too large for a specification")
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from None
    try:
        return of(document, path.parent)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def of(document: Mapping[str, Any], folder: Path = Path()) -> Spec:
    """A spec from the values of a TOML document; traces are looked for in `folder`."""
    keys = {each.name for each in fields(Spec)}
    unknown = next((name for name in document if name not in keys), None)
    if unknown is not None:
        raise UsageError(f"unknown key {unknown!r}: choose {', '.join(sorted(keys))}")
    missing = next((name for name in ("models", "links") if name not in document), None)
    if missing is not None:
        raise UsageError(f"{missing} is missing")
    values: dict[str, Any] = {name: READ[name](name, value, folder) for name, value in document.items()}
    return Spec(**values)


def _text(name: str, value: Any, _folder: Path) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{name} must be a quoted string, not {value!r}")
    return value


def _number(name: str, value: Any, _folder: Path) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise UsageError(f"{name} must be a whole number, not {value!r}")
    return value


def _share(name: str, value: Any, _folder: Path) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise UsageError(f"{name} must be a number, not {value!r}")
    return float(value)


def _flag(name: str, value: Any, _folder: Path) -> bool:
    if not isinstance(value, bool):
        raise UsageError(f"{name} must be true or false, not {value!r}")
    return value


def _points(name: str, value: Any, folder: Path) -> str:
    if isinstance(value, list):
        return ",".join(str(each) for each in value)
    return _text(name, str(value) if isinstance(value, int) else value, folder)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _texts(name: str, value: Any, folder: Path) -> tuple[str, ...]:
    return tuple(_text(name, each, folder) for each in _list(value))


def _shares(name: str, value: Any, _folder: Path) -> tuple[float | None, ...]:
    return tuple(share_of(each) for each in _list(value))


def share_of(value: Any) -> float | None:
    """A share of a core, or `none`. Raises UsageError where it is neither."""
    if value == NONE:
        return None
    try:
        if isinstance(value, bool):
            raise ValueError
        return float(value)
    except (TypeError, ValueError):
        raise UsageError(f"cpu {value!r} is not a share of a core: use a number such as 0.3, or none") from None


def _links(name: str, value: Any, folder: Path) -> tuple[LinkSpec, ...]:
    return tuple(_link(each, folder) for each in _list(value))


def _link(value: Any, folder: Path) -> LinkSpec:
    """`"5mbit,20ms"`, or `{ name = "LTE", link = "5.85mbit,0ms,13.76mbit", radio = "4g" }`."""
    if isinstance(value, str):
        return link_of(value)
    if not isinstance(value, dict):
        raise UsageError(f"links: {value!r} is not a link: use a quoted string such as '5mbit'")
    unknown = next((key for key in value if key not in LINK_KEYS), None)
    if unknown is not None:
        raise UsageError(f"links: unknown key {unknown!r}: choose {', '.join(LINK_KEYS)}")
    if "link" not in value:
        raise UsageError(f'links: {value} lacks the key link, such as link = "5mbit,20ms"')
    texts = {key: _text(f"links.{key}", text, folder) for key, text in value.items()}
    link = link_of(texts["link"])
    return replace(link, name=texts.get("name", link.name), radio=texts.get("radio", link.radio))


def link_of(text: str) -> LinkSpec:
    """A link from its shape alone."""
    parse_link(text)
    return LinkSpec(text.strip(), text.strip())


def links_of(text: str) -> tuple[LinkSpec, ...]:
    """Those of a flag: `5mbit,7mbit,10mbit`, or `5mbit,20ms;7mbit,20ms,30mbit` where they have round trips."""
    parts = text.split(";")
    if len(parts) == 1 and not any(_is_duration(part) for part in text.split(",")):
        parts = text.split(",")
    return tuple(link_of(part) for part in parts)


def _is_duration(text: str) -> bool:
    try:
        parse_duration(text)
    except UsageError:
        return False
    return not text.strip().replace(".", "").isdecimal()


def _files(name: str, value: Any, folder: Path) -> tuple[str, ...]:
    """Where they are: the programs that read them may run in another folder."""
    return tuple(str((folder / text).resolve()) for text in _texts(name, value, folder))


def _traces(name: str, value: Any, folder: Path) -> tuple[str, ...]:
    paths = tuple(str(or_shipped(folder / text, text).resolve()) for text in _texts(name, value, folder))
    for path in paths:
        traces.read(Path(path))
    return paths


READ = {
    "models": _texts,
    "links": _links,
    "cpu": _shares,
    "points": _points,
    "repeat": _number,
    "warm_up": _number,
    "codec": _text,
    "codec_files": _files,
    "accuracy_budget": _share,
    "objectives": _texts,
    "power": _text,
    "mode": _text,
    "baselines": _texts,
    "traces": _traces,
    "verify": _flag,
    "cloud_threads": _number,
}
