"""The documentation site: it builds, its links hold, its reader's browser fetches nothing else."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from trtforge_plugins.tensorrt.backend import TensorRT

import trtforge
from trtforge.host import Host

ROOT = Path(__file__).parent.parent
FETCHED = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?(https?:[^\"' >]+)"
    r"|<link\b[^>]*rel=[\"']?(?:stylesheet|preload|preconnect)[^>]*href=[\"']?(https?:[^\"' >]+)"
)
"""What a browser fetches by itself: scripts, pictures, styles."""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site as ``mkdocs build`` makes it; ``strict`` turns every broken link into an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "-q", "-d", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_every_step_is_on_its_page(site):
    page = (site / "steps" / "index.html").read_text()
    host = Host()
    ours = [n for n in host.steps if host.owner(n).name == "trtforge-plugins"]
    assert len(ours) > 30
    assert [name for name in ours if f"<code>{name}</code>" not in page] == []


def test_every_public_name_is_on_its_page(site):
    page = (site / "python" / "index.html").read_text()
    homeless = {"Dims", "Shape", "Tactic", "hookimpl"}  # aliases and a marker, made elsewhere
    missing = [n for n in trtforge.__all__ if f".{n}</code>" not in page and f'.{n}"' not in page]
    assert set(missing) <= homeless


def test_the_browser_fetches_nothing_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    fetched = {page.name: FETCHED.findall(page.read_text()) for page in pages}
    assert not any(fetched.values()), fetched


def test_the_options_that_trtexec_flags_lead_to_exist():
    page = (ROOT / "docs" / "from-trtexec.md").read_text()
    named = set(re.findall(r"`tensorrt\.(\w+)", page))
    assert len(named) > 10
    assert named <= {field.name for field in dataclasses.fields(TensorRT)}


def test_no_trtexec_flag_is_told_twice():
    page = (ROOT / "docs" / "from-trtexec.md").read_text()
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `--")]
    flags = [flag for row in rows for flag in re.findall(r"`(--\w+(?:=\w+:)?)", row)]
    assert len(flags) > 130
    assert sorted(flags) == sorted(set(flags))
