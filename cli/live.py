"""The live page of a program: where `--page` says, for as long as the program runs."""

import argparse
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from edgecloud.cli import arguments, script

if TYPE_CHECKING:
    from edgecloud.page.app import View

V = TypeVar("V", bound="View")


def add_page_flags(parser: argparse.ArgumentParser) -> None:
    """Where the page is, and who may see it."""
    group = parser.add_argument_group("Live page")
    group.add_argument(
        "--page",
        type=arguments.page_place,
        metavar="[HOST:]PORT",
        help="show a live page in the browser; 0 lets the system choose the port (default host: 127.0.0.1)",
    )
    group.add_argument(
        "--page-token-file",
        type=Path,
        metavar="FILE",
        help="file with the token of the page (default: a new one for every start, printed with the address)",
    )


@contextlib.contextmanager
def shown(options: argparse.Namespace, view_of: Callable[[], V]) -> Iterator[V | None]:
    """Serve the page while this lasts, where one is wanted. Raises UsageError, and ConnectError for a port in use."""
    if options.page is None:
        yield None
        return
    from edgecloud.net.security import read_token
    from edgecloud.page.app import Page

    host, port = options.page
    token = "" if options.page_token_file is None else read_token(options.page_token_file)
    view = view_of()
    page = Page(view, host, token)
    script.complain(f"page on {page.open(port)}")
    try:
        yield view
    finally:
        page.close()
