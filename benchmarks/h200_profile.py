"""What the step ``time-onnxruntime`` says on a GPU: ONNX Runtime's profile and NVML's samples.

    python benchmarks/h200_profile.py MODEL [--out benchmarks/results/h200_profile.json]

Needs an NVIDIA GPU, onnxruntime-gpu and nvidia-ml-py. The result is the ``Timings`` of the run, as
any recipe with the step gets them, and the GPU kernels that ONNX Runtime's own profile names.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import onnx_ir as ir

import trtforge
from trtforge.environment import environment

RESULT = Path(__file__).parent / "results" / "h200_profile.json"
RECIPE = "stages: [{name: time, steps: [{time-onnxruntime: {provider: cuda, runs: 400}}]}]"


def main() -> None:
    """Time the model, check what a profile has to have, print and write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "time.yaml"
        recipe.write_text(RECIPE)
        done = trtforge.run(
            recipe, options.model, out=Path(folder) / "run", use_cache=False, compare=False
        )
        timings = done.report.timings
    assert timings is not None
    assert "CUDA" in timings.device, timings.device
    assert timings.layers, "the profile names no node"
    assert any("samples of the GPU" in note for note in timings.notes), timings.notes
    document = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": options.model.name,
        "nodes": len(ir.load(options.model).graph),
        "gpus": [each.name for each in environment().gpus],
        "driver": environment().driver,
        "versions": {name: version(name) for name in ("onnxruntime-gpu", "nvidia-ml-py")},
        "timings": asdict(timings),
    }
    options.out.write_text(json.dumps(document, indent=1) + "\n")
    print(
        json.dumps({**document, "timings": f"{timings.median_ms} ms, {len(timings.layers)} nodes"})
    )


if __name__ == "__main__":
    main()
