"""Which engine fits which machine: one table, and what the answer says.

A row: the engine, the machine, and the rules that it must break there (none: it fits). The rules'
sources are named in ``trtforge/bundle/compatibility.py``.
"""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from bundles import GIB, RTX, contents, engine, machine, packed, plan
from command import trtforge

from trtforge import ExitCode, Memory
from trtforge.bundle.compatibility import RULES, numbers
from trtforge.bundle.plan_header import SIZE, read_header
from trtforge.bundle.preflight import preflight, read_machine
from trtforge.bundle.storage import Bundle
from trtforge.bundle.writer import write
from trtforge.errors import RequestError

TRT10, TRT11 = "10.13.3.9", "11.4.0.106"
WITH_10 = {"tensorrt-cu12-libs": TRT10}
WITH_11 = {"tensorrt-cu13-libs": TRT11}
WITH_RTX_CU12 = {"tensorrt-rtx-cu12-libs": RTX}
FULL = {"flavor": "tensorrt", "version": TRT10, "cuda": "12", "targets": ("sm_86",)}
COMPATIBLE = {**FULL, "version_compatible": True}
AMPERE = {**FULL, "hardware_compatibility": "ampere_plus"}
SAME = {**FULL, "hardware_compatibility": "same_compute_capability"}


def full(version, **more):
    return {**FULL, "version": version, **more}


def rtx(*targets, **more):
    return {"targets": targets, **more}


