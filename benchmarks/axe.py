"""axe-core on the live pages: which rules for accessibility are broken, and how seriously.

    npm install axe-core
    python -m benchmarks.axe node_modules/axe-core/axe.min.js URL...

URL is what a program with --page printed. Ends with 1 where a violation is serious or critical.
"""

import sys
import tempfile
import time
from pathlib import Path

from tests.browser import Tab, find_browser, running_browser

SEVERE = ("serious", "critical")
SETTLED_S = 3.0
RUN = """axe.run().then(r => [[r.passes.length, "rules passed"],
  ...r.violations.map(v => [v.impact, v.id, v.nodes.length, v.nodes[0].html.slice(0, 120)])])"""


def violations(tab: Tab, script: str, url: str, width: int, *, dark: bool) -> list[list[object]]:
    """What axe finds, as rows of impact, rule, count and the first place."""
    tab.open("about:blank", width)
    tab.open(url, width, dark=dark)
    time.sleep(SETTLED_S)
    tab.ask(script + "; 1")
    found = tab.call("Runtime.evaluate", expression=RUN, awaitPromise=True, returnByValue=True)
    rows: list[list[object]] = found["result"]["value"]
    return rows


def main() -> int:
    """Look at every page at both widths, light and dark."""
    program = find_browser()
    if program is None:
        print("no Chromium is installed")
        return 1
    script, urls = Path(sys.argv[1]).read_text(encoding="utf-8"), sys.argv[2:]
    is_severe = False
    with tempfile.TemporaryDirectory() as profile, running_browser(program, Path(profile)) as tab:
        for url in urls:
            for width, dark in ((1400, False), (390, True)):
                rows = violations(tab, script, url, width, dark=dark)
                print(
                    f"{url.partition('#')[0]} at {width} px, {'dark' if dark else 'light'}: {len(rows) - 1} violations"
                )
                for row in rows:
                    print("  ", *row)
                is_severe |= any(row[0] in SEVERE for row in rows)
    return int(is_severe)


if __name__ == "__main__":
    sys.exit(main())
