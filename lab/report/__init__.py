"""`python -m lab report DIR`: the measurements as one HTML file, a workbook and Markdown."""

import argparse
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from edgecloud.cli.script import say
from edgecloud.lab.texts import DEFAULT, LANGUAGES, now
from edgecloud.lab.texts import say as message
from edgecloud.utils.errors import AppError, UsageError
from edgecloud.utils.extras import require

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgecloud.lab.records import Cell
    from edgecloud.lab.report.document import Document

__all__ = ["LANGUAGES"]

FORMS = ("html", "xlsx", "md")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The command line."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="output directory of `lab run`")
    parser.add_argument("--out", type=Path, metavar="DIR", help="output directory of the report (default: the same)")
    parser.add_argument("--png", type=Path, metavar="DIR", help="also write the figures as PNG files to this directory")


def main(options: argparse.Namespace) -> int:
    """Write report.html, report.xlsx and report.md, and print the answer; 1 where nothing was measured."""
    require("jinja2", "openpyxl", *(["matplotlib"] if options.png is not None else []), extra="lab")
    from edgecloud.lab.records import SPEC, read
    from edgecloud.lab.report import html, markdown, workbook
    from edgecloud.lab.report.build import build
    from edgecloud.lab.report.words import Words
    from edgecloud.utils.files import write_atomically

    if not options.folder.is_dir():
        raise UsageError(f"no directory {options.folder}")
    environment, records = read(options.folder)
    words, expected = Words(now().language), expected_cells(options.folder / SPEC)
    document = build(environment, records, words, expected)
    target: Path = options.out or options.folder
    try:
        target.mkdir(parents=True, exist_ok=True)
        write_atomically(target / "report.html", html.to_html(document))
        write_atomically(target / "report.md", markdown.to_markdown(document))
        workbook.write(target / "report.xlsx", document)
    except OSError as error:
        raise AppError(f"cannot write the report to {target}: {error.strerror or error}") from None
    for warning in document.warnings:
        say(f"! {warning}")
    paragraphs = (section.paragraphs for section in document.sections if section.id.startswith("grid-"))
    for paragraph in dict.fromkeys(chain.from_iterable(paragraphs)):  # networks without fixed cuts all say the same
        say(paragraph)
    files = [target / f"report.{form}" for form in FORMS]
    if options.png is not None:
        files += draw(options.png, document, lambda: build(environment, records, Words(DEFAULT), expected))
    say(message("written", paths=", ".join(map(str, files))))
    return 0 if records else 1


def draw(folder: Path, document: "Document", in_english: "Callable[[], Document]") -> list[Path]:
    """The pictures as files; returns their names. Raises AppError where they cannot be written."""
    from edgecloud.lab.report import pictures

    if document.language != DEFAULT and pictures.chinese_font() is None:
        say(f"! {message('no_letters')}")
        document = in_english()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return pictures.draw(folder, document)
    except OSError as error:
        raise AppError(f"cannot write the figures to {folder}: {error.strerror or error}") from None


def expected_cells(path: Path) -> "tuple[Cell, ...]":
    """All cells of a spec, so that those without any record are seen to be missing; none where it cannot be read."""
    from edgecloud.lab.grid import places
    from edgecloud.lab.spec import read

    if not path.exists():
        return ()
    try:
        return tuple(place.cell for place in places(read(path)))
    except UsageError as error:
        say(f"! {error}")
        return ()
