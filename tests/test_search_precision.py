"""search-precision: little stays in high precision, and what is required holds."""

import sys
from pathlib import Path

import models
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from trtforge_plugins.precision import CalibrateMax, InsertQDQ, LoadData, SearchPrecision
from trtforge_plugins.precision.group_choice import Candidate, GroupSearch, Measured

from trtforge import Batches, Context, HighPrecision, Request, RequestError, Requirements
from trtforge.compare import compare
from trtforge.recipe_reader import RecipeError
from trtforge.statistics import Sensitivity
from trtforge.testing import run_model
from trtforge.verdict import missed

MODEL = """
<ir_version: 10, opset_import: ["" : 21]>
chain (float[N,32] x) => (float[N,32] y)
<float[32,32] w1, float[32,32] w2, float[32,32] w3>
{
    [calm] a = MatMul (x, w1)
    [loud] b = MatMul (a, w2)
    [last] y = MatMul (b, w3)
}
"""


def feed() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(0).standard_normal((32, 32)).astype(np.float32)}


def chain() -> onnx.ModelProto:
    """A model whose second product reads one channel that dwarfs the others."""
    model = models.parse(MODEL)
    for name, axis, factor in (("w1", 1, 300), ("w2", 0, 1 / 300)):
        tensor = next(each for each in model.graph.initializer if each.name == name)
        array = onnx.numpy_helper.to_array(tensor).copy()
        array[(slice(None), 0) if axis else (0, slice(None))] *= factor
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, name))
    return model


def searched(require: Requirements, folder: Path, **options: object) -> Context:
    ctx = Context(ir.from_proto(chain()), folder, Request("m", require=require))
    ctx.put(Batches((feed(),), "test"))
    CalibrateMax(provider="cpu").run(ctx)
    SearchPrecision(provider="cpu", **options).run(ctx)
    return ctx


def test_only_what_hurts_stays_in_high_precision(tmp_path):
    ctx = searched(Requirements(cosine=0.999), tmp_path)
    found = ctx.get(Sensitivity)
    assert found.skip == ("loud",)
    assert list(ctx.get(HighPrecision).nodes) == ["loud"]
    assert not found.curve[0].meets
    assert found.curve[0].share == 1.0
    assert found.curve[-1].meets
    assert found.curve[-1].share == pytest.approx(2 / 3)
    assert max(found.groups, key=lambda group: group.noise).nodes == ("loud",)
    assert missed(ctx) == ["cosine was required but never measured: add the step verify"]


def test_the_measured_choice_is_what_insert_qdq_makes(tmp_path):
    ctx = searched(Requirements(cosine=0.999), tmp_path)
    point = ctx.get(Sensitivity).curve[-1]
    InsertQDQ().run(ctx)
    result = compare([run_model(chain(), feed())], [run_model(ctx.model, feed())])[0]
    # The same roundings; sums in float32 may be taken in another order.
    assert result.sqnr_db == pytest.approx(point.sqnr_db, abs=0.1)
    assert result.cosine == pytest.approx(point.cosine, abs=1e-6)


def test_the_skip_list_gives_the_same_model_without_a_search(tmp_path):
    ctx = searched(Requirements(cosine=0.999), tmp_path)
    again = Context(ir.from_proto(chain()), tmp_path, Request("m"))
    again.put(Batches((feed(),), "test"))
    CalibrateMax(provider="cpu").run(again)
    InsertQDQ(skip=ctx.get(Sensitivity).skip).run(again)
    InsertQDQ().run(ctx)
    assert ir.to_proto(again.model).graph.node == ir.to_proto(ctx.model).graph.node


def test_an_accuracy_that_cannot_be_kept_is_missed_with_the_closest_choice(tmp_path):
    ctx = searched(Requirements(sqnr=200.0), tmp_path)
    found = ctx.get(Sensitivity)
    assert found.curve[-1].sqnr_db == max(point.sqnr_db for point in found.curve)
    assert "below the required 200 dB" in found.missed[0]
    assert missed(ctx)[0].startswith("search-precision, closest choice: ")


def test_without_a_required_accuracy_it_is_a_wrong_request(tmp_path):
    with pytest.raises(RequestError, match="none is"):
        searched(Requirements(), tmp_path)


METRIC = """
import numpy as np

def minus_largest_error(batches):
    return -max(float(np.abs(o["y"] - i["x"] * 0).max() > 1e9) for i, o, _ in batches)

def broken(batches):
    raise ValueError("no such task")
"""


@pytest.fixture
def metrics(tmp_path, monkeypatch):
    (tmp_path / "my_metrics.py").write_text(METRIC)
    np.savez(tmp_path / "data.npz", **feed())
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_metrics", raising=False)
    return tmp_path


def with_metric(folder: Path, name: str) -> Context:
    request = Request("m", require=Requirements(accuracy=-0.5))
    ctx = Context(ir.from_proto(chain()), folder, request)
    LoadData(path=folder / "data.npz", metric=f"my_metrics:{name}").run(ctx)
    CalibrateMax(provider="cpu").run(ctx)
    SearchPrecision(provider="cpu").run(ctx)
    return ctx


def test_a_metric_of_the_user_decides(metrics):
    found = with_metric(metrics, "minus_largest_error").get(Sensitivity)
    assert found.curve[-1].accuracy == 0
    assert found.curve[-1].share == 1.0


def test_a_metric_that_fails_is_named(metrics):
    from trtforge import DataError

    with pytest.raises(DataError, match=r"my_metrics:broken.*no such task"):
        with_metric(metrics, "broken")


def test_a_recipe_may_not_name_a_metric():
    from trtforge.host import Host
    from trtforge.recipe_reader import parse

    text = "stages: [{name: a, steps: [{load-data: {metric: 'os:listdir'}}]}]"
    with pytest.raises(RecipeError, match="metric"):
        parse(text, Host(), "recipe.yaml")


@pytest.mark.parametrize("allowed", [None, 0.1])
@pytest.mark.parametrize("limit", [0.01, 0.2, 0.5, 1.5])
def test_the_search_finds_the_best_start_of_the_order(allowed, limit):
    noises = [0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005]
    candidates = [Candidate(1 / len(noises), noise) for noise in noises]

    def measure(kept: frozenset[int]) -> Measured:
        noise = sum(each for i, each in enumerate(noises) if i not in kept)
        return Measured(noise <= limit, noise)

    kept = GroupSearch(candidates, measure, allowed, left=12).run()
    assert kept is not None
    assert measure(kept).meets
    fewest = next(n for n in range(len(noises)) if sum(noises[n:]) <= limit)
    assert len(kept) == fewest


def test_a_search_measures_no_more_than_it_may():
    asked = []

    def measure(kept: frozenset[int]) -> Measured:
        asked.append(kept)
        return Measured(False, 1.0)

    candidates = [Candidate(0.01, 0.1)] * 100
    assert GroupSearch(candidates, measure, None, left=5).run() is None
    assert len(asked) == 5
