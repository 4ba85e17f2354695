"""The doctor: every finding from facts that show it, and the facts from made-up packages."""

import re
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from command import trtforge

from trtforge.doctor.checkup import checkup
from trtforge.doctor.facts import Facts
from trtforge.doctor.installation import Installation, SharedLibrary, Toolkit
from trtforge.doctor.limits import Folder, Limits
from trtforge.doctor.requirements import hold_against
from trtforge.doctor.symptom import Level
from trtforge.environment import Environment, Gpu
from trtforge.errors import RequestError

ROOT = Path(__file__).parent.parent
DONE, REQUIREMENT_MISSED, BAD_REQUEST, ENVIRONMENT_LACKS = 0, 1, 2, 4
GIB = 2**30
L4 = Gpu("NVIDIA L4", "8.9", 24 * GIB, 20 * GIB, "0000:65:00.0")
H200 = Gpu("NVIDIA H200", "9.0", 140 * GIB, 139 * GIB)
RTX = {
    "tensorrt-rtx": "1.7.1",
    "tensorrt-rtx-cu13": "1.7.1",
    "tensorrt-rtx-cu13-bindings": "1.7.1",
    "tensorrt-rtx-cu13-libs": "1.7.1",
}
CUPY = {"cupy-cuda13x": "14.2.0", "nvidia-cuda-nvrtc": "13.0.88"}
FULL = {"tensorrt-cu12-bindings": "10.13.3.9", "tensorrt-cu12-libs": "10.13.3.9"}
SOUND = {**RTX, **CUPY, "onnx": "1.20.0", "onnxruntime": "1.23.0"}


def machine(packages=SOUND, gpus=(L4,), driver="580.95.05", installation=None, **limits):
    cuda = "13.0" if driver else ""
    facts = Environment(
        "3.12.3", "Linux", "x86_64", 8, 64 * GIB, dict(packages), driver, gpus, cuda
    )
    return Facts(facts, installation or Installation(), Limits(**limits))


def without(*names):
    return {name: version for name, version in SOUND.items() if name not in names}


def installed(**facts):
    return machine(installation=Installation(**facts))


