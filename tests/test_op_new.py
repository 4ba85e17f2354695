"""``trtforge op new``: the package as generated installs, passes its own tests, and builds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from command import trtforge

from trtforge import PointwiseOp
from trtforge.op_testing import check_op
from trtforge.targets import KNOWN

BUILD = """
import json, sys
from pathlib import Path
from trtforge import Context, Request
from trtforge.host import Host
from trtforge.op_testing import call_model
from trtforge.targets import KNOWN
from trtforge_plugins.engine_layers import read_engine_layers
from trtforge_plugins.tensorrt import TensorRT

ops = Host().ops
kind = ops[sys.argv[1]]
example = kind.examples()[0]
model = call_model(example.op, example.inputs, "float16", 20)
targets = (KNOWN["sm_86"], KNOWN["sm_120"])
ctx = Context(model, Path(sys.argv[2]), Request("m", targets=targets), ops=ops)
engine = TensorRT(plugins=(kind.name,)).build(model, ctx)
print(json.dumps([layer.kind for layer in read_engine_layers(engine).layers]))
"""


@dataclass(frozen=True)
class Package:
    """A generated package, installed into a folder of its own."""

    name: str
    source: Path
    site: Path

    def python(self, *arguments: object) -> str:
        """Run Python where the package is installed; return what it printed."""
        done = subprocess.run(
            [sys.executable, *map(str, arguments)], capture_output=True, text=True, check=False,
            env={**os.environ, "PYTHONPATH": str(self.site)}, cwd=self.source,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout


@pytest.fixture(scope="module", params=["acme::Weighted", "acme.deep::LeakyGate"])
def package(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Package:
    folder = tmp_path_factory.mktemp("new")
    pointwise = ["--pointwise"] if "Leaky" in request.param else []
    answer = trtforge("op", "new", request.param, *pointwise, "-o", folder / "source", "--json")
    assert answer.code == 0, answer.err
    assert all(Path(path).is_file() for path in answer.json["files"])
    made = Package(request.param, folder / "source", folder / "site")
    made.python(
        "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation",
        "--target", made.site, made.source,
    )  # fmt: skip
    return made


def test_its_own_tests_pass_as_generated(package: Package) -> None:
    said = package.python("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests")
    assert "2 passed" in said


@pytest.mark.slow
def test_it_builds_into_an_engine(package: Package, tmp_path: Path) -> None:
    """Built with TensorRT-RTX as a plugin, not executed."""
    kinds = json.loads(package.python("-c", BUILD, package.name, tmp_path).splitlines()[-1])
    assert kinds == ["custom_layer"]


def test_the_code_is_as_our_own(package: Package) -> None:
    config = str(Path(__file__).parent.parent / "pyproject.toml")
    code = str(next(package.source.glob("acme_*")))
    for command in (["format", "--check", str(package.source)], ["check", code]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--config", config],
            capture_output=True, text=True, check=False, cwd=package.source,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["Swish"], "write domain::OpType"),
        (["acme::swish"], "write domain::OpType"),
        (["../acme::Swish"], "write domain::OpType"),
        (["trtforge::RMSNorm"], "there is a custom op trtforge::RMSNorm already"),
    ],
)
def test_wrong_names_write_nothing(arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = trtforge("op", "new", *arguments)
    assert answer.code == 2
    assert said in answer.err
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_stays_as_it_is(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    answer = trtforge("op", "new", "acme::Fresh", "-o", tmp_path)
    assert answer.code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


# What --pointwise stands on


@dataclass(frozen=True)
class Blend(PointwiseOp):
    """Two inputs, an integer, a flag and a text; all but the text are constants of the kernel."""

    name = "test::Blend"
    inputs = ("a", "b")
    expression = "flip ? b - share * a : a + power * b"
    function = """
        {% if flip %}
        factor = Constant <value_float = {{ share }}> ()
        {% else %}
        factor = Constant <value_float = {{ power }}.0> ()
        {% endif %}
        factor_t = CastLike (factor, a)
        {% if flip %}
        scaled = Mul (a, factor_t)
        y = Sub (b, scaled)
        {% else %}
        scaled = Mul (b, factor_t)
        y = Add (a, scaled)
        {% endif %}
    """

    share: float = 0.5
    power: int = 3
    flip: bool = False
    note: str = "of no use"

    def reference(self, *inputs):
        a, b = (array.astype(np.float64) for array in inputs)
        y = b - self.share * a if self.flip else a + self.power * b
        return (y.astype(inputs[0].dtype),)


@pytest.mark.parametrize("flip", [False, True])
def test_a_pointwise_op_needs_no_kernel_of_its_own(flip):
    cases = [[shape, shape] for shape in ((3, 5, 7), (4, 64), (0, 8), (1, 4099))]
    # a + 3 b in float16: the function rounds 3 b first, the kernel does not
    evidence = check_op(Blend(flip=flip), cases, targets=[KNOWN["sm_86"]], atol=1e-5)
    assert evidence.executed_with, "NOT EXECUTED: the kernel needs a C++ compiler (g++)"


def test_a_pointwise_op_declares_its_own_examples():
    assert [example.timed for example in Blend.examples()] == [False, False, False, True]
