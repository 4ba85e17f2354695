"""A matrix on a real Ray cluster: three raylets of this machine, one dies while it builds."""

import os
import shutil
import threading
import time

import pytest

from trtforge import demo
from trtforge.errors import EnvironmentLacks
from trtforge.evidence import read_report
from trtforge.matrix import on_ray
from trtforge.matrix.cells import read_matrix
from trtforge.matrix.on_ray import RayCluster
from trtforge.matrix.runs import run_matrix

ray = pytest.importorskip("ray", reason="NOT RUN: Ray is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def cluster():
    """A head that takes no work, and two nodes: both are for sm_86, one also for sm_89."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    cluster.first = cluster.add_node(num_cpus=1, resources={"sm_86": 1, "sm_89": 1})
    cluster.second = cluster.add_node(
        num_cpus=1, resources={"sm_86": 1, "accelerator_type:L40S": 1}
    )
    ray.init(address=cluster.address, log_to_driver=False)
    cluster.wait_for_nodes()
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def place(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(demo.MODEL, folder / "digits.onnx")
    return folder


def cells(place, text):
    (place / "matrix.yaml").write_text(text)
    return read_matrix(place / "matrix.yaml")


def test_cells_run_where_their_gpu_is(cluster, place, tmp_path):
    text = "models: {digits: digits.onnx}\nrecipes: [convert]\ntargets: [sm_86, sm_89]\n"
    rows = run_matrix(cells(place, text), place, tmp_path / "out", RayCluster(cluster.address))
    assert [row.outcome.exit_code for row in rows] == [0, 0]
    assert rows[1].outcome.machine == cluster.first.node_id[:12]
    assert (tmp_path / "out" / "digits.convert.sm_86" / "model.onnx").is_file()


def test_nodes_that_see_the_folders_work_in_them(cluster, place, tmp_path):
    text = "models: {digits: digits.onnx}\nrecipes: [convert]\ntargets: [sm_86]\n"
    run_matrix(cells(place, text), place, tmp_path / "out", RayCluster(cluster.address))
    report = read_report(tmp_path / "out" / "digits.convert.sm_86")
    assert report.request.source == str(place / "digits.onnx")
    assert not list((tmp_path / "out").glob(".*"))


class Apart(RayCluster):
    """A cluster whose nodes do not see the folders of this machine, and say so when asked."""

    def _started(self, cell, place, files=()):
        return super()._started(cell, place, files) if files else ray.put(None)


def test_files_travel_to_nodes_that_do_not_see_them(cluster, place, tmp_path):
    (place / "below").mkdir()
    (place / "digits.onnx").rename(place / "below" / "digits.onnx")
    text = "models: {digits: below/digits.onnx}\nrecipes: [convert]\ntargets: [sm_86, sm_89]\n"
    rows = run_matrix(cells(place, text), place, tmp_path / "out", Apart(cluster.address))
    assert [row.outcome.exit_code for row in rows] == [0, 0]
    for row in rows:
        report = read_report(tmp_path / "out" / row.cell)
        assert not report.request.source.startswith(str(tmp_path))
        assert (tmp_path / "out" / row.cell / "model.onnx").is_file()


@pytest.mark.parametrize("change", ["content", "time", "gone", "scratch"])
def test_a_node_that_sees_other_files_does_not_use_them(place, tmp_path, change):
    text = "models: {digits: digits.onnx}\nrecipes: [convert]\ntargets: [sm_86]\n"
    found, model = cells(place, text), place / "digits.onnx"
    with on_ray._meeting_place(found, place, tmp_path / "out") as meeting:
        assert meeting.is_seen(found[0])
        match change:
            case "content":
                model.write_bytes(b"another")
            case "time":
                os.utime(model, ns=(1, 1))
            case "gone":
                model.unlink()
            case "scratch":
                meeting.scratch.rmdir()
        assert not meeting.is_seen(found[0])


@pytest.mark.parametrize(
    ("targets", "asked"),
    [
        (["sm_86"], ["sm_86"]),
        (["sm_89"], ["accelerator_type:L4"]),
        (["sm_90"], ["sm_90"]),  # the mark that somebody gave goes before what Ray found
        (["sm_120"], []),
        (["sm_86", "sm_89"], ["accelerator_type:L4", "sm_86"]),
        (["sm_86", "sm_90"], ["sm_86"]),  # no node has both: a task that asks so waits for ever
    ],
)
def test_a_cell_asks_for_what_one_node_has(targets, asked):
    nodes = [
        {"CPU", "sm_86", "accelerator_type:L4"},
        {"CPU", "sm_90", "accelerator_type:H200"},
        {"CPU"},
    ]
    assert sorted(on_ray.resources(targets, nodes)) == asked


def test_a_gpu_that_ray_found_by_itself_is_a_place(cluster, place, tmp_path):
    nodes = [set(node["Resources"]) for node in ray.nodes() if node["Alive"]]
    assert on_ray.resources(["sm_89"], nodes) == {"sm_89": 0.01}  # given by hand on the first
    nodes = [each - {"sm_89"} for each in nodes]
    task = ray.remote(resources=on_ray.resources(["sm_89"], nodes))(
        lambda: ray.get_runtime_context().get_node_id()
    )
    assert ray.get(task.remote()) == cluster.second.node_id


def held_at(node, place):
    """Return what runs a cell, but on ``node`` its build never comes to an end.

    The other node begins when that one builds: else it might take both cells.
    """
    own, building, cache = on_ray._run_there, place / "building", str(place / "cache")

    def run_there(data, place, *contents):
        from trtforge_plugins.tensorrt.backend import TensorRT

        os.environ["TRTFORGE_CACHE"] = cache
        build = TensorRT.build

        def build_for_ever(self, model, ctx):
            building.touch()
            build(self, model, ctx)
            time.sleep(600)

        if ray.get_runtime_context().get_node_id() == node:
            TensorRT.build = build_for_ever
        while not building.exists() and TensorRT.build is build:
            time.sleep(0.05)
        return own(data, place, *contents)

    return run_there


def test_a_node_that_dies_while_it_builds_costs_nothing(cluster, place, tmp_path, monkeypatch):
    text = (
        "models: {digits: {model: digits.onnx, shapes: {image: 1x1x8x8}}}\n"
        "recipes: [fp16, bf16]\ntargets: [sm_86]\n"
    )
    monkeypatch.setattr(on_ray, "_run_there", held_at(cluster.first.node_id, tmp_path))

    def kill():
        while not (tmp_path / "building").exists():
            time.sleep(0.05)
        cluster.remove_node(cluster.first, allow_graceful=False)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    rows = run_matrix(cells(place, text), place, tmp_path / "out", RayCluster(cluster.address))
    killer.join()
    assert [row.outcome.exit_code for row in rows] == [0, 0], [r.outcome.error for r in rows]
    assert {row.outcome.machine for row in rows} == {cluster.second.node_id[:12]}
    assert all(row.engine_size for row in rows)


def test_a_cluster_that_is_not_there():
    if ray.is_initialized():
        ray.shutdown()
    with pytest.raises(EnvironmentLacks, match="no Ray cluster"):
        RayCluster("127.0.0.1:1")
