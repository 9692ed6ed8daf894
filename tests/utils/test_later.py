"""Libraries that are imported when something of them is first used."""

import pytest

from edgecloud.utils.later import later


def test_a_library_is_imported_when_it_is_used() -> None:
    library = later("string")
    assert library.digits == "0123456789"
    assert "digits" in vars(library), "it is asked once"
    assert later("fractions", "Fraction")(6, 4) == 1.5
    assert later("fractions", "Fraction").from_float(0.5) == 0.5
    missing = later("no_such_library")
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        _ = missing.anything
    with pytest.raises(AttributeError):
        _ = library.nothing
