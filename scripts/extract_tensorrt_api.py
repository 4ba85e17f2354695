"""Write the names that a TensorRT version offers to Python, for ``tests/test_tensorrt_api.py``.

    python scripts/extract_tensorrt_api.py tensorrt_cu13_bindings-10.16.1.11-*.whl …
    python scripts/extract_tensorrt_api.py tensorrt_rtx

An argument is a bindings wheel (``pip download --no-deps tensorrt-cu13-bindings==…``) or the name
of an installed module. A bindings wheel of TensorRT cannot be imported alone: its extension module
is linked to libraries of several gigabytes. It only *calls* them when a builder or a runtime is
made, though, so that libraries of the same names with empty functions are enough to list the API.
Needs a C compiler and binutils.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PLACE = Path(__file__).parents[1] / "tests" / "data" / "tensorrt_api"
LIST_NAMES = """
import importlib, inspect, os, sys
module = importlib.import_module(sys.argv[1])
names = set()
def visit(owner, prefix):
    for name in dir(owner):
        if name.startswith("_") and name != "__version__":
            continue
        names.add(prefix + name)
        member = inspect.getattr_static(owner, name)
        if isinstance(member, type) and type(member).__name__ == "pybind11_type":
            if member.__qualname__.count(".") == prefix.count("."):
                visit(member, prefix + name + ".")
visit(module, "")
sys.modules["tensorrt"] = module  # what the Python sources of its module `plugin` import
answer = os.dup(1)
os.dup2(2, 1)  # TensorRT's logger writes a warning to the standard output
try:
    plugin = importlib.import_module(sys.argv[1] + ".plugin")
except ImportError:  # TensorRT-RTX has none
    plugin = None
os.dup2(answer, 1)
for name in plugin.__all__ if plugin else ():
    member = getattr(plugin, name)
    names.add("plugin." + name)
    if callable(member):
        words = ",".join(inspect.signature(member).parameters)
        names.add("plugin." + name + "(" + words + ")")
    if isinstance(member, type):
        names.update("plugin." + name + "." + each for each in dir(member) if each[0] != "_")
print(module.__version__)
print("\\n".join(sorted(names)))
"""


def main(arguments: list[str]) -> None:
    """Extract from each wheel or module named."""
    for argument in arguments:
        if argument.endswith(".whl"):
            with tempfile.TemporaryDirectory() as folder:
                listing = list_wheel(Path(argument), Path(folder))
        else:
            listing = list_names(argument, {})
        version, _, names = listing.partition("\n")
        flavor = "tensorrt_rtx" if "rtx" in Path(argument).name else "tensorrt"
        PLACE.mkdir(parents=True, exist_ok=True)
        file = PLACE / f"{flavor}-{version}.txt"
        file.write_text(names)
        print(f"{file.name}: {names.count(chr(10))} names")


def list_wheel(wheel: Path, folder: Path) -> str:
    """Unpack ``wheel`` into ``folder``, give it empty libraries, and list its names."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)  # a wheel that its user named
    write_empty_libraries(folder / "tensorrt_bindings" / "tensorrt.so", folder)
    return list_names(
        "tensorrt_bindings", {"LD_LIBRARY_PATH": str(folder), "PYTHONPATH": str(folder)}
    )


def write_empty_libraries(extension: Path, folder: Path) -> None:
    """Write libraries into ``folder`` with which the bindings' ``extension`` can be imported."""
    needed = re.findall(r"NEEDED.*\[(libnv\w+\.so\.\d+)\]", run("readelf", "-d", str(extension)))
    symbols = re.findall(r" U (\w+)$", run("nm", "-D", "-u", str(extension)), re.MULTILINE)
    ours = [name for name in symbols if re.match(r"(create|get|init)[A-Z]\w*", name)]
    source = folder / "empty.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in ours))
    for library in needed:
        target = folder / library
        run("cc", "-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", str(target), str(source))


def list_names(module: str, environment: dict[str, str]) -> str:
    """Return the version of ``module`` and its names, one per line, in a process of its own."""
    return run(sys.executable, "-c", LIST_NAMES, module, environment=environment)


def run(*command: str, environment: dict[str, str] | None = None) -> str:
    """Return what ``command`` prints."""
    environment = {"PATH": "/usr/bin:/bin", **(environment or {})}
    return subprocess.run(
        command, check=True, text=True, stdout=subprocess.PIPE, env=environment
    ).stdout


if __name__ == "__main__":
    main(sys.argv[1:])
