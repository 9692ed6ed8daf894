"""A report as Markdown: everything except the figures and the records. Pure."""

from edgecloud.lab.report.document import Document, Section, Table


def to_markdown(document: Document) -> str:
    """The file's text."""
    lines = [f"# {_plain(document.title)}", ""]
    lines += [f"> **!** {_plain(warning)}\n" for warning in document.warnings]
    lines += [f"- {_plain(name)}: {_plain(value)}" for name, value in document.facts]
    for section in document.sections:
        lines += _section(section)
    lines += ["", _plain(document.words["see_html"]), ""]
    return "\n".join(lines)


def _section(section: Section) -> list[str]:
    lines = ["", f"## {_plain(section.title)}", ""]
    for paragraph in section.paragraphs:
        lines += [_plain(paragraph), ""]
    for block in section.blocks:
        if isinstance(block, Table):
            lines += _table(block)
    return lines[:-1]


def _table(table: Table) -> list[str]:
    are_numbers = [bool(table.rows) and table.rows[0][column].is_number for column in range(len(table.head))]
    lines = [f"**{_plain(table.title)}**", ""]
    lines.append(_line(table.head))
    lines.append(_line(["---:" if is_number else "---" for is_number in are_numbers]))
    for row in table.rows:
        lines.append(_line([f"**{_plain(e.text)}**" if e.mark == "best" else _plain(e.text) for e in row], True))
    for note in table.notes:
        lines += ["", f"*{_plain(note)}*"]
    return [*lines, ""]


def _line(cells: "list[str] | tuple[str, ...]", is_ready: bool = False) -> str:
    return f"| {' | '.join(cells if is_ready else map(_plain, cells))} |"


def _plain(words: str) -> str:
    """Text in which nothing is taken for markup: names of networks and traces may be anybody's."""
    for sign in "\\|*_<>`[]":
        words = words.replace(sign, f"\\{sign}")
    return " ".join(words.split())
