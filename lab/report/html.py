"""A report as one self-contained HTML file, whose policy forbids loading anything."""

from collections.abc import Iterable
from itertools import groupby

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from edgecloud.lab.report.document import Chart, Document, Table, data_lines
from edgecloud.utils.resources import shipped


def to_html(document: Document) -> str:
    """The file's text. Everything but the drawings and the style is escaped by the template."""
    environment = Environment(
        loader=FileSystemLoader(shipped("lab.report")), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"data_lines": data_lines, "runs": _runs}
    style = shipped("lab.report", "page.css").read_text(encoding="utf-8")
    return environment.get_template("page.html.j2").render(document=document, style=style)


def _runs(blocks: Iterable[Table | Chart]) -> list[tuple[str, list[Table | Chart]]]:
    """Blocks of one kind that follow each other: heat maps stand beside each other."""
    return [(kind, list(run)) for kind, run in groupby(blocks, key=_kind)]


def _kind(block: Table | Chart) -> str:
    if isinstance(block, Chart):
        return "chart"
    return "heat-map" if block.is_heat_map else "table"
