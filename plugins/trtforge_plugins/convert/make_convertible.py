"""The step ``make-convertible``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import onnx
import onnx_ir as ir

from trtforge import Context, Pass, RequestError
from trtforge.errors import did_you_mean
from trtforge.graph import constant_tensor, graphs, is_op, label, opset
from trtforge_plugins.clean.names import put_result
from trtforge_plugins.convert import old_opset
from trtforge_plugins.convert.builder import RULE_KEY, Builder
from trtforge_plugins.convert.rule import Refusal
from trtforge_plugins.convert.rules import all_rules, rules_by_op

MAX_DEPTH = 16
"""How often the result of a rewrite may be rewritten again; more is a rule that feeds itself."""


@dataclass(frozen=True)
class MakeConvertible(Pass):
    """Rewrite nodes that TensorRT does not take into nodes that it takes, with equal outputs.

    What no rule can rewrite is left as it is, with the reason in the notes. Run infer-shapes before
    it: rules need types and ranks.
    """

    name: ClassVar[str] = "make-convertible"

    skip: tuple[str, ...] = ()
    """Rules that are not applied, for example `stacked-key` for a model that another runtime than
    TensorRT will run: it saves TensorRT layers and costs others time."""

    def rewrite(self, model: ir.Model, ctx: Context) -> int:
        """Apply the rules in all graphs and functions; return the number of nodes rewritten.

        Raises:
            RequestError: there is no such rule to skip.
        """
        _check_names(self.skip)
        standard = bool(model.graph.opset_imports.keys() & {"", "ai.onnx"})
        version = opset(model) if standard else _newest_opset(model)
        applied: Counter[str] = Counter()
        if standard and version < old_opset.TO:
            reason = old_opset.leave_old_opset(model, version)
            ctx.note("", f"opset {version} became 7" if reason is None else f"old opset: {reason}")
            applied[old_opset.RULE] += reason is None
            version = version if reason else old_opset.TO
        for graph in list(graphs(model)):
            todo = [(node, 0) for node in reversed(list(graph))]
            while todo:
                node, depth = todo.pop()
                new = self._rewrite(node, version, depth, ctx, applied)
                todo += [(made, depth + 1) for made in reversed(new)]
        if version < 9:
            _lift_numbers(model)
        if applied and not standard:
            model.graph.opset_imports[""] = version
            model.ir_version = max(model.ir_version, 4)
        for name, count in sorted(applied.items()):
            ctx.note("", f"rule {name}: {count} nodes")
        return applied.total()

    def _rewrite(
        self, node: ir.Node, version: int, depth: int, ctx: Context, applied: Counter[str]
    ) -> Sequence[ir.Node]:
        """Rewrite one node by the first rule that answers; return the new nodes."""
        domain = "" if node.domain == "ai.onnx" else node.domain
        for rule in rules_by_op().get((domain, node.op_type), ()):
            if rule.name in self.skip:
                continue
            build = Builder(node, version, rule.name)
            try:
                answer = rule.rewrite(node, build)
            except onnx.checker.ValidationError as error:
                _let_go(build.nodes)
                answer = Refusal(
                    f"opset {version} has not all that it takes ({error}); upgrade-opset"
                )
            if answer is None:
                continue
            if isinstance(answer, Refusal):
                ctx.note(label(node), f"{rule.name}: left alone: {answer.reason}")
                continue
            if depth >= MAX_DEPTH:
                ctx.note(label(node), f"{rule.name}: left alone: it was rewritten {depth} times")
                return ()
            put(node, answer, build)
            applied[rule.name] += 1
            return build.nodes
        return ()


def _check_names(names: Sequence[str]) -> None:
    known = sorted(rule.name for rule in all_rules())
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known)
            raise RequestError(
                f"make-convertible has no rule {name!r} to skip. {hint}".rstrip(),
                remedy=f"it has {', '.join(known)}",
            )


def _newest_opset(model: ir.Model) -> int:
    """Return the newest standard operator set that the model's version of the format may use.

    At least 9, of version 4 of the format: no Constant before has integers.
    """
    table = onnx.helper.VERSION_TABLE  # rows: release, version of the format, operator set, ...
    return max(int(row[2]) for row in table if int(row[1]) <= max(model.ir_version, 4))


def _let_go(made: Sequence[ir.Node]) -> None:
    """Let nodes that will not be put into the graph stop using its values."""
    for node in made:
        for index in range(len(node.inputs)):
            node.replace_input_with(index, None)


def _lift_numbers(model: ir.Model) -> None:
    """Make initializers of the constants of rules, where Constant nodes hold only fractions."""
    for graph in graphs(model):
        for node in graph:
            if isinstance(graph, ir.Function) or not is_op(node, "Constant"):
                continue
            (value,) = node.outputs
            tensor = constant_tensor(value)
            if RULE_KEY in node.metadata_props and tensor is not None:
                put_result(graph, node, value, tensor)
                graph.remove(node, safe=True)
                model.ir_version = max(model.ir_version, 4)  # they are no inputs


def put(node: ir.Node, answer: Sequence[ir.Value | None], build: Builder) -> None:
    """Put the nodes of ``build`` in the place of ``node``, ``answer`` in that of its results.

    Names of results and metadata are kept.
    """
    graph = node.graph
    assert graph is not None  # noqa: S101  # it came from a graph
    made = {id(value) for new in build.nodes for value in new.outputs}
    values = [
        build.op("Identity", value) if value is not None and id(value) not in made else value
        for value in answer
    ]
    graph.insert_before(node, build.nodes)
    for new in build.nodes:
        for key, text in node.metadata_props.items():
            new.metadata_props.setdefault(key, text)
    for old, value in zip(node.outputs, values, strict=True):
        if value is None or not old.name:  # nobody can read an output without a name
            continue
        name, outputs = old.name, graph.outputs
        for index, output in enumerate(outputs):
            if output is old:
                outputs[index] = value
        ir.convenience.replace_all_uses_with(old, value)
        old.name = None
        value.name = name
        value.type = old.type or value.type
        value.shape = old.shape or value.shape
    graph.remove(node, safe=True)