TABLE = [
    # TensorRT: code, level, facts, and words of the remedy
    ("tensorrt-missing", "fault", machine(CUPY), "pip install 'trtforge[cu13]'"),
    (
        "tensorrt-incomplete",
        "fault",
        machine({**CUPY, "tensorrt-rtx-cu13-bindings": "1.7.1"}),
        "pip install --force-reinstall tensorrt-rtx-cu13==1.7.1",
    ),
    (
        "tensorrt-mismatch",
        "fault",
        machine({**CUPY, "tensorrt-cu12-bindings": "10.8", "tensorrt-cu12-libs": "10.9"}),
        "pip install --force-reinstall tensorrt-cu12==10.9",
    ),
    (
        "tensorrt-drift",
        "fault",
        machine({"tensorrt": "10.12.0", **FULL}),
        "tensorrt-cu12==10.12.0 tensorrt-cu12-bindings==10.12.0 tensorrt-cu12-libs==10.12.0",
    ),
    (
        "tensorrt-old",
        "fault",
        machine({"tensorrt-cu12-bindings": "10.0.1", "tensorrt-cu12-libs": "10.0.1"}),
        "pip install --upgrade 'tensorrt-cu12>=10.7'",
    ),
    (
        "tensorrt-stub",
        "fault",
        machine({"tensorrt": "10.1"}, installation=Installation(without_binaries=("tensorrt",))),
        "pip install --force-reinstall --no-cache-dir tensorrt-cu13==10.1",
    ),
    (
        "tensorrt-two-cudas",
        "fault",
        machine({**SOUND, **{name.replace("13", "12"): v for name, v in RTX.items()}}),
        "tensorrt-rtx-cu12-libs, then pip install --force-reinstall tensorrt-rtx-cu13==1.7.1",
    ),
    (
        "tensorrt-other-library",
        "note",
        machine(
            FULL,
            installation=Installation(
                libraries=(SharedLibrary("libnvinfer", "10.9.0", "/opt/trt/lib", on_path=True),)
            ),
        ),
        "take /opt/trt/lib out of LD_LIBRARY_PATH",
    ),
    # CUDA
    (
        "cuda-mixed",
        "fault",
        machine({**RTX, "cupy-cuda12x": "14.0"}),
        "pip uninstall -y cupy-cuda12x, then pip install 'trtforge[cu13]'",
    ),
    ("driver-old", "fault", machine(driver="570.86"), "update the NVIDIA driver to 580 or later"),
    ("driver-missing", "note", machine(gpus=(), driver=""), ""),
    (
        "nvml-silent",
        "fault",
        machine(
            gpus=(),
            driver="",
            installation=Installation(
                driver_loaded=True, nvml="the package nvidia-ml-py is not installed"
            ),
        ),
        "pip install nvidia-ml-py",
    ),
    (
        "nvml-silent",
        "fault",
        machine(
            gpus=(),
            driver="",
            installation=Installation(driver_loaded=True, nvml="Driver/library version mismatch"),
        ),
        "restart the machine or the container",
    ),
    ("gpu-missing", "note", machine(gpus=()), "--gpus all"),
    ("gpu-hidden", "note", installed(visible_devices="-1"), "unset CUDA_VISIBLE_DEVICES"),
    ("gpu-memory-low", "note", machine(gpus=(replace(L4, free=GIB),)), "nvidia-smi"),
    ("gpu-not-for-rtx", "note", machine(gpus=(H200,)), "pip install tensorrt-cu13"),
    (
        "toolkit-newer",
        "note",
        installed(toolkits=(Toolkit("13.2.1", "/usr/local/cuda"),)),
        "update the driver, or install the toolkit 13.0",
    ),
    (
        "nvrtc-missing",
        "note",
        machine(without("nvidia-cuda-nvrtc")),
        "pip install 'nvidia-cuda-nvrtc==13.*'",
    ),
    (
        "nvrtc-other-cuda",
        "fault",
        machine({**without("nvidia-cuda-nvrtc"), "nvidia-cuda-nvrtc-cu12": "12.9"}),
        "pip install 'nvidia-cuda-nvrtc==13.*'",
    ),
    (
        "cudnn-missing",
        "note",
        machine({**without("onnxruntime"), "onnxruntime-gpu": "1.23.0"}),
        "pip install nvidia-cudnn-cu13",
    ),
    # Packages
    ("cupy-missing", "note", machine(without(*CUPY)), "pip install 'trtforge[cu13]'"),
    (
        "onnxruntime-two",
        "note",
        machine({**SOUND, "onnxruntime-gpu": "1.23.0", "nvidia-cudnn-cu13": "9.1"}),
        "pip install --force-reinstall --no-deps onnxruntime-gpu==1.23.0",
    ),
    (
        "dependency",
        "fault",
        installed(unmet=("onnx>=1.20 (1.15.0)",)),
        "pip install 'onnx>=1.20'",
    ),
    (
        "package-damaged",
        "fault",
        installed(damaged={"tensorrt-rtx-cu13-libs": ("libtensorrt_rtx.so.1",)}),
        "--no-cache-dir tensorrt-rtx-cu13-libs==1.7.1",
    ),
    ("package-twice", "note", installed(twice={"onnxruntime": ("1.22", "1.23")}), "uninstall"),
    # Limits
    ("memory-low", "note", machine(memory_free=GIB), "end other programs"),
    (
        "memory-low",
        "note",
        machine(memory_free=GIB, memory_limit=2 * GIB, container="docker"),
        "docker run --memory=16g",
    ),
    (
        "shared-memory-small",
        "note",
        machine(shared_memory=64 * 2**20, container="docker"),
        "docker run --shm-size=1g",
    ),
    (
        "shared-memory-small",
        "note",
        machine(shared_memory=64 * 2**20, container="kubernetes"),
        "emptyDir",
    ),
    ("address-space-limited", "fault", machine(address_space=8 * GIB), "ulimit -v unlimited"),
    ("open-files-few", "note", machine(open_files=1024), "ulimit -n 65536"),
    ("locked-memory-limited", "note", machine(locked_memory=65536), "ulimit -l unlimited"),
    (
        "folder-read-only",
        "fault",
        machine(folders=(Folder("cache", "/root/.cache", GIB, writable=False),)),
        "let TRTFORGE_CACHE name a folder",
    ),
    (
        "disk-low",
        "note",
        machine(folders=(Folder("runs", "/data", 2**20, writable=True),)),
        "--out (runs)",
    ),
]


@pytest.mark.parametrize(
    ("code", "level", "facts", "remedy"),
    TABLE,
    ids=[f"{row[0]}-{n}" for n, row in enumerate(TABLE)],
)
def test_each_finding_has_its_code_level_and_remedy(code, level, facts, remedy):
    found = [symptom for symptom in checkup(facts) if symptom.code == code]
    assert found, [symptom.code for symptom in checkup(facts)]
    assert {symptom.level.value for symptom in found} == {level}
    assert remedy in found[0].remedy


def test_a_sound_machine_has_nothing_but_good_news():
    found = checkup(
        machine(
            shared_memory=8 * GIB,
            memory_free=32 * GIB,
            memory_limit=48 * GIB,
            open_files=65536,
            folders=(Folder("cache", "/c", 100 * GIB, writable=True),),
        ),
        need_gpu=True,
    )
    assert {symptom.level for symptom in found} == {Level.OK}
    texts = [symptom.text for symptom in found]
    assert "NVIDIA L4, compute capability 8.9, driver 580.95.05" in texts
    assert "this process may use 48GiB of the machine's 64GiB" in texts


