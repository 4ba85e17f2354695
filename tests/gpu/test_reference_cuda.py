"""The CUDA provider gives what the CPU provider gives, for each model and type of the benchmark."""

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "h200_reference.py"


def load_benchmark():
    spec = importlib.util.spec_from_file_location("h200_reference", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


BENCHMARK = load_benchmark()
MODELS = BENCHMARK.models()


@pytest.mark.gpu
@pytest.mark.parametrize(("name", "dtype"), MODELS)
def test_cuda_gives_what_the_cpu_gives(cuda_provider, name, dtype):
    result = BENCHMARK.measure(MODELS[name, dtype], samples=4, runs=1)
    for output in result["outputs"]:
        assert float(output["sqnr_db"]) >= BENCHMARK.SMALLEST_SQNR_DB[dtype]
        assert output["nonfinite_mismatch"] == 0


@pytest.mark.parametrize(("name", "dtype"), MODELS)
def test_the_models_themselves_run_and_differ_by_type(name, dtype):
    """Without a GPU at least the benchmark's own models are shown to be sound."""
    import onnx_ir as ir

    from trtforge.feeds import synthesize
    from trtforge.reference import Reference

    model = ir.from_proto(MODELS[name, dtype])
    (feed,) = synthesize(model, samples=2).feeds
    for array in Reference(model, provider="cpu").run(feed).values():
        assert array.dtype == ("float16" if dtype == "float16" else "float32")
        assert array.std() > 0.01
