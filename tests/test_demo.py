"""The packaged example is small, honest, and good enough to show something."""

import numpy as np
import onnx
import onnx_ir as ir
from trtforge_plugins.precision.load_data import LoadData

from trtforge import Batches, Context, Request, demo, recipe_reader
from trtforge.host import Host
from trtforge.reference import Reference


def test_it_is_small_and_holds_no_path_of_the_machine_that_made_it():
    files = [demo.MODEL, demo.CALIBRATION, demo.TEST, demo.RECIPE]
    assert sum(file.stat().st_size for file in files) < 2**20
    assert b"/" + b"work" not in demo.MODEL.read_bytes()
    assert b"site-packages" not in demo.MODEL.read_bytes()


def test_the_model_leaves_work_for_every_kind_of_step():
    model = onnx.load(demo.MODEL)
    onnx.checker.check_model(model, full_check=True)
    operators = {node.op_type for node in model.graph.node}
    assert {"Conv", "BatchNormalization", "Relu", "Add", "Gemm"} <= operators
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param


def test_it_classifies_digits_that_it_was_not_trained_on(tmp_path):
    ctx = Context(ir.load(demo.MODEL), tmp_path, Request("digits"))
    LoadData(path=demo.TEST, batch=50).run(ctx)
    batches = ctx.get(Batches)
    reference = Reference(demo.MODEL, provider="cpu")
    scores = np.concatenate([reference.run(feed)["logits"] for feed in batches.feeds])
    assert len(scores) == 450
    assert (scores.argmax(1) == batches.labels).mean() > 0.98


def test_calibration_and_test_images_are_disjoint():
    calibration, test = np.load(demo.CALIBRATION)["image"], np.load(demo.TEST)["image"]
    assert calibration.shape == (256, 1, 8, 8)
    seen = {image.tobytes() for image in calibration}
    assert not any(image.tobytes() in seen for image in test)


def test_its_recipe_reads():
    read = recipe_reader.read(demo.RECIPE, Host())
    assert [stage.name for stage in read.stages] == ["prepare", "quantize", "build", "measure"]
