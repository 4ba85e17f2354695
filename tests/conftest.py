"""Options of the test run, and which examples the property tests draw."""

from pathlib import Path

import pytest
from hypothesis import settings

# A landing must not fail by what chance draws: the same examples every time. Another time,
# `pytest --hypothesis-profile=nightly` looks for new ones.
settings.register_profile("repeatable", derandomize=True)
settings.register_profile("nightly", derandomize=False, print_blob=True)
settings.load_profile("repeatable")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update", action="store_true", help="rewrite the golden files from what the steps do now"
    )


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the user's, with a good model in it; the cache is elsewhere."""
    from models import CONV_RELU, parse

    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "good.onnx").write_bytes(parse(CONV_RELU).SerializeToString())
    monkeypatch.setenv("TRTFORGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def two_models(place: Path) -> Path:
    """That folder, with a model of fixed shapes beside the one whose batch is open."""
    from models import STATIC, parse

    (place / "static.onnx").write_bytes(parse(STATIC).SerializeToString())
    return place
