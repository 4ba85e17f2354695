"""Runs every rule over the facts of a machine."""

from __future__ import annotations

from trtforge.doctor import cuda_rules, machine_rules, package_rules
from trtforge.doctor.facts import Facts
from trtforge.doctor.symptom import Level, Symptom
from trtforge.doctor.tensorrt_rules import tensorrt


def checkup(facts: Facts, *, need_gpu: bool = False) -> list[Symptom]:
    """Return what there is to say about a machine, faults last."""
    found = [
        *tensorrt(facts),
        *cuda_rules.cuda_mix(facts),
        *package_rules.dependencies(facts),
        *package_rules.damaged(facts),
        *package_rules.onnxruntime(facts),
        *package_rules.cupy(facts),
        *cuda_rules.nvrtc(facts),
        *cuda_rules.cudnn(facts),
        *cuda_rules.toolkit(facts),
        *cuda_rules.driver(facts, need_gpu=need_gpu),
        *cuda_rules.gpus(facts, need_gpu=need_gpu),
        *machine_rules.memory(facts),
        *machine_rules.shared_memory(facts),
        *machine_rules.process_limits(facts),
        *machine_rules.folders(facts),
    ]
    order = list(Level)
    return sorted(found, key=lambda symptom: order.index(symptom.level))