TABLE = [
    # TensorRT-RTX: which GPUs
    (rtx("sm_86", "sm_89"), machine("8.6"), ()),
    (rtx("sm_86", "sm_89"), machine("8.9"), ()),
    (rtx("sm_86", "sm_89"), machine("12.0"), ("compute-capability",)),
    (rtx("sm_86", "sm_89"), machine("7.5"), ("compute-capability",)),
    (rtx("sm_86", "sm_89"), machine("9.0"), ("compute-capability",)),
    (rtx("sm_86", "sm_89"), machine("10.0"), ("compute-capability",)),
    (rtx("sm_75"), machine("7.5"), ()),
    (rtx("sm_75"), machine("8.6"), ("compute-capability",)),
    (rtx("sm_80"), machine("8.0"), ()),
    (rtx("sm_120"), machine("12.0"), ()),
    (rtx("sm_120"), machine("12.1"), ("compute-capability",)),
    (rtx("sm_121"), machine("12.1"), ()),
    (rtx("sm_90"), machine("9.0"), ("compute-capability",)),  # a GPU it never runs on
    (rtx("sm_86"), machine("9.0", "8.6"), ()),  # one of two GPUs will do
    (rtx("sm_86"), machine(), ("gpu",)),
    (rtx("sm_86"), machine(driver=""), ("gpu",)),
    # TensorRT-RTX: which version; every release needs its own engine
    (rtx("sm_86", version="1.6.1.120"), machine("8.6"), ("version",)),
    (rtx("sm_86", version="1.7.1.117"), machine("8.6"), ("version",)),
    (rtx("sm_86", version="1.6.1.120", version_compatible=True), machine("8.6"), ("version",)),
    (
        rtx("sm_86", version="1.6.1.120"),
        machine("8.6", packages={"tensorrt-rtx-cu13-libs": "1.6.1.120"}),
        (),
    ),
    (rtx("sm_86"), machine("8.6", packages={}), ("library",)),
    (rtx("sm_86"), machine("8.6", packages=WITH_10), ("library",)),
    (rtx("sm_86"), machine("8.6", packages={"tensorrt-rtx": RTX}), ()),
    (rtx("sm_86"), machine("8.6", packages=WITH_RTX_CU12), ()),
    # TensorRT-RTX: which system; engines go from Linux to Windows and back
    (rtx("sm_86"), machine("8.6", system="Windows 11", processor="AMD64"), ()),
    (rtx("sm_86", platform="windows-x86_64"), machine("8.6"), ()),
    (rtx("sm_86"), machine("8.6", processor="aarch64"), ("system",)),
    (rtx("sm_86"), machine("8.6", system="FreeBSD 14"), ("system",)),
    (rtx("sm_86", platform=""), machine("8.6"), ()),
    # Drivers: the oldest branch of each CUDA
    (rtx("sm_86"), machine("8.6", driver="580.65.06"), ()),
    (rtx("sm_86"), machine("8.6", driver="579.99"), ("driver",)),
    (rtx("sm_86"), machine("8.6", driver="590.10"), ()),
    (rtx("sm_86"), machine("8.6", driver="550.54.14"), ("driver",)),
    (rtx("sm_86"), machine("8.6", driver="550.54.14", packages=WITH_RTX_CU12), ()),
    (rtx("sm_86"), machine("8.6", driver="525.60.13", packages=WITH_RTX_CU12), ()),
    (rtx("sm_86"), machine("8.6", driver="524.99", packages=WITH_RTX_CU12), ("driver",)),
    (rtx("sm_86"), machine("8.6", driver="470.82", packages=WITH_RTX_CU12), ("driver",)),
    # Memory: weights and activations are 1 GiB each
    (rtx("sm_86"), machine("8.6", free=2 * GIB), ()),
    (rtx("sm_86"), machine("8.6", free=2 * GIB - 1), ("memory",)),
    (rtx("sm_86"), machine("8.6", "8.6", free=0), ("memory",)),
    (rtx("sm_86", memory=Memory()), machine("8.6", free=0), ()),
    (rtx("sm_86", memory=Memory(weights=GIB)), machine("8.6", free=GIB), ()),
    # TensorRT: the GPU it was built for, and no other
    (FULL, machine("8.6", packages=WITH_10), ()),
    (FULL, machine("8.9", packages=WITH_10), ("compute-capability",)),
    (FULL, machine("8.0", packages=WITH_10), ("compute-capability",)),
    (FULL, machine("9.0", packages=WITH_10), ("compute-capability",)),
    (full(TRT10, targets=("sm_90",)), machine("9.0", packages=WITH_10), ()),
    (full(TRT10, targets=()), machine("8.6", packages=WITH_10), ("compute-capability",)),
    (AMPERE, machine("8.9", packages=WITH_10), ()),
    (AMPERE, machine("9.0", packages=WITH_10), ()),
    (AMPERE, machine("12.0", packages=WITH_10), ()),
    (AMPERE, machine("7.5", packages=WITH_10), ("compute-capability",)),
    (SAME, machine("8.6", packages=WITH_10), ()),
    (SAME, machine("8.9", packages=WITH_10), ("compute-capability",)),
    # Which versions of TensorRT
    (FULL, machine("8.6", packages=WITH_11), ("version",)),
    (FULL, machine("8.6", packages={"tensorrt-cu12-libs": "10.13.3.8"}), ("version",)),
    (COMPATIBLE, machine("8.6", packages=WITH_11), ()),
    (COMPATIBLE, machine("8.6", packages={"tensorrt-cu12-libs": "10.16.1.11"}), ()),
    (COMPATIBLE, machine("8.6", packages={"tensorrt-cu12-libs": "10.12.0.36"}), ("version",)),
    (full("8.6.1.6", version_compatible=True), machine("8.6", packages=WITH_10), ()),
    (full("8.6.1.6", version_compatible=True), machine("8.6", packages=WITH_11), ("version",)),
    (full("8.5.3.1", version_compatible=True), machine("8.6", packages=WITH_10), ("version",)),
    (full("9.3.0.1", version_compatible=True), machine("8.6", packages=WITH_10), ("version",)),
    (full(TRT11, version_compatible=True), machine("8.6", packages=WITH_10), ("version",)),
    (full(TRT11), machine("8.6", packages={"tensorrt": TRT11}), ()),
    (FULL, machine("8.6"), ("library",)),
    # Which systems
    (FULL, machine("8.6", packages=WITH_10, system="Windows 11"), ("system",)),
    (full(TRT10, platform="windows-x86_64"), machine("8.6", packages=WITH_10), ("system",)),
    # Several at once, and libraries that nobody here knows
    (FULL, machine("8.9", driver="470.1"), ("library", "compute-capability", "driver")),
    (
        full(TRT11, cuda="13"),
        machine("7.5", packages=WITH_10, driver="470.1", free=GIB),
        ("version", "compute-capability", "driver", "memory"),
    ),
    (FULL, machine(packages={}, driver=""), ("gpu", "library")),
    ({"flavor": "other", "version": "2024.1", "data": bytes(64)}, machine("8.6"), ("library",)),
    # Two libraries of one flavor: the one that fits counts
    (
        rtx("sm_86"),
        machine("8.6", packages={"tensorrt-rtx-cu13-libs": "1.6.1.120", **WITH_RTX_CU12}),
        (),
    ),
]


