"""Templates are compiled once, under Python's rules for modules."""

import os
import sys

import jinja2
import pytest

from trtforge.compiled_template import compiled


@pytest.fixture
def template(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setattr(sys, "pycache_prefix", None)
    path = tmp_path / "page.html.jinja"
    path.write_text("<p>{{ name }}</p>")
    return path


class Counting(jinja2.Environment):
    """Counts how often something is compiled."""

    times = 0

    def compile(self, *arguments, **options):
        self.times += 1
        return super().compile(*arguments, **options)


def render(path):
    environment = Counting(autoescape=True)
    return compiled(environment, path).render(name="<b>"), environment.times


def test_the_second_time_nothing_is_compiled(template):
    assert render(template) == ("<p>&lt;b&gt;</p>", 1)
    assert render(template) == ("<p>&lt;b&gt;</p>", 0)


def test_a_changed_template_is_compiled_again(template):
    render(template)
    template.write_text("<i>{{ name }}</i>")
    os.utime(template, (1, 1))
    assert render(template) == ("<i>&lt;b&gt;</i>", 1)


def test_another_version_of_jinja_compiles_again(template, monkeypatch):
    render(template)
    monkeypatch.setattr(jinja2, "__version__", "99.0")
    assert render(template)[1] == 1


def test_nothing_is_kept_where_python_may_write_no_code(template, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert [render(template)[1] for _ in range(2)] == [1, 1]
    assert not list(template.parent.glob("__pycache__/*"))
