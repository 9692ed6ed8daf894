"""A15: clients that guess tokens."""

import contextlib
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.hostile.attacks import encode
from benchmarks.hostile.site import (
    ATTACKER,
    TOKEN,
    UNPACED,
    Row,
    Site,
    end_of,
    raw,
    site,
    soon,
    watched,
)
from edgecloud.net.connection import Connection
from edgecloud.net.messages import Hello


def tokens(cache: Path) -> list[Row]:
    """A15: who guesses tokens, and what the time of a refusal tells."""
    guesses = {"first": "b" + TOKEN[1:], "last": TOKEN[:-1] + "?"}
    with (
        site(cache, *UNPACED, token=TOKEN) as there,
        watched(there, "A15 1,000 wrong tokens, loopback being exempt") as row,
    ):
        times: dict[str, list[float]] = {place: [] for place in guesses}
        for number in range(500):
            for place in sorted(guesses, reverse=bool(number % 2)):
                with closing(Connection(raw(there))) as connection:
                    sent = encode(Hello("le_net", "", "", [], guesses[place]), [])
                    began = time.perf_counter()
                    connection.sock.sendall(sent)
                    code = connection.receive(soon()).header["code"]
                    times[place].append(time.perf_counter() - began)
                    row.count(code, ["TOKEN"], times[place][-1])
        first, last = (np.array(times[place]) * 1e6 for place in ("first", "last"))
        same = abs(median(first[::2]) - median(first[1::2]))
        row.note = (
            f"median {median(first):.0f} µs with a wrong first character, {median(last):.0f} µs with a wrong last, "
            f"{median(last) - median(first):+.1f} µs; the halves of the first differ by {same:.1f} µs"
        )
    with site(cache, *UNPACED, "--penalise-loopback", token=TOKEN) as there:
        rows = [row, _guesses_of_another(there, guesses["last"])]
    return rows


def _guesses_of_another(there: Site, guess: str) -> Row:
    with watched(there, "A15 1,000 wrong tokens from an address that is not exempt") as row:
        codes: Counter[str] = Counter()
        for _ in range(1000):
            with closing(Connection(raw(there, ATTACKER))) as connection:
                with contextlib.suppress(OSError):
                    connection.sock.sendall(encode(Hello("le_net", "", "", [], guess), []))
                code, seconds = end_of(connection)
                codes[code] += 1
                row.count(code, ("TOKEN", "PENALTY", "CLOSED"), seconds)
        row.note = ", ".join(f"{number} {code}" for code, number in codes.most_common())
        if codes["CLOSED"]:
            row.note += "; CLOSED: what was sent met a closed socket, and the reset took the refusal with it"
    return row
