"""What outlives a build of the `tensorrt` step: the engine file and the timing cache."""

from __future__ import annotations

import io

import onnx_ir as ir
import pytest
from tensorrt_builds import MLP, build, context, files
from trtforge_plugins.tensorrt import TensorRT, adapter, library
from trtforge_plugins.tensorrt.build_files import put_in_place, timing_cache
from trtforge_plugins.tensorrt.events import Listener
from trtforge_plugins.tensorrt.order import BuildOrder

from trtforge import RequestError


def test_a_timing_cache_is_left_alone_where_it_is_of_no_use(tmp_path):
    ctx = context(MLP, tmp_path, {"x": "8x4"})
    cache = tmp_path / "timing.cache"
    cache.write_bytes(b"precious")
    TensorRT(timing_cache=cache).run(ctx)
    assert "keeps no timings" in ctx.notes[0].text
    assert cache.read_bytes() == b"precious"


@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX")  # it has no other way
def test_a_damaged_timing_cache_is_refused_and_kept(tmp_path):
    """TensorRT would start a new one in its place. RTX reads none, but complains alike."""
    ctx = context(MLP, tmp_path, {"x": "8x4"})
    cache = tmp_path / "timing.cache"
    cache.write_bytes(b"no timing cache" * 100)
    ir.save(ctx.model, tmp_path / "model.onnx")
    session = adapter.Session(adapter.load("tensorrt_rtx"), Listener(io.StringIO()))
    assert session.parse(tmp_path / "model.onnx") == []
    order = BuildOrder("tensorrt_rtx", "", targets=[86], timing_cache=str(cache))
    with pytest.raises(RequestError, match="damaged, or made by another"):
        session.build(order, ctx.progress)


def test_a_timing_cache_is_written_whole_and_only_where_it_can_be(tmp_path):
    ctx = context(MLP, tmp_path)
    ten = library.Library("tensorrt", "10.16.1.11")
    with pytest.raises(RequestError, match="is its folder there"):
        timing_cache(tmp_path / "nowhere" / "timing.cache", ten, ctx)
    place = tmp_path / "timing.cache"
    assert timing_cache(place, ten, ctx) == str(place)
    (tmp_path / "new").write_bytes(b"timings")
    put_in_place(tmp_path / "new", place)
    assert place.read_bytes() == b"timings"
    assert files(tmp_path) == ["new", "timing.cache"]


@pytest.mark.parametrize("name", ["../other.engine", "..", ".hidden", "a/b", "a\0b"])
def test_an_engine_file_outside_the_run_folder_is_refused(tmp_path, name):
    with pytest.raises(RequestError, match="plain name"):
        build(MLP, tmp_path, {"x": "8x4"}, file=name)
