"""TfIdfVectorizer of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from trtforge_plugins.convert.builder import Builder, rank
from trtforge_plugins.convert.facts import attribute, declared_size
from trtforge_plugins.convert.rule import Refusal, Rule

MAX_TABLE = 1 << 24
"""Entries of a comparison of all windows with all n-grams."""


class TfIdfVectorizer(Rule):
    """Write a TfIdfVectorizer of integers as comparisons of windows with the n-grams."""

    name: ClassVar[str] = "tf-idf-vectorizer"
    ops: ClassVar[tuple[str, ...]] = ("TfIdfVectorizer",)
    concerns: ClassVar[str] = "TensorRT-RTX 1.7, TensorRT 10 and 11: no such operator"
    source: ClassVar[str] = "https://onnx.ai/onnx/operators/onnx__TfIdfVectorizer.html"

    def rewrite(self, node: ir.Node, build: Builder) -> Sequence[ir.Value | None] | Refusal | None:
        """Count the hits of each n-gram, weigh them, bring them into the order of the result."""
        value, dims = node.inputs[0], rank(node.inputs[0])
        if attribute(node, "pool_int64s") is None:
            return Refusal("TensorRT has no text; run the part of the model that reads text before")
        size = declared_size(value, -1)
        if value is None or dims not in (1, 2) or size is None:
            return Refusal("the length of its input is open")
        columns = np.asarray(attribute(node, "ngram_indexes"))
        if len(set(columns.tolist())) < len(columns):
            return Refusal("two of its n-grams share a place in the result")
        grams = _grams(node)
        if sum(size * each.size for each in grams) > MAX_TABLE:
            return Refusal("its n-grams are too many to compare in pairs")
        rows = build.cast(value if dims == 2 else build.unsqueeze(value, [0]), ir.DataType.INT64)
        counted = [self._counted(node, rows, size, each, build) for each in grams]
        none = build.op("Mul", build.slice(counted[0], 1, 0, 1), 0)  # for places without n-gram
        table = build.op("Concat", *counted, none, axis=1)
        order = np.full(columns.max() + 1, len(columns))
        order[columns] = np.arange(len(columns))
        found = build.cast(build.op("Gather", table, order, axis=1), ir.DataType.FLOAT)
        found = self._weighed(node, found, columns, build)
        return [found if dims == 2 else build.squeeze(found, [0])]

    def _counted(
        self, node: ir.Node, rows: ir.Value, size: int, grams: np.ndarray, build: Builder
    ) -> ir.Value:
        """Return how often each of the n-grams of one length occurs in each row."""
        length = grams.shape[1]
        wanted = attribute(node, "min_gram_length") <= length <= attribute(node, "max_gram_length")
        # With a skip of s, the parts of an n-gram are s + 1 entries apart.
        apart = range(1, int(attribute(node, "max_skip_count")) + 2) if length > 1 else [1]
        windows = [
            start + by * np.arange(length)
            for by in apart
            for start in range(size - by * (length - 1))
            if wanted
        ]
        if not windows:
            zero = build.op("Mul", build.slice(rows, 1, 0, 1), 0)
            return build.op("Mul", zero, build.const(np.zeros((1, len(grams)), np.int64)))
        read = build.op("Gather", rows, np.asarray(windows), axis=1)
        equal = build.op("Equal", build.unsqueeze(read, [2]), grams)
        hits = build.cast(equal, ir.DataType.INT64)
        if length > 1:
            hits = build.reduce("ReduceMin", hits, [3], keepdims=False)
        else:
            hits = build.squeeze(hits, [3])
        return build.reduce("ReduceSum", hits, [1], keepdims=False)

    def _weighed(
        self, node: ir.Node, counts: ir.Value, columns: np.ndarray, build: Builder
    ) -> ir.Value:
        mode, weights = attribute(node, "mode"), attribute(node, "weights")
        if mode == "IDF":
            counts = build.op("Min", counts, 1.0)
        if mode == "TF" or weights is None:
            return counts
        row = np.zeros(columns.max() + 1, np.float32)
        row[columns] = weights
        return build.op("Mul", counts, row)


def _grams(node: ir.Node) -> list[np.ndarray]:
    """Return the n-grams of each length that the pool has, each as an array [count, length]."""
    pool = np.asarray(attribute(node, "pool_int64s"), np.int64)
    starts = [*attribute(node, "ngram_counts"), len(pool)]
    parts = [pool[a:b] for a, b in pairwise(starts)]
    return [part.reshape(-1, n) for n, part in enumerate(parts, 1) if len(part)]
