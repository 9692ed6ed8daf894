"""A coder of whole numbers by their frequencies: asymmetric numeral systems (Duda, arXiv 1311.2540). Pure.

A state of at most 64 bits holds what was coded last; where it grows too large its low 32 bits become a word. A decoder
takes the numbers back in the other direction, the last word first. All of it is integer arithmetic, so the bytes are
the same on every machine (docs/wire.md).

The library constriction does this in native code, at about 20 ns a number. It has no wheel for Linux on ARM: there
Python does it, at half a microsecond, which serves an edge; a cloud without the library does not announce the codecs
that need it. A run is many numbers of one model, since each call of the library takes one.
"""

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgecloud.utils.errors import ProtocolError

try:
    from constriction import stream
except ImportError:  # no wheel for this machine
    stream = None

IS_NATIVE = stream is not None
"""Whether the library is there."""
TOTAL = 1 << 16
"""What the frequencies of a model sum to; each is at least 1."""
_PRECISION, _SHIFT = 24, 8  # the library's total is 2^24
_WORD_BITS = 32
_PLAIN_BITS = 24  # of the first state

Codes = npt.NDArray[np.int32]
Frequencies = npt.NDArray[np.int64]


class Model:
    """Frequencies of the numbers from 0 on, at least two, which sum to `TOTAL`. Raises ValueError for others."""

    def __init__(self, frequencies: Frequencies) -> None:
        if frequencies.size < 2 or frequencies.min() < 1 or frequencies.sum() != TOTAL:
            raise ValueError(f"the frequencies of a model must be at least 1 and sum to {TOTAL}")
        self.frequencies = frequencies
        # The library gives each number 1, and divides the rest of 2^24 by what it is told: whole numbers that sum to
        # just that rest and are exact in its floats, so that nothing is rounded.
        told = ((frequencies.astype(np.int64) << _SHIFT) - 1).astype(np.float64)
        self.native = stream.model.Categorical(told, perfect=False) if IS_NATIVE else None

    @property
    def width(self) -> int:
        """Bits of a number."""
        return int(self.frequencies.size - 1).bit_length()

    @property
    def plain_codes(self) -> int:
        """How many numbers the first state holds."""
        return _PLAIN_BITS // self.width

    def plain(self) -> tuple[list[int], list[int]]:
        """The share of each number in 2^24, and where it begins."""
        shares = self.frequencies.astype(np.int64) << _SHIFT
        return shares.tolist(), (np.cumsum(shares) - shares).tolist()


Run = tuple[Model, Codes]


def encode(runs: Sequence[Run]) -> bytes:
    """The numbers of all runs, for a decoder that reads them in this order; the last run must not be empty."""
    first, rest = _split(runs)
    words = _encode_native(first, rest) if IS_NATIVE else encode_plain(first, rest)
    return words.astype("<u4", copy=False).tobytes().rstrip(b"\0")


def decode(data: memoryview, runs: Sequence[tuple[Model, int]]) -> list[Codes]:
    """So many numbers of each model, each within the model. Takes time and memory for these, whatever the data are.

    Raises ProtocolError where the data end before, or hold more.
    """
    words = np.frombuffer(bytes(data) + bytes(-data.nbytes % 4), "<u4").astype(np.uint32)
    if not words.size or not words[-1]:
        raise ProtocolError("entropy-coded data must not be empty or end with a zero")
    model, count = runs[-1]
    plain = min(count, model.plain_codes)
    decoded, rest = (_decode_native if IS_NATIVE else decode_plain)(words, [*runs[:-1], (model, count - plain)])
    if len(rest) != 1 or rest[0].bit_length() != plain * model.width + 1:
        raise ProtocolError("damaged entropy-coded data")
    last = np.array([rest[0] >> place * model.width & (1 << model.width) - 1 for place in range(plain)], np.int32)
    if (last >= model.frequencies.size).any():
        raise ProtocolError("damaged entropy-coded data")
    return [*decoded[:-1], np.concatenate([decoded[-1], last[::-1]])]


def _split(runs: Sequence[Run]) -> tuple[int, list[Run]]:
    """The first state, and what is coded from there: a state of few bits codes badly, so it begins as a 1 and the plain
    bits of the last numbers. Coming back to that 1 a decoder knows that it has read all."""
    model, codes = runs[-1]
    at = max(0, len(codes) - model.plain_codes)
    state = 1
    for code in codes[at:].tolist():
        state = state << model.width | code
    return state, [*runs[:-1], (model, codes[:at])]


def _encode_native(first: int, runs: Sequence[Run]) -> npt.NDArray[np.uint32]:
    coder = stream.stack.AnsCoder(np.array([first], np.uint32))
    for model, codes in reversed(runs):
        coder.encode_reverse(codes, model.native)
    words: npt.NDArray[np.uint32] = coder.get_compressed()
    return words


def _decode_native(words: npt.NDArray[np.uint32], runs: Sequence[tuple[Model, int]]) -> tuple[list[Codes], list[int]]:
    coder = stream.stack.AnsCoder(words)
    decoded = [coder.decode(model.native, count) for model, count in runs]
    return decoded, coder.get_compressed().tolist()


def encode_plain(first: int, runs: Sequence[Run]) -> npt.NDArray[np.uint32]:
    """The words, by integers alone: what the library makes, and what another implementation has to make."""
    state, words = first, []
    for model, codes in reversed(runs):
        shares, starts = model.plain()
        for code in reversed(codes.tolist()):
            share = shares[code]
            if state >> (2 * _WORD_BITS - _PRECISION) >= share:
                words.append(state & 0xFFFFFFFF)
                state >>= _WORD_BITS
            whole, rest = divmod(state, share)
            state = (whole << _PRECISION) + starts[code] + rest
    while state:
        words.append(state & 0xFFFFFFFF)
        state >>= _WORD_BITS
    return np.array(words, np.uint32)


def decode_plain(words: npt.NDArray[np.uint32], runs: Sequence[tuple[Model, int]]) -> tuple[list[Codes], list[int]]:
    """The numbers of each run, and the words that are left."""
    stack = words.tolist()
    state = stack.pop()
    if stack:
        state = state << _WORD_BITS | stack.pop()
    decoded = []
    for model, count in runs:
        shares, starts = model.plain()
        codes = np.empty(count, np.int32)
        for place in range(count):
            low = state & ((1 << _PRECISION) - 1)
            code = codes[place] = bisect_right(starts, low) - 1
            state = (state >> _PRECISION) * shares[code] + low - starts[code]
            if state >> _WORD_BITS == 0 and stack:
                state = state << _WORD_BITS | stack.pop()
        decoded.append(codes)
    rest = [*stack, *(part for part in (state & 0xFFFFFFFF, state >> _WORD_BITS) if part)]
    return decoded, rest
