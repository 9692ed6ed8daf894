"""`did you mean X?` for a word that looks like something known."""

from collections.abc import Iterable, Mapping


def nearest(word: str, names: Iterable[str]) -> str:
    """`; did you mean X?` where something known looks like the word, else the empty string."""
    from difflib import get_close_matches

    folded: Mapping[str, str] = {name.lower().replace("_", "-"): name for name in names}
    matches = get_close_matches(word.lower().replace("_", "-"), folded, n=1)
    return f"; did you mean {folded[matches[0]]}?" if matches else ""
