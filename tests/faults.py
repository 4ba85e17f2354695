"""Random faults in commands, and what must be true after each.

A seed decides the fault and its moment. After it the user's files are as they were; what lies under
a final name is whole; what could still be written is right, and what could not is said in a
sentence. The same command then succeeds, and its models, engines and bundles are, bit by bit, those
of a machine on which nothing ever went wrong.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fault_cases import BUILD, COMMANDS, Case, age, damage, draw, exchange, seeded, write_inputs
from fault_checks import Right, check_state, content, files, kept, results

from trtforge.store import file_digest

JOBS = Path(__file__).with_name("fault_jobs.py")


@dataclass(frozen=True)
class Told:
    """What a case did."""

    case: Case
    reached: bool
    """Whether the fault came; not if its moment never did."""
    code: int | None
    """Exit code of the disturbed command; None: it was killed."""
    words: str


class Workshop:
    """Makes inputs, runs each command undisturbed, and then with faults.

    Args:
        root: An empty folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._process = subprocess.Popen(
            [sys.executable, str(JOBS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(JOBS.parent), *sys.path])},
        )  # fmt: skip
        self._inputs = root / "inputs"
        write_inputs(self._inputs)
        self._right: dict[str, Right] = {}

    def close(self) -> None:
        """End the warm process."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()

    def order(self, folder: Path, line: list[str], **facts: Any) -> dict[str, Any]:
        """Run one command in the warm process."""
        assert self._process.stdin
        assert self._process.stdout
        order = {"folder": str(folder), "line": line, "fault": {}, **facts}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        assert "traceback" not in (answer["answer"] or {}), answer["answer"]["traceback"]
        return answer

    # What is right.

    def right(self, name: str) -> Right:
        """Return what a command does when nothing goes wrong."""
        if name not in self._right:
            if name.startswith(("pack", "load")) and not (self._inputs / "b").exists():
                self._make_bundles()
            self._right[name] = self._undisturbed(name)
        return self._right[name]

    def _make_bundles(self) -> None:
        """Pack, for another GPU than the test's, a run and one of the exchanged model."""
        for name, model in (("b", "m.onnx"), ("b-other", "other.onnx")):
            folder = self._folder(f"making-{name}")
            shutil.copy(self._inputs / model, folder / "m.onnx")
            for line in ([*BUILD[:-1], "sm_120"], ["bundle", "pack", "out", "--out", "p"]):
                answer = self.order(folder, line)["answer"]
                assert answer["code"] == 0, answer["err"]
            shutil.move(folder / "p", self._inputs / name)
            if name == "b":
                shutil.move(folder / "out", self._inputs / "made")

    def _undisturbed(self, name: str) -> Right:
        """Run a command, and again with the cache that it left."""
        folder = self._folder(f"right-{name}")
        made, changes = self._done(folder, name)
        cache = self._root / f"cache-{name}"
        shutil.copytree(folder / "cache", cache, symlinks=True)
        again, fewer = self._done(self._folder(f"again-{name}", cache), name)
        assert again == made
        return Right(made, {False: changes, True: fewer}, cache)

    def _exchanged(self, name: str) -> dict[str, str]:
        """Return what a command makes of the exchanged model."""
        known = self.right(name)
        if not known.exchanged:
            folder = self._folder(f"exchanged-{name}")
            exchange(folder)
            known.exchanged.update(self._done(folder, name)[0])
            assert known.exchanged != known.results
        return known.exchanged

    def _done(self, folder: Path, name: str) -> tuple[dict[str, str], list[str]]:
        """Run a command that must succeed; return its results and its changes of files."""
        ended = self.order(folder, COMMANDS[name].line)
        assert ended["answer"]["code"] == 0, ended["answer"]["err"]
        return results(folder, name, ended["answer"]), [call for call, _ in ended["changes"]]

    def _folder(self, name: str, cache: Path | None = None) -> Path:
        folder = self._root / name
        shutil.copytree(self._inputs, folder)
        (folder / "tmp").mkdir()
        if cache is None:
            (folder / "cache").mkdir()
        else:
            shutil.copytree(cache, folder / "cache", symlinks=True)
        return folder

    # What goes wrong.

    def draw(self, name: str, seed: int) -> Case:
        """Return the case of a seed."""
        return draw(name, seed, self.right(name).calls)

    def run(self, case: Case) -> Told:
        """Let a fault happen, and check all that must be true afterwards.

        Raises:
            AssertionError: something was lost, half written, wrong or stale, or not explained.
        """
        known = self.right(case.command)
        folder = self._folder(f"{case.command}-{case.seed}", known.cache if case.warm else None)
        chance = seeded(case.command, case.seed, "damage")
        before, right = kept(folder), known.results
        if case.kind == "corrupt":
            damage(folder / "cache", chance)
        elif case.kind == "skew":
            age(folder / "cache", chance)
        elif case.kind == "exchange":
            self._done(folder, case.command)
            exchange(folder)
            before = {name: file_digest(folder / name) for name in before}
            right = self._exchanged(case.command)
        told = Told(case, reached=True, code=0, words="")
        if case.kind != "exchange":  # there it is the next command that is tried
            told = self._disturb(case, folder, before, right)
        self._recover(case, folder, right)
        check_state(folder, before, known, damaged=case.kind == "corrupt")
        shutil.rmtree(folder)
        return told

    def _disturb(
        self, case: Case, folder: Path, before: dict[str, str], right: dict[str, str]
    ) -> Told:
        command = COMMANDS[case.command]
        known = ("kind", "call", "nth", "seconds")
        fault = {key: value for key, value in asdict(case).items() if key in known}
        ended = self.order(folder, command.line, fault=fault, other=command.other)
        check_state(folder, before, self.right(case.command), damaged=case.kind == "corrupt")
        answer = ended["answer"]
        if answer is None:
            assert ended["status"] == -signal.SIGKILL
            return Told(case, reached=True, code=None, words="")
        words = answer["err"]
        assert answer["code"] in range(5), words
        assert "Traceback" not in words, words
        assert "defect" not in words, words
        if answer["code"] == 0:
            assert results(folder, case.command, answer) == right
        else:
            assert "To do: " in words + answer["out"], words  # a matrix tells it in its rows
            assert case.kind not in ("skew", "corrupt"), words
            assert case.kind != "read-only" or case.command == "load", words
        cannot_clear = case.kind == "error" and case.call in ("unlink", "unlinkat", "rmdir")
        if case.kind not in ("kill", "tear") and not cannot_clear:  # after a kill, nobody clears
            left = [path for path in files(folder) if path.name.startswith(".")]
            assert {path.name for path in left} <= {".lock"}, left
        self._check_other(case, folder, ended["other"], right)
        reached = not case.call or (case.call, case.nth) in _counted(ended["changes"])
        return Told(case, reached, answer["code"], words)

    def _check_other(self, case: Case, folder: Path, other: Any, right: dict[str, str]) -> None:
        """Both that share a cache are right; of two that pack one bundle, one is refused."""
        if other is None:
            return
        if case.command.startswith("pack"):
            assert content(folder / COMMANDS[case.command].makes[0]) in right.values()
            return
        assert other["code"] == 0, other["err"]
        if COMMANDS[case.command].makes:
            for name, digest in right.items():
                assert content(folder / name.replace("out/", "out2/")) == digest
        else:
            assert {"engine": other["out"]} == right

    def _recover(self, case: Case, folder: Path, right: dict[str, str]) -> None:
        """Give the same command again, as a user would."""
        command = COMMANDS[case.command]
        answer: dict[str, Any] = {}
        if not (case.command.startswith("pack") and (folder / command.makes[0]).exists()):
            answer = self.order(folder, command.line)["answer"]
            if answer["code"] == 2 and "--resume" in answer["err"]:
                answer = self.order(folder, [*command.line, "--resume"])["answer"]
            assert answer["code"] == 0, answer["err"]
        assert results(folder, case.command, answer) == right
        left = [path for path in (folder / "out").rglob(".*") if path.name != ".lock"]
        assert not left, left
        if case.kind == "corrupt" and command.other:  # what was found to be damaged is mended
            answer = self.order(folder, command.other)["answer"]
            assert answer["code"] == 0, answer["err"]
            assert "anew" not in answer["err"]


def _counted(changes: list[list[str]]) -> Iterator[tuple[str, int]]:
    seen: dict[str, int] = {}
    for call, _ in changes:
        yield call, seen.setdefault(call, 0)
        seen[call] += 1
