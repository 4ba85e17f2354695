"""Plans the memory of engines before they are built."""

from trtforge_plugins.memory.plan_memory import PlanMemory

__all__ = ["PlanMemory"]
