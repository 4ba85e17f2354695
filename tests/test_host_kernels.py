"""Kernels executed on the CPU: threads work together, and each mistake is found with its line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trtforge import CustomOp, EnvironmentLacks, Launch, host_kernels, kernel_source
from trtforge.host_launch import ORDERS, launch_on_host
from trtforge.kernel_source import KernelError

FORWARD, BACKWARD = ORDERS


@dataclass(frozen=True)
class Probe(CustomOp):
    """An op whose kernel each test writes for itself: 64 numbers, one block of 64 threads."""

    name = "test::Probe"
    inputs = ("x",)
    outputs = ("y",)
    dtypes = ("float32", "float16", "bfloat16", "int32", "int64")
    kernel = "probe.cu.jinja"
    function = "y = Identity (x)"

    def shapes(self, *inputs: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        return (inputs[0],)

    def launch(self, inputs: Any, outputs: Any, tactic: Any) -> Launch:
        return Launch(grid=1, block=64, scalars=(inputs[0][0],), shared_bytes=256)

    def reference(self, *inputs: Any) -> Any:
        return inputs


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Execute a kernel with this body, which sees x, n, y and the thread's number i."""
    monkeypatch.setenv("TRTFORGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(kernel_source.inspect, "getfile", lambda _: str(tmp_path / "module.py"))

    def run(body: str, x: Any = None, order: Any = FORWARD, before: str = "") -> Any:
        x = np.arange(64, dtype=np.float32) if x is None else x
        text = f"""using T = {{{{ T }}}};
{before}
extern "C" __global__ void {{{{ entry }}}}(const T* x, int n, T* y) {{
    const int i = threadIdx.x;
    {body}
}}
"""
        (tmp_path / Probe.kernel).write_text(text)
        return launch_on_host(Probe(), [x], str(x.dtype), order)[0]

    return run


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("y[i] = __shfl_xor_sync(~0u, x[i], 1);", [i ^ 1 for i in range(64)]),
        ("y[i] = __shfl_sync(~0u, x[i], 3);", [i // 32 * 32 + 3 for i in range(64)]),
        ("y[i] = __shfl_sync(~0u, x[i], 9, 8);", [i // 8 * 8 + 1 for i in range(64)]),
        ("y[i] = __shfl_up_sync(~0u, x[i], 2, 16);", [i - 2 * (i % 16 > 1) for i in range(64)]),
        ("y[i] = __shfl_down_sync(~0u, x[i], 1);", [i + (i % 32 < 31) for i in range(64)]),
        ("y[i] = __popc(__ballot_sync(~0u, i % 4 == 0));", [8] * 64),
        ("y[i] = __any_sync(~0u, i == 5);", [1] * 32 + [0] * 32),
        ("y[i] = __all_sync(~0u, i < 32);", [1] * 32 + [0] * 32),
        ("y[i] = __popc(__match_any_sync(~0u, i % 2));", [16] * 64),
        ("y[i] = __reduce_add_sync(~0u, i);", [496] * 32 + [1520] * 32),
        ("y[i] = __syncthreads_count(i < 40);", [40] * 64),
        ("y[i] = __syncthreads_or(i == 63) + 2 * __syncthreads_and(i < 63);", [1] * 64),
        # Two groups of lanes that meet on their own, the second one more often.
        ("""const unsigned mine = i % 32 < 8 ? 0xffu : ~0xffu;
            float v = __shfl_sync(mine, x[i], i % 32 < 8 ? 0 : 8);
            if (i % 32 >= 8) v = __shfl_sync(mine, v + 1, 9);
            y[i] = v;""", [i // 32 * 32 + 9 * (i % 32 >= 8) for i in range(64)]),
        # Lanes that have returned are not waited for.
        ("""y[i] = 1; if (i % 2) return;
            y[i] = __popc(__ballot_sync(~0u, 1)); __syncthreads();""", [16, 1] * 32),
        ("""extern __shared__ float all[]; all[63 - i] = x[i]; __syncthreads();
            y[i] = all[i];""", range(63, -1, -1)),
        ("""__shared__ int sum; if (!i) sum = 0; __syncthreads();
            atomicAdd(&sum, i); __syncthreads(); y[i] = sum;""", [2016] * 64),
        ("""__shared__ unsigned long long top; if (!i) top = 0; __syncthreads();
            atomicMax(&top, 7ull * i); __syncthreads(); y[i] = top;""", [441] * 64),
        ("y[i] = 0; __syncthreads(); atomicAdd(y + i / 2, 1.5f);", [3] * 32 + [0] * 32),
    ],
)  # fmt: skip
def test_threads_work_together(run: Any, order: Any, body: str, expected: Any) -> None:
    np.testing.assert_array_equal(run(body, order=order), expected)


@pytest.mark.parametrize("order", ORDERS)
def test_one_thread_gets_a_lock(run: Any, order: Any) -> None:
    body = """__shared__ int lock; if (!i) lock = 0; __syncthreads();
        y[i] = atomicCAS(&lock, 0, 1) == 0;"""
    assert run(body, order=order).sum() == 1


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("y[i + 1] = x[i];", "memory that is not the kernel's, in probe.cu.jinja:5"),
        ("y[i] = x[i + 1];", "memory that is not the kernel's, in probe.cu.jinja:5"),
        ("const_cast<T*>(x)[i] = 0;", "memory that is not the kernel's"),
        ("y[i] = reinterpret_cast<const float2*>(x + 1)->x;", "a misaligned access"),
        ("int near[4] = {}; y[i] = near[i];", "an index outside an array"),
        ("y[i] = 2147483647 * (n - 62);", "an overflow of int"),
        ("y[i] = 1 << n;", "a wrong shift"),
        ("y[i] = n / (n - 64);", "a division by zero"),
        ("if (i < 40) __syncthreads(); else __shfl_sync(~0u, i, 0);", "never come to the same"),
        ("if (i % 2) __shfl_sync(~0u, i, 0); else __ballot_sync(~0u, 1);", "call another one"),
        ("__shfl_sync(1u, i, 0);", "is not in the mask"),
        ("extern __shared__ float all[]; all[i + 1] = 0;", "memory that is not the kernel's"),
    ],
)  # fmt: skip
def test_a_mistake_ends_the_kernel(run: Any, body: str, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        run(body, order=BACKWARD)


def test_a_write_before_the_output_is_found(run: Any) -> None:
    with pytest.raises(AssertionError, match="memory that is not the kernel's"):
        run("y[i - 1] = x[i];", order=FORWARD)
    with pytest.raises(AssertionError, match="wrote outside its output"):
        run("if (i < n) y[i - 1] = x[i];", np.arange(63, dtype=np.float16), BACKWARD)


@pytest.mark.parametrize(
    "body",
    [
        "__shared__ float all[64]; all[i] = x[i]; y[i] = all[63 - i];",
        "__shared__ float all[64]; all[i] = x[i]; __syncwarp(); y[i] = all[63 - i];",
        "__shared__ float all[64]; all[i] = x[i]; y[i] = all[i ^ 1];",
        "__shared__ float first; if (!i) first = x[63]; y[i] = first;",
    ],
)
def test_a_missing_barrier_is_found(run: Any, body: str) -> None:
    """Whoever comes first reads what nobody has written yet; with a barrier all is well."""
    assert any(np.isnan(run(body, order=order)).any() for order in ORDERS)
    with_barrier = body.replace("__syncwarp(); ", "").replace("y[i]", "__syncthreads(); y[i]")
    for order in ORDERS:
        assert not np.isnan(run(with_barrier, order=order)).any()


def test_shared_memory_is_not_kept_from_block_to_block(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Probe, "launch", lambda *_: Launch(grid=2, block=32, scalars=(64,)))
    body = """__shared__ float kept; if (!blockIdx.x) kept = 1;
        y[blockIdx.x * 32 + i] = kept;"""
    assert np.isnan(run(body)).sum() == 32


def test_deep_recursion_is_found(run: Any) -> None:
    deep = """__device__ int deep(int n) {
        volatile char room[999]; room[0] = 1; return deep(n + 1) + room[0]; }"""
    with pytest.raises(AssertionError, match="memory that is not the kernel's"):
        run("y[i] = deep(n);", before=deep)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_types_of_16_bits_round_as_on_a_gpu(run: Any, dtype: str) -> None:
    import ml_dtypes

    kind = np.dtype(getattr(ml_dtypes, dtype, np.float16))
    values = np.array([1 + 2**-12, 65519, 1e-8, 3.1415927, np.inf, np.nan, -0.0], np.float32)
    got = run(
        "const float all[] = {1.00024414f, 65519, 1e-8f, 3.1415927f, INFINITY, NAN, -0.0f};"
        "if (i < n) y[i] = T(all[i]);",
        np.zeros(7, kind),
    )
    got, expected = got.astype(np.float32), values.astype(kind).astype(np.float32)
    np.testing.assert_array_equal(got, expected)
    assert np.signbit(got[-1])


def test_conversions_saturate_as_on_a_gpu(run: Any) -> None:
    x = np.array([0.5, 1.5, -2.5], np.float32)
    np.testing.assert_array_equal(run("if (i < n) y[i] = __float2int_rn(x[i]);", x), [0, 2, -2])
    x = np.array([np.nan, np.inf, -np.inf, 3e9], np.float32)
    np.testing.assert_array_equal(
        run("if (i < n) y[i] = __float2int_rz(x[i]);", x),
        np.array([0, 2**31 - 1, -(2**31), 2**31 - 1], np.float32),
    )


def test_the_launch_fits_the_kernel(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Probe, "launch", lambda *_: Launch(grid=1, block=64))
    with pytest.raises(AssertionError, match="takes another number of arguments"):
        run("y[i] = x[i];")


def test_a_compile_error_names_the_line_of_the_template(run: Any, tmp_path: Path) -> None:
    with pytest.raises(KernelError) as caught:
        run("y[i] = z[i];")
    assert caught.value.where == f"{tmp_path / Probe.kernel}:5"
    assert "does not compile for the host" in caught.value.what
    assert "> " in caught.value.what


def test_a_kept_library_is_used(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("y[i] = x[i];")
    first = host_kernels.compile_for_host(Probe(), "float32", tmp_path / "store")
    monkeypatch.setattr(host_kernels, "_compile", None)  # must not be called again
    again = host_kernels.compile_for_host(Probe(), "float32", tmp_path / "store")
    assert again.library == first.library
    assert [path.name for path in (tmp_path / "store").iterdir()] == [first.library.name]


def test_without_a_compiler_the_remedy_is_named(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_kernels.shutil, "which", lambda _: None)
    host_kernels._compiler.cache_clear()
    try:
        assert host_kernels.host_compiler() == ""
        with pytest.raises(EnvironmentLacks, match=r"install g\+\+ or clang"):
            run("y[i] = x[i];")
    finally:
        host_kernels._compiler.cache_clear()
