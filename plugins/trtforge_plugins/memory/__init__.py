"""Plans the memory of engines before they are built, and makes them fit a budget."""

from trtforge_plugins.memory.build_parts import BuildParts
from trtforge_plugins.memory.fit_memory import FitMemory
from trtforge_plugins.memory.plan_memory import PlanMemory
from trtforge_plugins.memory.split import Split

__all__ = ["BuildParts", "FitMemory", "PlanMemory", "Split"]
