"""Attributes of every kind survive as text, bit by bit, or are refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trtforge_ops import RMSNorm

from trtforge import ModelError
from trtforge.op_attributes import read_written, write_op


@dataclass(frozen=True)
class Any_(RMSNorm):  # noqa: N801  # `Any` is taken
    name = "test::Any"
    value: Any = None


ATOMS = st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.text())


@given(st.one_of(ATOMS, st.lists(ATOMS, max_size=4).map(tuple)))
def test_numbers_text_and_lists_survive(value):
    back = read_written(write_op(Any_(value=value)), Any_).value
    assert repr(back) == repr(value)


@pytest.mark.parametrize("dtype", [np.int64, np.float16, np.float32, ml_dtypes.bfloat16, np.bool_])
def test_tensors_survive(dtype):
    value = np.array([[0, 1, 2], [3, 4, 5]]).astype(dtype)
    back = read_written(write_op(Any_(value=value)), Any_).value
    assert (back.dtype, back.shape, back.tobytes()) == (value.dtype, value.shape, value.tobytes())


def test_what_has_no_text_is_refused():
    with pytest.raises(ModelError, match="attribute 'value' is a object, which a plugin cannot"):
        write_op(Any_(value=object()))
    with pytest.raises(ModelError, match="attributes of test::Any"):
        read_written(write_op(Any_()), RMSNorm)
    with pytest.raises(ModelError, match="damaged"):
        read_written('{"op": "test::Any"}', Any_)
