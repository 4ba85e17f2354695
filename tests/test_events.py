"""``--json-lines``: the events of a run for programs, each a line that the schema describes."""

import json
import math

import jsonschema
from command import trtforge

from trtforge import demo
from trtforge.errors import RequestError
from trtforge.events import JsonLines, event_schema
from trtforge.records import StepRecord

RECORD = StepRecord("build", "tensorrt", 1, {}, 0, 1.25, gave=("Engine",))


def held_to_schema(lines):
    """The lines as JSON; each is what the schema describes."""
    events = [json.loads(line) for line in lines]
    for event in events:
        jsonschema.validate(event, event_schema())
    return events


def written(tell):
    """The events that ``tell`` makes a stream write."""
    lines = []
    tell(JsonLines(lines.append))
    return held_to_schema(lines)


def test_each_call_is_an_event():
    def tell(stream):
        stream.step_started("build", "tensorrt")
        stream.update("tactics", 3, 8)
        stream.message("hello")
        stream.step_finished(RECORD)
        stream.finished(1, "out", ("cosine is 0.98",))

    events = written(tell)
    assert [event["event"] for event in events] == [
        "step-started", "progress", "message", "step-finished", "finished",
    ]  # fmt: skip
    assert events[3]["record"]["gave"] == ["Engine"]
    assert events[4]["missed"] == ["cosine is 0.98"]
    assert [event["at"] for event in events] == sorted(event["at"] for event in events)


def test_numbers_that_json_lacks_have_names():
    record = StepRecord("a", "b", 1, {}, 0, 0.0, figures={"worst": math.nan})
    (event,) = written(lambda stream: stream.step_finished(record))
    assert event["record"]["figures"] == {"worst": "NaN"}


def test_an_error_has_its_code_and_remedy():
    error = RequestError("no such target", where="--target sm_1", remedy="take sm_89")
    (event,) = written(lambda stream: stream.failed(error))
    assert (event["code"], event["exit_code"]) == ("bad-request", 2)
    assert (event["where"], event["remedy"]) == ("--target sm_1", "take sm_89")


def test_a_run_ends_with_its_verdict(tmp_path):
    out = str(tmp_path / "out")
    answer = trtforge("run", "convert", "--model", str(demo.MODEL), "--json-lines", "--out", out)
    assert answer.code == 0, answer.err
    events = held_to_schema(answer.out.splitlines())
    steps = [event["record"]["step"] for event in events if event["event"] == "step-finished"]
    assert {"fold-constants", "make-convertible"} <= set(steps)
    last = events[-1]
    assert (last["event"], last["exit_code"], last["folder"]) == ("finished", 0, out)


def test_a_run_that_cannot_begin_says_why(tmp_path):
    answer = trtforge("run", "convert", "--model", "none.onnx", "--json-lines", "--out",
                      str(tmp_path / "out"))  # fmt: skip
    event = held_to_schema(answer.out.splitlines())[-1]
    assert event["event"] == "failed"
    assert event["exit_code"] == answer.code != 0
    assert event["what"] in answer.err
