"""Pickles of strangers: plain data or a typed error, and never any code."""

import contextlib
import os
import pickle
import pickletools
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmarks.hostile.attacks import Gadget, gadgets
from edgecloud.net import plain_pickle
from edgecloud.net.plain_pickle import PlainPickleError
from tests.conftest import many
from tests.net.test_frames import SPECIFICATION, plain


@pytest.mark.parametrize("protocol", range(6))
def test_no_gadget_of_any_protocol_is_let_through(protocol: int, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    refused = 0
    for gadget in gadgets(canary):
        data = pickle.dumps(gadget, protocol=protocol)
        for attempt in (data, plain_pickle._START + data.removeprefix(b"\x80" + bytes([protocol]))):
            with pytest.raises(PlainPickleError):
                plain_pickle.loads(attempt)
            refused += 1
    assert refused >= 60
    assert not canary.exists()


def test_the_gadgets_are_real(tmp_path: Path) -> None:
    """An ordinary unpickler runs them, so the test above tests something."""
    pickle.loads(pickle.dumps(Gadget(os.mkdir, str(tmp_path / "canary"))))
    assert (tmp_path / "canary").exists()


LISTED = next(block for block in SPECIFICATION.read_text().split("```") if block.strip().startswith("PROTO FRAME"))
ALLOWED = sorted(
    opcode.code for opcode in pickletools.opcodes if opcode.name in set(LISTED.split()) - {"PROTO", "STOP"}
)
FORBIDDEN = sorted(o.code for o in pickletools.opcodes if o.code not in ALLOWED and o.name != "STOP")


@pytest.mark.parametrize("code", FORBIDDEN)
def test_every_other_instruction_is_refused(code: str) -> None:
    data = plain_pickle._START + b"N" + code.encode("latin1") + b"\x00" * 16 + b"."
    with pytest.raises(PlainPickleError, match="not allowed"):
        plain_pickle.loads(data)


def test_the_dangerous_instructions_are_among_the_forbidden() -> None:
    names = {o.name for o in pickletools.opcodes if o.code in FORBIDDEN}
    assert {
        "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4",
        "PERSID", "BINPERSID", "PUT", "BINPUT", "LONG_BINPUT", "BYTEARRAY8", "NEXT_BUFFER", "LONG4", "PROTO",
    } <= names  # fmt: skip


@settings(max_examples=many(150, 500))
@given(plain)
def test_plain_data_survives(value: Any) -> None:
    assert plain_pickle.loads(plain_pickle.dumps(value)) == value


@pytest.mark.parametrize("twice", [(1, 2), [], [3], {}, {"b": 1}, ()])
def test_what_is_in_it_twice_is_read_as_two(twice: Any) -> None:
    value = {"a": twice, "b": [twice, "x"], "c": "x"}
    back = plain_pickle.loads(plain_pickle.dumps(value))
    assert back == value
    assert not twice or back["a"] is not back["b"][0]


def test_anyone_can_read_and_write_it() -> None:
    value = {"a": [1, 2.5, None, True, "x", b"y", (1, 2)], "b": {"a": "x"}}
    assert pickle.loads(plain_pickle.dumps(value)) == value
    assert plain_pickle.loads(pickle.dumps(value, protocol=5)) == value


@pytest.mark.parametrize(
    "value", [object(), {1}, bytearray(1), os.system, 1j, 1 << 63, {1: 2}, [[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]
)
def test_writing_anything_else_is_a_bug_of_ours(value: Any) -> None:
    with pytest.raises(TypeError):
        plain_pickle.dumps(value)


@settings(max_examples=many(300, 1000))
@given(st.binary(max_size=200))
@example(b"")
@example(b"\x80")
@example(plain_pickle._START)
@example(plain_pickle._START + b".")
@example(plain_pickle._START + b"a.")
@example(plain_pickle._START + b"Ns.")
@example(plain_pickle._START + b"]]N\x86.")
def test_garbage_gives_plain_data_or_a_typed_error_and_nothing_else(data: bytes) -> None:
    for attempt in (data, plain_pickle._START + data, plain_pickle._START + data + b"."):
        try:
            plain_pickle.loads(attempt)
        except PlainPickleError:
            continue


allowed = st.sampled_from([code.encode("latin1") for code in ALLOWED])


@settings(max_examples=many(400, 1500))
@given(st.lists(allowed | st.binary(min_size=1, max_size=3), max_size=60))
def test_any_program_of_allowed_instructions_is_harmless(program: list[bytes]) -> None:
    with contextlib.suppress(PlainPickleError):
        plain_pickle.loads(plain_pickle._START + b"".join(program) + b".")


@settings(max_examples=many(100, 300))
@given(st.data())
def test_every_bit_flip_and_truncation_is_plain_or_refused(data: st.DataObject) -> None:
    good = plain_pickle.dumps({"layers": [[1, 5]], "tensors": [("float32", (1, 2), "raw", 0)], "id": 1 << 40})
    flipped = bytearray(good)
    flipped[data.draw(st.integers(0, len(good) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    for attempt in (bytes(flipped), good[: data.draw(st.integers(0, len(good) - 1))]):
        try:
            plain_pickle.loads(attempt)
        except PlainPickleError:
            continue


def refused_within(data: bytes, megabytes: float) -> None:
    """Check that bytes are refused and that hardly any memory was taken for it."""
    tracemalloc.start()
    try:
        with pytest.raises(PlainPickleError):
            plain_pickle.loads(data)
        assert tracemalloc.get_traced_memory()[1] < megabytes * 2**20
    finally:
        tracemalloc.stop()


def test_bombs_are_refused_before_they_take_memory() -> None:
    start = plain_pickle._START
    refused_within(start + b"Nr" + struct.pack("<I", 1 << 26) + b".", 1)  # LONG_BINPUT: a memo of a gigabyte
    refused_within(start + b"X" + struct.pack("<I", (1 << 32) - 1) + b".", 1)  # a string of 4 GiB
    refused_within(start + b"\x8e" + struct.pack("<Q", 1 << 40) + b".", 1)  # BINBYTES8
    refused_within(start + b"\x95" + struct.pack("<Q", 1 << 62) + b"N", 1)  # a FRAME that is not there
    laughs = b"]\x94" + b"".join(b"](" + b"h" + bytes([n]) + (b"h" + bytes([n])) * 9 + b"e\x94" for n in range(15))
    refused_within(start + laughs + b".", 1)  # ten lists of ten lists of ten lists ...


def test_a_key_that_takes_years_to_hash_is_refused_at_once() -> None:
    """t = (t, t) sixty times through the memo: hashing it as a key would take 2^60 steps in C."""
    doubling = b"})\x94" + b"".join(b"h" + bytes([n]) + b"h" + bytes([n]) + b"\x86\x94" for n in range(60)) + b"Ns."
    refused_within(plain_pickle._START + doubling, 1)
    refused_within(plain_pickle._START + b"}" + b")" + b"\x85" * 60_000 + b"Ns.", 8)


@pytest.mark.parametrize(
    "program",
    [
        b"]\x94h\x00a.",  # a list that holds itself
        b"}K\x01Ns.",  # a key that is a number: chosen ones collide
        b"}NNs.",
        b"\x8a\x09" + b"\x01" * 9 + b".",  # an int of nine bytes
        b"\x8c\x02\xed\xa0.",  # not UTF-8
        b"\x8c\x03\xed\xa0\x80.",  # a lone surrogate
        b"h\x00.",
        b"NN.",
        b"(.",
        b"N",
        b"N.N",
    ],
)
def test_small_programs_that_are_refused(program: bytes) -> None:
    with pytest.raises(PlainPickleError):
        plain_pickle.loads(plain_pickle._START + program)


def test_deep_nesting_neither_recurses_nor_crashes() -> None:
    for program in (b"]" * 30_000 + b"a" * 29_999, b")" + b"\x85" * 60_000):
        with pytest.raises(PlainPickleError, match="levels"):
            plain_pickle.loads(plain_pickle._START + program + b".")


@pytest.mark.parametrize("innermost", [1, 1.5, ()])
def test_as_many_levels_as_there_may_be_are_read_and_one_more_is_not_written(innermost: Any) -> None:
    value: list[Any] = [innermost]
    for _ in range(plain_pickle.MAX_DEPTH - 1):
        value = [value]
    assert plain_pickle.loads(plain_pickle.dumps(value)) == value
    with pytest.raises(TypeError, match="levels"):
        plain_pickle.dumps([value])
