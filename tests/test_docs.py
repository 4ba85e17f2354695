"""The documentation is true: its code runs, its names exist, its links resolve."""

import inspect
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from trtforge import ExitCode, demo, hooks
from trtforge.api import run
from trtforge.bundle.contents import of_runs
from trtforge.bundle.writer import write
from trtforge.host import Host
from trtforge.recipe_reader import parse

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
AFTER_A_RUN = ("bundle", "export", "qualify")
"""Commands that start from a finished run or a bundle."""
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(language):
    for page in PAGES:
        found = [body for kind, body in BLOCK.findall(page.read_text()) if kind == language]
        if found:
            yield pytest.param(found, id=page.name)


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with the files that the pages speak of."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRTFORGE_CACHE", str(tmp_path / "cache"))
    shutil.copy(demo.MODEL, tmp_path / "model.onnx")
    shutil.copy(demo.CALIBRATION, tmp_path / "calibration.npz")
    page = (ROOT / "docs" / "recipe.md").read_text()
    recipe = next(body for kind, body in BLOCK.findall(page) if kind == "yaml")
    (tmp_path / "recipe.yaml").write_text(recipe)
    return tmp_path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with what earlier lines of a page make: a run, and a bundle of it."""
    folder = tmp_path_factory.mktemp("finished")
    options = {"shapes": {"image": "1x1x8x8"}, "use_cache": False, "compare": False}
    write(of_runs([run("fp16", demo.MODEL, out=folder / "out", **options).folder]), folder / "b")
    return folder


@pytest.mark.parametrize("found", list(blocks("python")))
def test_python_blocks_run_in_order(found, workplace, request):
    names = {}
    for body in found:
        if "digits.zip" in body:
            shutil.copytree(request.getfixturevalue("finished") / "b", "digits.zip")
        exec(compile(body, "docs", "exec"), names)  # noqa: S102  # our own documentation


@pytest.mark.parametrize("found", list(blocks("yaml")))
def test_yaml_blocks_are_recipes(found):
    host = Host()
    for body in found:
        assert parse(body, host, "docs").stages


def commands():
    for page in PAGES:
        for kind, body in BLOCK.findall(page.read_text()):
            for line in body.splitlines() if kind == "sh" else ():
                if line.startswith("trtforge "):
                    yield pytest.param(line, id=line.split("#")[0].strip())


@pytest.mark.parametrize("line", list(commands()))
def test_commands_run(line, workplace, request):
    words = shlex.split(line, comments=True)[1:]
    if words[0] in AFTER_A_RUN:
        place = request.getfixturevalue("finished")
        shutil.copytree(place / "out", "out")
        if words[:2] != ["bundle", "pack"]:
            shutil.copytree(place / "b", "digits.zip")  # a bundle is known by what is in it
    if words[0] == "init":
        (workplace / "recipe.yaml").unlink()
    if words[0] == "verify":
        words[2] = "model.onnx"  # what an earlier line of the page makes
    code = "from trtforge.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
    )
    # `check` says with 1 that the model as it is would be refused: that is its answer here.
    assert done.returncode == (1 if words[0] == "check" else 0), done.stderr


def test_every_hook_is_documented_with_its_arguments():
    page = (ROOT / "docs" / "hooks.md").read_text()
    names = [name for name in vars(hooks) if name.startswith("trtforge_")]
    assert names
    for name in names:
        arguments = ", ".join(inspect.signature(getattr(hooks, name)).parameters)
        assert f"## `{name}({arguments})`" in page
    assert set(re.findall(r"^## `(\w+)\(", page, re.MULTILINE)) == set(names)


def test_every_exit_code_is_documented():
    page = (ROOT / "docs" / "exit-codes.md").read_text()
    for code in ExitCode:
        assert f"| {int(code)} | `{code.name}` |" in page


def test_generated_parts_are_up_to_date(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import write_docs

    stored = (ROOT / "docs" / "report.schema.json").read_text()
    assert stored == write_docs.schema_text(), "write it anew: python scripts/write_docs.py"
    stored = (ROOT / "docs" / "bundle.schema.json").read_text()
    assert stored == write_docs.bundle_schema_text(), "write it anew: python scripts/write_docs.py"
    stored = (ROOT / "docs" / "events.schema.json").read_text()
    assert stored == write_docs.event_schema_text(), "write it anew: python scripts/write_docs.py"
    page = (ROOT / "docs" / "conversion.md").read_text()
    assert page == write_docs.with_rules(page), "write it anew: python scripts/write_docs.py"
    findings = (ROOT / "docs" / "findings.md").read_text()
    assert findings == write_docs.findings_page(), "write it anew: python scripts/write_docs.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if not target.startswith(("http:", "https:")):
            assert (page.parent / target).exists(), target
