"""Recipes are YAML from people who may not mean well."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtforge import RecipeError
from trtforge.yaml_text import MAX_BYTES, parse_yaml, read_yaml


def test_values_and_where_they_stand():
    document = parse_yaml("a: 1\nb:\n  - 1x3\n  - {c: true}\n", "r.yaml")
    assert document.data == {"a": 1, "b": ["1x3", {"c": True}]}
    assert document.where(("b", 1, "c")) == "r.yaml:4:6"
    assert document.where(("b", 1, "no", "such")) == "r.yaml:4:5"


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        ("a: 1\na: 2", "r.yaml:2:1", "the key 'a' stands twice, first in line 1"),
        ("a:\n\t- b", "r.yaml:2:1", "indent with spaces"),
        ("a: &x [1]\nb: *x", "r.yaml:1:4", "anchors and aliases"),
        ("a: &a [*a]", "r.yaml:1:4", "anchors and aliases"),
        ("a: {b", "r.yaml:1:6", "no valid YAML"),
        ("[" * 50, "r.yaml:1:33", "nested more than 32 levels"),
        ("a: !!python/object:os.system x", "r.yaml:1:4", "tag"),
        ("? [a, b]\n: c", "r.yaml:1:3", "a key must be a plain word"),
        ("a: 1\n--- \nb: 2", "r.yaml:2:1", "no valid YAML"),
    ],
)
def test_what_is_refused(text, where, message):
    with pytest.raises(RecipeError, match=message) as caught:
        parse_yaml(text, "r.yaml")
    assert caught.value.where == where


BILLION_LAUGHS = "a: &a [x]\n" + "".join(
    f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


def test_an_alias_bomb_is_refused_at_once():
    with pytest.raises(RecipeError, match="anchors and aliases"):
        parse_yaml(BILLION_LAUGHS, "bomb.yaml")


def test_files_that_are_no_recipes(tmp_path):
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x01")
    (tmp_path / "large.yaml").write_bytes(b"a: b\n" * (MAX_BYTES // 5 + 1))
    with pytest.raises(RecipeError, match="not UTF-8"):
        read_yaml(tmp_path / "binary.yaml")
    with pytest.raises(RecipeError, match="over 1 MiB"):
        read_yaml(tmp_path / "large.yaml")
    with pytest.raises(RecipeError, match="No such file"):
        read_yaml(tmp_path / "absent.yaml")


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused_with_a_place(text):
    place = "r.yaml"
    try:
        parse_yaml(text, "r.yaml")
    except RecipeError as error:
        place = error.where
    assert place.startswith("r.yaml")
