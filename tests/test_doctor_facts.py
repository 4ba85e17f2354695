"""The facts that the doctor reads: made-up packages, control groups and a management library."""

import json
import os
import sys

import onnx
import pytest

from trtforge.doctor.installation import SharedLibrary, Toolkit, read_installation
from trtforge.doctor.limits import read_limits
from trtforge.environment import Gpu, environment

GIB = 2**30
L4 = Gpu("NVIDIA L4", "8.9", 24 * GIB, 20 * GIB, "0000:65:00.0")


def package(site, name, version, files=(), *, lost=(), short=()):
    """Write a package as pip leaves it; ``lost`` files are missing, ``short`` ones cut."""
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = []
    for file in files:
        lines.append(f"{file},sha256=abc,100")
        place = site / file
        place.parent.mkdir(parents=True, exist_ok=True)
        if file not in lost:
            place.write_bytes(bytes(10 if file in short else 100))
    (info / "RECORD").write_text("\n".join(lines) + "\n")


def test_binaries_that_are_missing_or_cut_short_are_noticed(tmp_path):
    files = ["t/libnvinfer.so.10", "t/libnvinfer_plugin.so.10", "t/__init__.py", "t/tensorrt.pyd"]
    package(tmp_path, "tensorrt-cu12-libs", "10.1", files, lost=files[:1], short=files[1:2])
    package(tmp_path, "tensorrt-cu12", "10.1", ["tensorrt/__init__.py"])
    package(tmp_path, "requests", "2.0", ["r.so"], lost=["r.so"])  # none of ours
    found = read_installation([str(tmp_path)])
    assert found.damaged == {"tensorrt-cu12-libs": tuple(files[:2])}
    assert found.without_binaries == ("tensorrt-cu12",)


def test_a_package_in_two_folders_is_noticed(tmp_path):
    for folder, version in (("a", "1.22"), ("b", "1.23")):
        package(tmp_path / folder, "onnxruntime", version)
    path = [str(tmp_path / "a"), str(tmp_path / "b"), str(tmp_path / "a")]
    assert read_installation(path).twice == {"onnxruntime": ("1.22", "1.23")}
    assert read_installation(path[:1]).twice == {}


def test_libraries_and_toolkits_outside_of_packages(tmp_path, monkeypatch):
    folder = tmp_path / "lib"
    folder.mkdir()
    (folder / "libnvinfer.so.10.9.0").touch()
    (folder / "libnvinfer.so.10").symlink_to("libnvinfer.so.10.9.0")
    (folder / "libother.so.1").touch()
    monkeypatch.setenv("LD_LIBRARY_PATH", f"{folder}{os.pathsep}{tmp_path / 'none'}")
    cuda = tmp_path / "cuda"
    cuda.mkdir()
    (cuda / "version.json").write_text(json.dumps({"cuda": {"version": "12.4.1"}}))
    monkeypatch.setenv("CUDA_HOME", str(cuda))
    found = read_installation([])
    mine = [each for each in found.libraries if each.on_path]
    assert mine == [SharedLibrary("libnvinfer", "10.9.0", str(folder), on_path=True)]
    assert Toolkit("12.4.1", str(cuda)) in found.toolkits
    (cuda / "version.json").write_text("damaged")
    assert Toolkit("12.4.1", str(cuda)) not in read_installation([]).toolkits


def test_our_own_requirements_are_met_here():
    assert read_installation().unmet == ()


def test_a_dependency_that_is_too_old_or_missing_is_named(monkeypatch):
    lines = ["onnx>=99", "nothing-of-this-name>=1", "cupy-cuda13x>=99; extra == 'cu13'"]
    monkeypatch.setattr("trtforge.doctor.installation.requires", lambda _name: lines)
    found = read_installation([]).unmet
    assert found == (f"onnx>=99 ({onnx.__version__})", "nothing-of-this-name>=1 (not installed)")


@pytest.mark.parametrize(
    ("group", "files", "limit", "free"),
    [
        ("0::/a/b", {"a/b": ("max", 5, 0), "a": (8 * GIB, 3 * GIB, GIB)}, 8 * GIB, 6 * GIB),
        ("0::/", {"": (4 * GIB, 5 * GIB, 0)}, 4 * GIB, 0),
        ("0::/a", {"a": ("max", 5, 0)}, None, None),
        ("0::/a", {}, None, None),
    ],
)
def test_the_memory_of_a_control_group(group, files, limit, free, tmp_path):
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text(f"{group}\n")
    for name, (most, used, unused) in files.items():
        folder = tmp_path / "sys" / "fs" / "cgroup" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.max").write_text(f"{most}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 1\ninactive_file {unused}\n")
    found = read_limits(tmp_path)
    assert found.memory_limit == limit
    if free is not None:
        assert found.memory_free <= free


def test_a_control_group_of_version_1(tmp_path):
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text("4:cpu,memory:/docker/x\n3:pids:/\n")
    folder = tmp_path / "sys" / "fs" / "cgroup" / "memory"
    folder.mkdir(parents=True)
    (folder / "memory.limit_in_bytes").write_text(f"{2 * GIB}\n")
    (folder / "memory.usage_in_bytes").write_text(f"{GIB}\n")
    assert read_limits(tmp_path).memory_limit == 2 * GIB
    (folder / "memory.limit_in_bytes").write_text("9223372036854771712\n")  # how it says: none
    assert read_limits(tmp_path).memory_limit is None


def test_containers_are_told_from_machines(tmp_path, monkeypatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert read_limits(tmp_path).container == ""
    (tmp_path / ".dockerenv").touch()
    assert read_limits(tmp_path).container == "docker"
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert read_limits(tmp_path).container == "kubernetes"


class Nvml:
    """NVIDIA's management library of a machine with one L4."""

    NVMLError = RuntimeError

    def __init__(self, *, driver):
        self._driver = driver

    def nvmlInit(self):  # noqa: N802  # the name that the library has
        if not self._driver:
            raise self.NVMLError

    def nvmlShutdown(self):  # noqa: N802  # the name that the library has
        pass

    def nvmlDeviceGetCount(self):  # noqa: N802  # the name that the library has
        return 1

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802  # the name that the library has
        return index

    def nvmlSystemGetDriverVersion(self):  # noqa: N802  # the name that the library has
        return b"580.1"  # bytes in old versions of the library, text in new ones

    def nvmlSystemGetCudaDriverVersion_v2(self):  # noqa: N802  # the name that the library has
        return 13000

    def nvmlDeviceGetName(self, handle):  # noqa: N802  # the name that the library has
        return "NVIDIA L4"

    def nvmlDeviceGetCudaComputeCapability(self, handle):  # noqa: N802  # the name that the library has
        return 8, 9

    def nvmlDeviceGetPciInfo(self, handle):  # noqa: N802  # the name that the library has
        return type("PciInfo", (), {"busId": b"00000000:65:00.0"})

    def nvmlDeviceGetMemoryInfo(self, handle):  # noqa: N802  # the name that the library has
        return type("Memory", (), {"total": L4.memory, "free": L4.free})


def test_the_gpus_of_this_machine(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", Nvml(driver=True))
    found = environment()
    assert (found.driver, found.cuda, found.gpus) == ("580.1", "13.0", (L4,))
    monkeypatch.setitem(sys.modules, "pynvml", Nvml(driver=False))
    assert environment().gpus == ()
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert environment().gpus == ()