def test_tensorrt_of_nvidias_archives_needs_no_packages_of_parts():
    facts = machine({**CUPY, "tensorrt": "10.13.3.9"})
    assert not [each for each in checkup(facts) if each.level is Level.FAULT]


def test_a_gpu_that_is_needed_is_a_fault_where_there_is_none():
    for facts in (machine(gpus=(), driver=""), machine(gpus=())):
        assert not [each for each in checkup(facts) if each.level is Level.FAULT]
        (fault,) = [each for each in checkup(facts, need_gpu=True) if each.level is Level.FAULT]
        assert "--gpus all" in fault.remedy


def test_every_code_is_documented_and_shown_by_a_test():
    """Good news has codes of its own, which are not in the table of faults."""
    sources = [file.read_text() for file in (ROOT / "trtforge" / "doctor").glob("*_rules.py")]
    made = {
        code
        for text in sources
        for code in re.findall(r'(?:fault|note|Symptom)\(\s*"([a-z-]+)"', text)
    }
    assert len(made) > 25
    assert made == {row[0] for row in TABLE}
    page = (ROOT / "docs" / "doctor.md").read_text()
    assert made == set(re.findall(r"^\| `([a-z-]+)` \|", page, re.MULTILINE))


# Demands.


@pytest.mark.parametrize(
    ("text", "met"),
    [
        ("tensorrt-rtx>=1.7", [True]),
        ("tensorrt_rtx>=1.7,<2,sm_89", [True, True]),
        ("tensorrt>=10.7", [False]),
        ("sm_86", [False]),
        ("gpu", [True]),
        ("driver>=580, cuda>=13", [True, True]),
        ("driver>=590", [False]),
        ("python>=3.11,!=3.12.0", [True]),
        ("onnx~=1.20", [True]),
        ("onnx", [True]),
        ("no-such-package", [False]),
        ("gpu-memory>=20GiB", [True]),
        ("gpu_memory >= 40GiB", [False]),
        ("memory>=48GiB,shared-memory>=1GiB", [True, False]),
        ("cupy>=14,nvidia-cuda-nvrtc==13.*", [True, True]),
    ],
)
def test_demands(text, met):
    assert [answer.met for answer in hold_against(text, machine())] == met


@pytest.mark.parametrize(
    "text", ["", ",", ">=1.0", "tensorrt>=x", "sm_86>=1", "memory", "memory>=much", "a b", "onnx=1"]
)
def test_demands_that_are_not_understood_are_refused(text):
    with pytest.raises(RequestError):
        hold_against(text, machine())


# The command.


def test_the_command_tells_this_machine(monkeypatch):
    answer = trtforge("doctor")
    assert answer.code == DONE, answer.out
    line = r"^   ok  tensorrt-rtx-cu13 [\d.]+: bindings and libraries agree  \[tensorrt\]$"
    assert re.search(line, answer.out, re.MULTILINE)
    data = trtforge("doctor", "--json").json
    assert data["environment"]["packages"]["onnx"] == onnx.__version__
    assert {finding["level"] for finding in data["findings"]} <= {"ok", "note", "fault"}
    assert all(finding["code"] for finding in data["findings"])
    assert data["exit_code"] == DONE


@pytest.fixture
def here(monkeypatch):
    """Make the command see a machine of the test's own."""

    def put(facts):
        monkeypatch.setattr("trtforge.doctor.facts.read_facts", lambda: facts)

    return put


def test_the_exit_code_is_a_gate(here):
    here(machine())
    assert trtforge("doctor", "--require", "tensorrt-rtx>=1.7,sm_89").code == DONE
    missed = trtforge("doctor", "--require", "sm_89", "--require", "tensorrt-rtx>=2")
    assert missed.code == REQUIREMENT_MISSED
    assert "  met  sm_89: here sm_89" in missed.out
    assert "unmet  tensorrt-rtx>=2: here 1.7.1" in missed.out
    data = trtforge("doctor", "--require", "tensorrt-rtx>=2", "--json").json
    assert data["required"] == [{"entry": "tensorrt-rtx>=2", "met": False, "found": "1.7.1"}]
    assert data["exit_code"] == REQUIREMENT_MISSED
    assert trtforge("doctor", "--require", "memory>=much").code == BAD_REQUEST


def test_a_fault_is_exit_code_4(here):
    here(machine(gpus=(), driver=""))
    assert trtforge("doctor").code == DONE
    answer = trtforge("doctor", "--gpu")
    assert answer.code == ENVIRONMENT_LACKS
    assert "fault  no NVIDIA driver answers" in answer.out
    assert "To do: install the NVIDIA driver" in answer.out
