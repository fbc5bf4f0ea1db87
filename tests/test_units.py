import pytest

from diversevis.errors import InputError
from diversevis.units import counted, parse_units, units_text


@pytest.mark.parametrize(
    ("given", "units"),
    [(12, [12]), ("0-3", [0, 1, 2, 3]), ("all", list(range(16))), ([5, 1, 9], [1, 5, 9]),
     ("1,5,8-10", [1, 5, 8, 9, 10]), (["0-2", 2, "7"], [0, 1, 2, 7]), (" 3 - 4 ", [3, 4])],
)  # fmt: skip
def test_units_are_parsed(given, units):
    assert list(parse_units(given, 16, "layer x")) == units


@pytest.mark.parametrize(
    ("given", "words"),
    [(16, "16 units"), ("0-99", "no unit 99"), ("", "neither a unit"), ([], "names no unit"),
     ("abc", "'abc'"), ("5-2", "backwards"), (-1, "-1"), ("1.5", "1.5"), ("1,,2", "''"),
     ([True], "True")],
)  # fmt: skip
def test_malformed_units_are_named(given, words):
    with pytest.raises(InputError, match="unit=") as error:
        parse_units(given, 16, "layer x")
    assert words in str(error.value)
    assert "0 to 15" in str(error.value)


def test_counts_have_their_number():
    said = [counted(0, "run"), counted(1, "run"), counted(2, "CUDA device")]
    assert said == ["0 runs", "1 run", "2 CUDA devices"]


def test_names_of_unit_sets():
    assert units_text([12]) == "12"
    assert units_text([0, 1, 2, 3, 7]) == "0-3,7"
    odd, other = list(range(1, 200, 2)), [*range(1, 198, 2), 198]
    assert len(units_text(odd)) < 40
    assert units_text(odd) != units_text(other)
