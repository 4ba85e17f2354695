"""Models that do not build, ten of each of thirteen classes: what is wrong, and what mends it.

A remedy is applied as a user would: the recipe ``convert``, a frozen input, another option, or the
text of the model changed as the remedy says.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

HEAD = '<ir_version: 10, opset_import: ["" : {opset}, "acme" : 1, "ai.onnx.ml" : 3]>\n'


@dataclass(frozen=True)
class Broken:
    """One model that does not build."""

    name: str
    kind: str
    text: str
    code: str
    """The right cause."""
    convert: bool = False
    """Mended by the recipe ``convert``."""
    adapt: bool = False
    """Mended by it with adapted types of inputs and outputs."""
    freeze: dict[str, Any] = field(default_factory=dict)
    """Inputs to freeze first."""
    mended: str = ""
    """The text after the author did what the remedy says."""
    opset: int = 21
    options: dict[str, Any] = field(default_factory=dict)
    """Of the step ``tensorrt``; the remedy leaves them out."""
    shapes: dict[str, str] = field(default_factory=dict)
    right_shapes: dict[str, str] | None = None
    """What the remedy asks for."""
    targets: tuple[str, ...] = ("sm_89",)
    right_targets: tuple[str, ...] = ()

    def model(self, text: str = "") -> str:
        """Return the model as ONNX text."""
        return HEAD.format(opset=self.opset) + (text or self.text)


def unknown_operators() -> Iterator[Broken]:
    def case(name: str, text: str, **more: Any) -> Broken:
        return Broken(name, "unknown operator", text, "no-such-operator", **more)

    yield case(
        "center-crop-pad",
        "g (float[6] x) => (float[4] y) <int64[1] s = {4}> { y = CenterCropPad (x, s) }",
        convert=True,
    )
    yield case(
        "bit-shift",
        'g (uint8[6] x, uint8[6] s) => (uint8[6] y) { y = BitShift <direction = "LEFT"> (x, s) }',
        convert=True,
    )
    yield case(
        "bitwise-and",
        "g (int32[6] x, int32[6] s) => (int32[6] y) { y = BitwiseAnd (x, s) }",
        convert=True,
    )
    yield case("det", "g (float[2,3,3] x) => (float[2] y) { y = Det (x) }", convert=True)
    yield case(
        "matmul-integer",
        "g (int8[2,2] x) => (int32[2,2] y) <int8[2,2] w = {1,2,3,4}> { y = MatMulInteger (x, w) }",
        convert=True,
    )
    yield case(
        "sequence",
        "g (float[3] x) => (float[6] y) "
        "{ s = SequenceConstruct (x, x) y = ConcatFromSequence <axis = 0> (s) }",
        convert=True,
    )
    yield case("bitwise-not", "g (int32[6] x) => (int32[6] y) { y = BitwiseNot (x) }", convert=True)
    yield case(
        "cum-prod",
        "g (float[2,3] x) => (float[2,3] y) <int64 a = {0}> { y = CumProd (x, a) }",
        opset=26,
        convert=True,
    )
    for op, body in (("Swirl", "h = Sigmoid (a) b = Mul (a, h)"), ("Twirl", "b = Tanh (a)")):
        text = f"g (float[2,4] x) => (float[2,4] y) {{ y = acme.{op} (x) }}"
        function = f'\n<domain: "acme", opset_import: ["" : 21]> {op} (a) => (b) {{ {body} }}'
        yield case(op.lower(), text, mended=text + function)


def constants() -> Iterator[Broken]:
    for op in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceProd"):
        yield Broken(
            f"axes-of-{op}",
            "value needed at build time",
            "g (float[2,3] x, int64[1] a) => (float[N] y) "
            f"{{ [n] y = {op} <keepdims = 0> (x, a) }}",
            "constant-needed",
            freeze={"a": [1]},
        )
    for op, dims, rank in (("Unsqueeze", "2,3", "N,M,K"), ("Squeeze", "2,1,3", "N,M")):
        yield Broken(
            f"axes-of-{op}",
            "value needed at build time",
            f"g (float[{dims}] x, int64[1] a) => (float[{rank}] y) {{ [n] y = {op} (x, a) }}",
            "constant-needed",
            freeze={"a": [1]},
        )
    yield Broken(
        "scales-of-resize",
        "value needed at build time",
        "g (float[1,1,4,4] x, float[4] s) => (float[1,1,H,W] y) { [n] y = Resize (x, , s) }",
        "constant-needed",
        freeze={"s": [1.0, 1.0, 2.0, 2.0]},
    )
    yield Broken(
        "bounds-of-range",
        "value needed at build time",
        "g (float a, float b) => (float[N] y) <float c = {1}> { [n] y = Range (a, b, c) }",
        "constant-needed",
        freeze={"a": 0.0, "b": 5.0},
    )


def types() -> Iterator[Broken]:
    def case(name: str, text: str, code: str, **more: Any) -> Broken:
        convert = "mended" not in more
        return Broken(name, "type TensorRT has not", text, code, convert=convert, **more)

    for dtype in ("int16", "uint16", "uint32", "uint64"):
        text = f"g ({dtype}[4] x) => ({dtype}[4] y) {{ y = Add (x, x) }}"
        yield case(f"add-of-{dtype}", text, "no-such-type", adapt=True)
    yield case(
        "cast-to-int16",
        "g (float[4] x) => (float[4] y) { i = Cast <to = 5> (x) y = Cast <to = 1> (i) }",
        "no-such-type",
    )
    yield case(
        "constant-of-int16",
        "g (float[2] x) => (float[2] y) <int16[2] w = {1,2}> "
        "{ f = Cast <to = 1> (w) y = Add (x, f) }",
        "initializer-refused",
    )
    yield case(
        "add-of-uint8", "g (uint8[4] x) => (uint8[4] y) { y = Add (x, x) }", "type-of-operator"
    )
    for op in ("MatMul", "Gemm"):
        text = f"g (int32[2,3] x, int32[3,4] z) => (int32[2,4] y) {{ y = {op} (x, z) }}"
        mended = (
            "g (int32[2,3] x, int32[3,4] z) => (int32[2,4] y) { a = Cast <to = 1> (x) "
            f"b = Cast <to = 1> (z) c = {op} (a, b) y = Cast <to = 6> (c) }}"
        )
        yield case(f"{op}-of-int32", text, "type-of-operator", mended=mended)
    yield case(
        "maximum-of-bool",
        "g (bool[4] x) => (bool[1] y) { y = ReduceMax (x) }",
        "type-of-operator",
    )


def mixed_types() -> Iterator[Broken]:
    def case(name: str, ins: str, out: str, node: str, *, cast: str, to: int = 1) -> Broken:
        text = f"g ({ins}) => ({out} y) {{ y = {node} }}"
        same = node.replace(f"{cast})", "same)").replace(f"{cast},", "same,")
        mended = f"g ({ins}) => ({out} y) {{ same = Cast <to = {to}> ({cast}) y = {same} }}"
        return Broken(name, "mixed types", text, "mixed-types", mended=mended)

    half = "float[4,4] x, float16[4,4] z"
    for op in ("Add", "Mul", "Max", "Div"):
        yield case(f"{op}-of-two-types", half, "float[4,4]", f"{op} (x, z)", cast="z")
    yield case("integers", "int64[4] x, int32[4] z", "int64[4]", "Add (x, z)", cast="z", to=7)
    yield case("product", half, "float[4,4]", "MatMul (x, z)", cast="z")
    yield case("where", f"bool[4,4] c, {half}", "float[4,4]", "Where (c, x, z)", cast="z")
    yield case("concat", half, "float[8,4]", "Concat <axis = 0> (x, z)", cast="z")
    convolution = "float[1,1,4,4] x, float16[1,1,3,3] w"
    yield case("convolution", convolution, "float[1,1,2,2]", "Conv (x, w)", cast="w")
    norm = "float16[2,4] x, float[4] s"
    yield case("norm", norm, "float16[2,4]", "LayerNormalization (x, s)", cast="s", to=10)


def quantization() -> Iterator[Broken]:
    def pair(scale: str, zero: str, dtype: str) -> str:
        return (
            f"g (float[2,4] x) => (float[2,4] y) <float s = {{{scale}}}, {dtype} z = {{{zero}}}> "
            "{ q = QuantizeLinear (x, s, z) y = DequantizeLinear (q, s, z) }"
        )

    def case(name: str, text: str, code: str, **more: Any) -> Broken:
        return Broken(name, "quantization", text, code, **more)

    good = pair("0.5", "0", "int8")
    for zero in (3, -7):
        text = pair("0.5", str(zero), "int8")
        yield case(f"zero-point{zero}", text, "asymmetric-quantization", convert=True)
    for scale in ("0.0", "-1.0"):
        yield case(f"scale{scale}", pair(scale, "0", "int8"), "scale-not-positive", mended=good)
    yield case("unsigned", pair("0.5", "128", "uint8"), "asymmetric-quantization", convert=True)
    yield case("int16", pair("0.5", "0", "int16"), "initializer-refused", convert=True)
    yield case(
        "of-int32",
        "g (int32[2,4] x) => (float[2,4] y) <float s = {0.5}> { y = DequantizeLinear (x, s) }",
        "quantized-type-loose",
        convert=True,
    )
    float8 = "g (float[4] x) => (float[4] y) { a = Cast <to = 17> (x) y = Cast <to = 1> (a) }"
    yield case("cast-to-float8", float8, "quantized-type-loose", convert=True)
    yield case(
        "input-of-float8",
        "g (float8e4m3fn[4] x) => (float[4] y) { y = Cast <to = 1> (x) }",
        "quantized-type-loose",
        mended="g (float[4] x) => (float[4] y) <float s = {1}> "
        "{ q = QuantizeLinear <output_dtype = 17> (x, s) y = DequantizeLinear (q, s) }",
    )
    yield case(
        "type-float8e5m2",
        "g (float[4] x) => (float[4] y) <float s = {0.5}> "
        "{ q = QuantizeLinear <output_dtype = 19> (x, s) y = DequantizeLinear (q, s) }",
        "no-such-type",
        mended="g (float[4] x) => (float[4] y) <float s = {0.5}> "
        "{ q = QuantizeLinear <output_dtype = 17> (x, s) y = DequantizeLinear (q, s) }",
    )


def ranges() -> Iterator[Broken]:
    relu = "g (float[N,4] x) => (float[N,4] y) { y = Relu (x) }"
    two = (
        "g (float[N,4] x, float[K,M] z) => (float[N,4] y, float[K,M] w) "
        "{ y = Relu (x) w = Tanh (z) }"
    )
    shaped = "g (float[N,4] x, int64[2] s) => (float[A,B] y) { y = Reshape (x, s) }"

    def case(name: str, text: str, code: str, **more: Any) -> Broken:
        return Broken(name, "ranges of inputs", text, code, **more)

    right = {"x": "1x4:2x4:4x4"}
    yield case("none", relu, "no-profile", right_shapes={})
    yield case("none-of-two", two, "no-profile", right_shapes={})
    yield case("one-of-two", two, "no-profile", shapes=right, right_shapes={})
    yield case("values", shaped, "no-profile", shapes=right, right_shapes={"s": "2x2:2x4:4x4"})
    yield case("product", relu.replace("Relu (x)", "Mul (x, x)"), "no-profile", right_shapes={})
    for name, shapes in (
        ("rank", {"x": "1:2:4"}),
        ("fixed-dimension", {"x": "1x5:2x5:4x5"}),
        ("other-name", {"xx": "1x4:2x4:4x4"}),
        ("rank-3", {"x": "1x4x1:2x4x1:4x4x1"}),
    ):
        yield case(name, relu, "bad-profile", shapes=shapes, right_shapes=right)
    wrong = {**right, "s": "2:2:2"}
    yield case(
        "count", shaped, "bad-profile", shapes=wrong, right_shapes={**right, "s": "2x2:2x4:4x4"}
    )


def targets() -> Iterator[Broken]:
    def case(name: str, text: str, code: str, wrong: str, right: str, **more: Any) -> Broken:
        wanted = (wrong, right)
        return Broken(
            f"{name}-{wrong}", "target lacks a type", text, code,
            targets=wanted, right_targets=(right,), **more,
        )  # fmt: skip

    float8 = (
        "g (float[2,4] x) => (float[2,4] y) <float s = {0.5}> "
        "{ q = QuantizeLinear <output_dtype = 17> (x, s) y = DequantizeLinear (q, s) }"
    )
    for wrong in ("sm_75", "sm_80", "sm_86"):
        yield case("float8", float8, "type-of-target", wrong, "sm_89")
    half = "g (bfloat16[2,4] x) => (bfloat16[2,4] y) { y = Relu (x) }"
    yield case("bfloat16", half, "type-of-target", "sm_75", "sm_86")
    convolution = (
        "g (bfloat16[1,1,4,4] x, bfloat16[1,1,3,3] w) => (bfloat16[1,1,2,2] y) { y = Conv (x, w) }"
    )
    yield case("bfloat16-convolution", convolution, "type-of-target", "sm_75", "sm_86", opset=22)
    cast = "g (float[4] x) => (float[4] y) { a = Cast <to = 16> (x) y = Cast <to = 1> (a) }"
    yield case("bfloat16-cast", cast, "type-of-target", "sm_75", "sm_86")
    product = "g (float[8,16] x, float[16,16] w) => (float[8,16] y) { y = MatMul (x, w) }"
    yield case("float32-product", product, "float32-product-on-turing", "sm_75", "sm_86")
    gemm = product.replace("MatMul (x, w)", "Gemm (x, w)")
    yield case("float32-gemm", gemm, "float32-product-on-turing", "sm_75", "sm_86")
    unknown = "g (float[2,4] x) => (float[2,4] y) { y = Relu (x) }"
    for wrong in ("sm_90", "sm_100"):
        yield case("unknown", unknown, "target-not-built", wrong, "sm_89")


def limits() -> Iterator[Broken]:
    product = "g (float[8,4] x, float[4,4] w) => (float[8,4] y) { y = MatMul (x, w) }"
    models = {
        "product": product,
        "half": product.replace("float", "float16"),
        "gemm": product.replace("MatMul (x, w)", "Gemm (x, w)"),
        "convolution": "g (float[1,4,8,8] x, float[4,4,3,3] w) => (float[1,4,6,6] y) "
        "{ y = Conv (x, w) }",
    }

    def case(name: str, text: str, code: str, **options: Any) -> Broken:
        return Broken(name, "limits", text, code, options=options)

    for name, text in models.items():
        yield case(f"workspace-{name}", text, "workspace-too-small", workspace="1KiB")
    for name in ("product", "convolution"):
        code = "shared-memory-limit"
        yield case(f"shared-{name}", models[name], code, tactic_shared_memory="16B")
    for name in ("product", "convolution"):
        yield case(f"time-{name}", models[name], "time-limit", time_limit=0.001)
    yield case("lean-runtime", product, "no-lean-runtime", version_compatible=True)
    constant = "g (float[8,2] x) => (float[8,2] y) <float[2,2] w = {1,2,3,4}> { y = MatMul (x, w) }"
    yield case("refit", constant, "no-gpu", refit=True)


def forms() -> Iterator[Broken]:
    def case(name: str, text: str, code: str = "operator-form", **more: Any) -> Broken:
        convert = not {"freeze", "mended"} & set(more)
        return Broken(name, "form of an operator", text, code, convert=convert, **more)

    yield case(
        "dilated-pool",
        "g (float[1,1,8,8] x) => (float[1,1,6,6] y) "
        "{ y = MaxPool <kernel_shape = [2,2], dilations = [2,2]> (x) }",
    )
    yield case(
        "norm-with-mean",
        "g (float[2,4] x, float[4] s) => (float[2,4] y, float[2,1] m) "
        "{ y, m = LayerNormalization (x, s) }",
    )
    yield case(
        "scatter-add",
        "g (float[4] x, int64[2,1] i, float[2] v) => (float[4] y) "
        '{ y = ScatterND <reduction = "add"> (x, i, v) }',
    )
    yield case(
        "scatter-product",
        "g (float[4] x, int64[2] i, float[2] v) => (float[4] y) "
        '{ y = ScatterElements <reduction = "mul"> (x, i, v) }',
    )
    yield case(
        "third-norm",
        "g (float[1,1,8,8] x) => (float[1,1,7,7] y) "
        "{ y = LpPool <kernel_shape = [2,2], p = 3> (x) }",
    )
    yield case(
        "antialias",
        "g (float[1,1,4,4] x) => (float[1,1,2,2] y) <float[4] s = {1,1,0.5,0.5}> "
        '{ y = Resize <mode = "linear", antialias = 1> (x, , s) }',
    )
    yield case(
        "attention-softcap",
        "g (float[1,2,4,8] q, float[1,2,4,8] k, float[1,2,4,8] v) => (float[1,2,4,8] y) "
        "{ y = Attention <softcap = 2.0> (q, k, v) }",
        opset=23,
    )
    yield case(
        "group-norm",
        "g (float[2,4] x, float[4] s, float[4] b) => (float[2,4] y) "
        "{ y = GroupNormalization <num_groups = 2> (x, s, b) }",
    )
    branches = (
        "g (bool c, float[1,3] x) => (float[N] y) { y = If (c) "
        "<then_branch = t () => (float[3] a) { a = Squeeze (x) }, "
        "else_branch = e () => (float[1,3] b) { b = Identity (x) }> }"
    )
    yield case("branches", branches, "branches-differ", freeze={"c": True})
    top = (
        "g (float[2,5000] x) => (float[2,K] y, int64[2,K] i) <int64[1] k = {4000}> "
        "{ y, i = TopK (x, k) }"
    )
    yield case("top-4000", top, "too-many-elements", mended=top.replace("{4000}", "{3840}"))


def graphs() -> Iterator[Broken]:
    good = "g (float[4] x) => (float[4] y) { a = Exp (x) y = Relu (a) }"

    def case(name: str, text: str, code: str, mended: str = good, **more: Any) -> Broken:
        return Broken(name, "graph", text, code, mended=mended, **more)

    order = "graph-has-no-order"
    twice = "g (float[4] x) => (float[4] y) { y = Exp (x) y = Relu (x) }"
    yield case("name-twice", twice, "bad-model")
    cycle = "g (float[4] x) => (float[4] y) { a = Add (x, b) b = Exp (a) y = Relu (b) }"
    yield case("cycle", cycle, order)
    yield case("cycle-of-one", "g (float[4] x) => (float[4] y) { y = Add (x, y) }", order)
    missing = "g (float[4] x) => (float[4] y) { y = Add (x, nowhere) }"
    yield case("missing-input", missing, "value-missing")
    yield case("missing-output", "g (float[4] x) => (float[4] z) { y = Relu (x) }", "value-missing")
    for name, text in (
        ("broadcast", "g (float[2,3] x, float[2,4] z) => (float[2,3] y) { y = Add (x, z) }"),
        ("product", "g (float[2,3] x, float[2,4] z) => (float[2,4] y) { y = MatMul (x, z) }"),
        ("concat", "g (float[2,3] x, float[3,4] z) => (float y) { y = Concat <axis=0> (x, z) }"),
        ("channels", "g (float[1,3,8,8] x, float[4,5,3,3] w) => (float[N] y) { y = Conv (x, w) }"),
        ("volume", "g (float[2,3] x) => (float[7] y) <int64[1] s = {7}> { y = Reshape (x, s) }"),
    ):  # fmt: skip
        yield case(f"shapes-of-{name}", text, "shapes-do-not-fit")


def attributes() -> Iterator[Broken]:
    def case(name: str, text: str, right: tuple[str, str], code: str = "", **more: Any) -> Broken:
        """``right`` are the wrong words of the text, and those that the remedy asks for."""
        code = code or "attribute-out-of-range"
        return Broken(name, "attributes", text, code, mended=text.replace(*right), **more)

    matrix = "g (float[4,2] x) => (float[N,M] y) {{ y = {} (x) }}".format
    yield case("axis", matrix("Softmax <axis = 7>"), ("7", "1"), "axis-out-of-range")
    yield case("permutation", matrix("Transpose <perm = [0, 0]>"), ("[0, 0]", "[1, 0]"))
    unsqueeze = "g (float[2] x) => (float[N,M] y) <int64[1] a = {9}> { y = Unsqueeze (x, a) }"
    yield case("new-axis", unsqueeze, ("{9}", "{1}"), "axis-out-of-range")
    convolution = (
        "g (float[1,1,8,8] x, float[1,1,3,3] w) => (float[1,1,N,M] y) {{ y = Conv <{}> (x, w) }}"
    ).format
    yield case("negative-pad", convolution("pads = [-1, 0, 0, 0]"), ("-1", "1"))
    yield case("stride-of-0", convolution("strides = [0, 0]"), ("[0, 0]", "[1, 1]"))
    image = "g (float[1,3,4,4] x) => (float[1,3,N,M] y) {{ y = {} (x) }}".format
    yield case("even-window", image("LRN <size = 4>"), ("= 4", "= 5"))
    pads = image("AveragePool <kernel_shape = [2,2], pads = [3,3,3,3]>")
    yield case("pads-beyond-kernel", pads, ("[3,3,3,3]", "[1,1,1,1]"))
    product = (
        "g (float[2,3] x, float[3,4] z) => (float[N,M] y) "
        '{ y = Einsum <equation = "ij,jk->iq"> (x, z) }'
    )
    yield case("equation", product, ("iq", "ik"))
    attention = (
        "g (float[1,4,16] q, float[1,4,16] k, float[1,4,16] v) => (float[1,4,16] y) "
        "{ y = Attention <is_causal = 0> (q, k, v) }"
    )
    heads = ("is_causal = 0", "q_num_heads = 2, kv_num_heads = 2")
    yield case("heads", attention, heads, "attribute-missing", opset=23)
    scales = (
        "g (int8[2,4] x) => (float[2,4] y) <float[2] s = {0.5, 0.5}> "
        "{ y = DequantizeLinear <axis = 1> (x, s) }"
    )
    yield case("axis-of-scales", scales, ("axis = 1", "axis = 0"), "count-of-scales")


def sizes() -> Iterator[Broken]:
    def case(name: str, text: str, code: str, right: tuple[str, str] = ("", "")) -> Broken:
        """``right`` are the wrong words of the text, and those that the remedy asks for."""
        mended = text.replace(*right) if right[0] else ""
        return Broken(name, "sizes", text, code, convert=not right[0], mended=mended)

    kernel = "g (float[1,1,2,2] x, float[1,1,5,5] w) => (float[1,1,N,M] y) { y = Conv (x, w) }"
    yield case("kernel-beyond-image", kernel, "negative-length", ("1,1,2,2", "1,1,6,6"))
    expand = "g (float[3] x) => (float[N] y) <int64[1] s = {4}> { y = Expand (x, s) }"
    yield case("expand-of-3", expand, "slice-out-of-bounds", ("[3]", "[1]"))
    reshape = "g (float[4,4] x) => (float[N,M] y) <int64[2] s = {S}> { y = Reshape (x, s) }"
    for name, wrong in (("two-wildcards", "{-1,-1}"), ("no-solution", "{3,-1}")):
        text = reshape.replace("{S}", wrong)
        yield case(name, text, "reshape-without-solution", (wrong, "{2,-1}"))
    step = (
        "g (float[4] x) => (float[N] y) <int64[1] a = {0}, int64[1] e = {4}, int64[1] t = {0}> "
        "{ y = Slice (x, a, e, a, t) }"
    )
    yield case("step-of-0", step, "step-of-zero", ("t = {0}", "t = {1}"))
    top = "g (float[8] x) => (float[N] y, int64[N] i) <int64[1] k = {9}> { y, i = TopK (x, k) }"
    yield case("top-9-of-8", top, "topk-beyond-axis", ("{9}", "{8}"))
    product = "g (float[2,2,2] x, float[2,2] z) => (float[2,2,2] y) { y = Gemm (x, z) }"
    yield case("gemm-of-3-dimensions", product, "wrong-rank", ("Gemm", "MatMul"))
    many = (
        "g (float[1,1,1,1,1,1,1,1,2] x) => (float[N] y) <int64[1] s = {-1}> { y = Reshape (x, s) }"
    )
    yield case(
        "9-dimensions", many, "too-many-dimensions", ("1,1,1,1,1,1,1,1,2", "1,1,1,1,1,1,1,2")
    )
    huge = "g (float[2147483648] x) => (float[2147483648] y) { y = Relu (x) }"
    yield case("dimension-of-2-to-31", huge, "dimension-too-large", ("2147483648", "65536"))
    loop = (
        "g (int64 n, float[2] x) => (float[2] y) <bool c = {1}> { y = Loop (n, c, x) "
        "<body = b (int64 i, bool ci, float[2] s) => (bool co, float16[2] t) "
        "{ co = Identity (ci) t = Cast <to = 10> (s) }> }"
    )
    yield case("loop-changes-type", loop, "loop-changes-type", ("to = 10", "to = 1"))


def kernels() -> Iterator[Broken]:
    def case(name: str, text: str, code: str, mended: str = "", **more: Any) -> Broken:
        return Broken(name, "no kernel", text, code, convert=not mended, mended=mended, **more)

    attention = (
        "g (float[1,2,4,8] q, float[1,2,4,8] k, float[1,2,4,8] v) => (float[1,2,4,8] y) "
        "{ y = Attention <is_causal = 0> (q, k, v) }"
    )
    causal = attention.replace("causal = 0", "causal = 1")
    for name, text in (
        ("attention", attention),
        ("attention-of-half", attention.replace("float", "float16")),
        ("causal-attention", causal),
    ):
        yield case(name, text, "attention-without-kernel", opset=23)
    eye = "g (float[N,M] x) => (float[N,M] y) { y = EyeLike (x) }"
    fixed = eye.replace("N,M", "3,3")
    yield case(
        "eye", eye, "dynamic-shape-refused", fixed, shapes={"x": "2x2:2x2:4x4"}, right_shapes={}
    )
    loop = (
        "g (float[1] x) => (float[K] y) <int64 n = {3}, bool c = {1}> { y = Loop (n, c, x) "
        "<body = b (int64 i, bool ci, float[P] s) => (bool co, float[Q] t) "
        "{ co = Identity (ci) t = Concat <axis = 0> (s, s) }> }"
    )
    yield case("growing-loop", loop, "loop-changes-shape")

    def cast(name: str, dtype: str, node: str, code: str, to: int, *, result: str = "") -> Broken:
        """One node that does not take its type; mended by a Cast on each side, as is proposed."""
        head, result = f"g ({dtype}[4] x) => ", result or dtype
        back = {"float": 1, "uint8": 2, "bool": 9}[result]
        text = f"{head}({result}[4] y) {{ y = {node} }}"
        body = f"a = Cast <to = {to}> (x) b = {node.replace('x', 'a')} y = Cast <to = {back}> (b)"
        return case(name, text, code, f"{head}({result}[4] y) {{ {body} }}")

    yield cast("relu-of-uint8", "uint8", "Relu (x)", "uint8", 1)
    yield cast("not-of-float", "float", "Not (x)", "type-of-operator", 9)
    yield cast("and-of-float", "float", "And (x, x)", "type-of-operator", 9)
    yield cast("power-of-bool", "bool", "Pow (x, x)", "type-of-operator", 1)
    yield cast("nan-of-integer", "int32", "IsNaN (x)", "type-of-operator", 1, result="bool")


CLASSES = (
    unknown_operators, constants, types, mixed_types, quantization, ranges, targets, limits, forms,
    graphs, attributes, sizes, kernels,
)  # fmt: skip


def all_broken() -> list[Broken]:
    """Return all of them."""
    return [broken for make in CLASSES for broken in make()]
