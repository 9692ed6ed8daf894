"""Translations of the report: every text by a key, from the file of the language."""

from collections import Counter
from collections.abc import Iterable, Mapping

from edgecloud.lab.baselines.registry import POINT
from edgecloud.lab.records import Cell
from edgecloud.lab.report.document import show_ms
from edgecloud.lab.report.grid import Place
from edgecloud.lab.report.rows import Row
from edgecloud.lab.texts import FORMATTER, Texts, read
from edgecloud.utils.names import typed
from edgecloud.utils.resources import shipped
from edgecloud.utils.units import format_rate, parse_link


class Words:
    """`words("key", name=value)` gives the text in one language."""

    def __init__(self, language: str, ambiguous: frozenset[str] = frozenset()) -> None:
        self.language = language
        self._ambiguous = ambiguous
        self._texts: dict[str, str] = read(shipped("lab.report", f"{language}.toml"))
        self.translated = Texts(language).translated
        """What a record says in English, in this language."""

    def __call__(self, key: str, /, **values: object) -> str:
        """Raises KeyError for a text or a name that is not there: that is a bug."""
        return typed(FORMATTER.format(self._texts[key], **values))

    def naming(self, cells: Iterable[Cell]) -> "Words":
        """The same language, where links are called by their names; by their shapes too where names are not unique."""
        shapes = {(cell.link_name, cell.link) for cell in cells}
        counts = Counter(name for name, _ in shapes)
        return Words(self.language, frozenset(name for name, shapes in counts.items() if shapes > 1))

    def head(self, *keys: str) -> tuple[str, ...]:
        """The head of a table."""
        return tuple(self(key) for key in keys)

    def join(self, *sentences: str) -> str:
        """Sentences after each other, without the empty ones."""
        return self("between").join(filter(None, sentences))

    def cpu(self, share: float | None) -> str:
        """A device."""
        return self("cpu_full") if share is None else f"{share:g}"

    def link(self, of: Cell | Place) -> str:
        """A link: its name, with the shape where another one has the same, and its trace."""
        name = of.link_name if isinstance(of, Cell) else of.name
        label = f"{name} ({of.link})" if name in self._ambiguous else name
        return self("traced", link=label, trace=of.trace) if of.trace else label

    def link_shape(self, cell: Cell) -> str:
        """A link's name, and what it stands for."""
        up, down, rtt_s = parse_link(cell.link)
        return self("link_shape", name=self.link(cell), up=format_rate(up), down=format_rate(down), rtt=show_ms(rtt_s))

    def setting(self, cell: Cell) -> str:
        """A device and a link, for a sentence."""
        return self("setting", cpu=self.cpu(cell.cpu), link=self.link(cell))

    def cell(self, cell: Cell) -> str:
        """A network, a device and a link, for a sentence."""
        return self("cell", model=cell.model, setting=self.setting(cell))

    def cut(self, row: Row) -> str:
        """A cut, for a sentence or a cell."""
        return self.point(row.point)

    def cut_of(self, row: Row) -> str:
        """A cut, and who chose it: `0 (all on the cloud)`."""
        cut = self.cut(row)
        return cut if row.who == POINT else self("cut_of", cut=cut, who=self.who(row.who))

    def packed(self, row: Row) -> str:
        """A cut, and how its tensors travel, where that is not as they are: `0 [pixels]`."""
        return self.cut(row) if row.codec == "raw" else f"{self.cut(row)} [{row.codec}]"

    def point(self, number: int | None) -> str:
        """A point by its number."""
        return self("many_tensors") if number is None else str(number)

    def where(self, row: Row) -> str:
        """A cut and what it means."""
        if row.ran_here:
            return self("where_edge", cut=self.cut(row))
        if row.point == 0:
            return self("where_cloud")
        return self("where_after", cut=self.cut(row), layer=row.layer)

    def doctor(self, warning: Mapping[str, str]) -> str:
        """What `lab doctor` warned of."""
        key = f"doctor_{warning['name'].lower().replace(' ', '_')}"
        if key in self._texts:
            return self(key, found=self.translated(warning["found"]))
        name, finding, to_do = (self.translated(warning[each]) for each in ("name", "found", "to_do"))
        return " -> ".join(filter(None, (f"{name}{self('colon')}{finding}", to_do)))

    def objective(self, name: str) -> str:
        """What is least."""
        return self(f"objective_{name}") if f"objective_{name}" in self._texts else name

    def named(self, kind: str, name: str, **values: object) -> str | None:
        """The text of `kind_name`, if there is one."""
        key = f"{kind}_{name}"
        return self(key, **values) if key in self._texts else None

    def who(self, name: str) -> str:
        """A way of choosing the cut."""
        return self(f"who_{name}") if f"who_{name}" in self._texts else name
