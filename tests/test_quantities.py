"""Shapes, ranges and sizes as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from trtforge import ByteSize, Dims, RequestError, ShapeRange
from trtforge.quantities import format_bytes
from trtforge.targets import KNOWN, read_target


@pytest.mark.parametrize(
    ("text", "size"),
    [("4GiB", 4 * 2**30), ("512MiB", 512 * 2**20), ("1.5GB", 1_500_000_000), (" 7 ", 7), (12, 12)],
)
def test_sizes(text, size):
    assert ByteSize(text) == size


@pytest.mark.parametrize("text", ["", "4 parsecs", "-1GiB", "GiB", True, None, 1.5])
def test_what_is_no_size(text):
    with pytest.raises(RequestError, match="is not a size"):
        ByteSize(text)


@pytest.mark.parametrize("text", ["9" * 400, "99999999999TiB", 2**70])
def test_a_size_that_no_machine_has_is_refused(text):
    with pytest.raises(RequestError, match="more than any machine has") as caught:
        ByteSize(text)
    assert len(caught.value.what) < 100


@given(st.integers(0, 2**50))
def test_a_size_survives_being_written_when_a_unit_divides_it(count):
    text = format_bytes(count)
    if "." not in text:
        assert ByteSize(text) == count


@pytest.mark.parametrize("text", ["1x3x224x224", "[1,3,224,224]", "[1, 3, 224, 224]"])
def test_both_ways_to_write_a_shape(text):
    assert Dims(text) == (1, 3, 224, 224)
    assert str(Dims(text)) == "1x3x224x224"


@given(st.lists(st.integers(0, 2**31 - 1), max_size=6))
def test_a_shape_survives_being_written(dims):
    assert Dims(str(Dims(dims))) == tuple(dims)


@pytest.mark.parametrize("text", ["1x-3", "axb", "1x", [1, "2"], [1.5], True, [2**31], None])
def test_what_is_no_shape(text):
    with pytest.raises(RequestError):
        Dims(text)


@pytest.mark.parametrize("written", [{"min": "1x3", "opt": [2, 3], "max": "4x3"}, "1x3:2x3:4x3"])
def test_shape_ranges(written):
    assert ShapeRange.read(written) == ShapeRange(Dims("1x3"), Dims("2x3"), Dims("4x3"))


def test_one_shape_is_a_fixed_range():
    assert ShapeRange.read("1x3").is_fixed
    assert str(ShapeRange.read("1x3")) == "1x3"


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"min": "2x3", "opt": "1x3", "max": "4x3"}, "dimension 0: min 2, opt 1, max 4"),
        ({"min": "1x3", "opt": "2x3x4", "max": "4x3"}, "different ranks"),
        ({"min": "1x3", "max": "4x3"}, "min, opt and max; found min, max"),
        ({"min": "1x3", "opt": "1x3", "max": "1x3", "most": 1}, "found min, opt, max, most"),
        (3.5, "neither a shape nor"),
    ],
)
def test_what_is_no_shape_range(written, message):
    with pytest.raises(RequestError, match=message):
        ShapeRange.read(written)


def test_pydantic_reads_them_and_says_what_is_wrong():
    assert TypeAdapter(ByteSize).validate_python("1KiB") == 1024
    with pytest.raises(ValidationError, match="is not a shape"):
        TypeAdapter(Dims).validate_python("one")


@pytest.mark.parametrize("text", ["sm_86", "sm86", "SM86", "8.6", "86", 86, 8.6])
def test_a_target_has_many_spellings(text):
    assert read_target(text) is KNOWN["sm_86"]


def test_an_unknown_target_gets_a_suggestion():
    with pytest.raises(RequestError, match="Did you mean 'sm_90'"):
        read_target("sm_99")