def judged(folder, facts, here):
    write(contents(folder / "run", engine(folder / "run", **facts)), folder / "b")
    return preflight(Bundle(folder / "b"), here)


def test_the_table_is_large_enough():
    assert len(TABLE) >= 60
    used = {rule for _, _, rules in TABLE for rule in rules}
    assert used == set(RULES)


@pytest.mark.parametrize(("facts", "here", "broken"), TABLE)
def test_an_engine_on_a_machine(facts, here, broken, tmp_path):
    result = judged(tmp_path, facts, here)
    (fit,) = result.fits
    assert tuple(misfit.rule for misfit in fit.misfits) == broken
    assert all(misfit.cause and misfit.remedy for misfit in fit.misfits)
    assert bool(result.chosen) == (not broken)


def test_each_rule_of_nvidias_names_its_page(tmp_path):
    for number, (facts, here, _) in enumerate(TABLE):
        for misfit in judged(tmp_path / str(number), facts, here).fits[0].misfits:
            if misfit.rule in ("version", "compute-capability", "driver", "system"):
                assert misfit.source.startswith("https://docs.nvidia.com/")


def test_the_engine_made_for_this_gpu_alone_is_chosen(tmp_path):
    run = tmp_path / "run"
    engines = [
        engine(run, "general", **AMPERE, data=plan("tensorrt", TRT10, b"general")),
        engine(
            run, "other", **full(TRT10, targets=("sm_89",)), data=plan("tensorrt", TRT10, b"89")
        ),
        engine(run, "own", **FULL, data=plan("tensorrt", TRT10, b"own")),
    ]
    given = contents(run, *engines)
    reports = tuple(replace(given.reports[0], engines=(each,)) for each in engines)
    write(replace(given, reports=reports), tmp_path / "b")
    result = preflight(Bundle(tmp_path / "b"), machine("8.6", packages=WITH_10))
    assert [fit.fits for fit in result.fits] == [True, False, True]
    assert result.chosen[0].file == "engines/own-sm_86.engine"


def test_a_chain_needs_every_part(tmp_path):
    run = tmp_path / "run"
    parts = [
        engine(run, "first", data=plan(payload=b"1")),
        engine(run, "second", data=plan(payload=b"2"), targets=("sm_86",)),
    ]
    write(contents(run, *parts), tmp_path / "b")
    bundle = Bundle(tmp_path / "b")
    assert [fit.engine for fit in preflight(bundle, machine("8.6")).chosen] == [0, 1]
    assert preflight(bundle, machine("8.9")).chosen == ()


# What the engine file itself says.


@pytest.mark.parametrize("version", ["8.6.1.6", "10.0.1.6", TRT10, "10.16.1.11", TRT11])
def test_the_header_of_a_plan_names_its_version(version):
    header = read_header(plan("tensorrt", version))
    assert (header.flavor, header.version_text) == ("tensorrt", version)
    assert header.is_of(version)
    assert not header.is_of("7.0.0.1")


def test_numbers_above_255_are_compared_by_their_lowest_byte():
    assert read_header(plan("tensorrt", "10.13.3.300")).is_of("10.13.3.300")


@pytest.mark.parametrize(
    "data", [b"", b"vtrt", bytes(64), b"ONNX" + bytes(60), b"ftrt\1" + bytes(59)]
)
def test_other_files_have_no_header(data):
    assert read_header(data) is None


def test_a_file_of_another_version_than_the_manifest_says(tmp_path):
    facts = {"data": plan("tensorrt_rtx", "1.6.1.120")}
    (fit,) = judged(tmp_path, facts, machine("8.6")).fits
    assert [misfit.rule for misfit in fit.misfits] == ["header"]
    assert "1.6.1.120" in fit.misfits[0].cause


def test_a_file_of_another_library_than_the_manifest_says(tmp_path):
    (fit,) = judged(tmp_path, {"data": plan("tensorrt", TRT10)}, machine("8.6")).fits
    assert "is of tensorrt, and the manifest says tensorrt_rtx" in fit.misfits[0].cause


