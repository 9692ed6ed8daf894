"""SVG helpers. Colors are classes, for the dark mode of the page. Pure."""

import math
from html import escape


def tag(name: str, content: str = "", /, **attributes: str | float) -> str:
    """An element around content that is markup already; `data_records` is data-records, and `class_` is class."""
    pairs = "".join(f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"' for key, value in attributes.items())
    return f"<{name}{pairs}>{content}</{name}>" if content else f"<{name}{pairs}/>"


def _value(value: str | float) -> str:
    return escape(value) if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")


def letters(words: str, x: float, y: float, **attributes: str | float) -> str:
    """A text."""
    return tag("text", escape(words), x=x, y=y, **attributes)


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A straight line of a class."""
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=kind)


def drawing(width: float, height: float, alt: str, content: str) -> str:
    """An <svg> that grows and shrinks with its box."""
    return tag("svg", tag("title", escape(alt)) + content, viewBox=f"0 0 {width:g} {height:g}", role="img")


def ticks(highest: float, most: int = 5) -> list[float]:
    """0 and round numbers up to the first one that is at least `highest`."""
    if not highest > 0:
        return [0.0, 1.0]
    rough = highest / most
    step = 10.0 ** math.floor(math.log10(rough))
    step = next(step * factor for factor in (1, 2, 2.5, 5, 10) if step * factor >= rough)
    return [step * number for number in range(math.ceil(highest / step - 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers between two numbers above zero: powers of ten, or finer ones until there are three."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1,), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8), [1 + number / 4 for number in range(36)]):
        marks = [step * 10.0**decade for decade in decades for step in steps if low <= step * 10.0**decade <= high]
        if len(marks) >= 3:
            break
    return marks