def test_a_file_of_another_length_than_its_header_says(tmp_path):
    (fit,) = judged(tmp_path, {"data": plan() + b"x"}, machine("8.6")).fits
    assert "should have" in fit.misfits[0].cause


def test_what_is_not_known_is_noted(tmp_path):
    facts = {"data": bytes(SIZE), "memory": Memory()}
    (fit,) = judged(tmp_path, facts, machine("8.6")).fits
    assert fit.fits
    assert "manifest is believed" in fit.notes[0]
    assert "memory is not known" in fit.notes[1]


def test_another_gpu_of_the_same_kind_is_noted(tmp_path):
    here = machine("8.6", packages=WITH_10, name="NVIDIA A10")
    (fit,) = judged(tmp_path, {**FULL, "gpu": "NVIDIA A40"}, here).fits
    assert fit.fits
    assert "built on NVIDIA A40" in fit.notes[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("10.13.3.9", (10, 13, 3, 9)), ("10.1.0.post1", (10, 1, 0)), ("1.7+cu13", (1, 7)), ("x", ())],
)
def test_versions_as_numbers(text, expected):
    assert numbers(text) == expected


# The command.


def test_the_command_judges_another_machine(tmp_path):
    place = packed(tmp_path)
    env = tmp_path / "env.json"
    answer = trtforge("doctor", "--json")
    facts = answer.json
    facts["environment"]["gpus"] = [
        {"name": "NVIDIA A10", "compute_capability": "8.6", "memory": 24 * GIB, "free": 20 * GIB}
    ]
    facts["environment"] |= {"driver": "580.95.05", "packages": {"tensorrt-rtx-cu13-libs": RTX}}
    env.write_text(json.dumps(facts))
    fits = trtforge("bundle", "preflight", place, "--env", env, "--json")
    assert fits.code == 0, fits.err
    assert fits.json["chosen"] == [fits.json["fits"][0]["file"]]
    facts["environment"]["gpus"][0]["compute_capability"] = "9.0"
    env.write_text(json.dumps(facts))
    shown = trtforge("bundle", "preflight", place, "--env", env)
    assert shown.code == ExitCode.REQUIREMENT_MISSED
    assert "TensorRT-RTX does not run on NVIDIA A10 (sm_90)" in shown.out
    assert "No engine fits; the bundle has the ONNX model" in shown.out


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"environment": {"python": 3}}'])
def test_a_file_that_describes_no_machine_is_refused(text, tmp_path):
    (tmp_path / "env.json").write_text(text)
    with pytest.raises(RequestError, match="describes no machine"):
        read_machine(tmp_path / "env.json")


def test_a_gpu_that_is_not_there_is_refused(tmp_path):
    answer = trtforge("bundle", "preflight", packed(tmp_path), "--gpu", 3)
    assert answer.code == ExitCode.BAD_REQUEST
    assert "there is no GPU 3" in answer.err


def test_the_committed_h200_is_a_machine():
    file = Path(__file__).parent.parent / "benchmarks" / "results" / "h200_doctor.json"
    assert read_machine(file).gpus[0].compute_capability == "9.0"


PROBE = """
import sys, time
from pathlib import Path
import trtforge.bundle.preflight as p
from trtforge.bundle.storage import Bundle
from trtforge.environment import environment
bundle = Bundle(Path(sys.argv[1]))
start = time.perf_counter()
p.preflight(bundle, environment())
print(time.perf_counter() - start)
print(" ".join(sys.modules))
"""


def probe(place):
    out = subprocess.run(
        [sys.executable, "-c", PROBE, place], check=True, capture_output=True, text=True
    )
    seconds, modules = out.stdout.splitlines()
    return float(seconds), set(modules.split())


def test_preflight_takes_less_than_100_ms_and_imports_no_tensorrt(tmp_path):
    place = packed(tmp_path)
    probes = [probe(place) for _ in range(5)]
    # The fastest of five: the bar is about our own work, not about a busy machine.
    assert min(seconds for seconds, _ in probes) < 0.100
    heavy = {"tensorrt", "tensorrt_rtx", "cupy", "torch", "onnxruntime"}
    assert not probes[0][1] & heavy
