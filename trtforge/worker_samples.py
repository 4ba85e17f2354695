"""What is seen of a process while it works: evidence of why it ended."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from trtforge.doctor.limits import read_limits
from trtforge.quantities import format_bytes

LARGE = 0.5
"""A process that had this part of the memory may well be the one that the kernel killed."""
SCARCE = 0.05
"""With less than this part of the memory free, the kernel may kill any process."""


def oom_kills(root: Path = Path("/")) -> int | None:
    """Return how many processes the kernel killed for memory in the control groups of this one.

    None where the system does not count them. ``memory.events``:
    https://docs.kernel.org/admin-guide/cgroup-v2.html
    """
    counts = []
    with suppress(OSError):
        for line in (root / "proc" / "self" / "cgroup").read_text().splitlines():
            group = root / "sys" / "fs" / "cgroup" / line.split(":", 2)[2].strip("/")
            for folder in (group, root / "sys" / "fs" / "cgroup"):
                with suppress(OSError):
                    text = (folder / "memory.events").read_text()
                    words = dict(pair.split() for pair in text.splitlines())
                    counts.append(int(words.get("oom_kill", 0)))
    return max(counts, default=None)


def memory_of_this_machine() -> int:
    """Return the memory that this process may use with all others of its group, in bytes."""
    import psutil

    total = int(psutil.virtual_memory().total)
    return min(total, read_limits().memory_limit or total)


@dataclass
class Samples:
    """Highest and lowest values since the process got its job."""

    peak: int = 0
    """Resident memory of the process itself, bytes."""
    least_free: int | None = None
    """Free memory of the machine, bytes."""
    processor: float = 0.0
    """Seconds that it computed; with the jobs before."""
    kills_before: int | None = field(default_factory=oom_kills)

    def take(self, pid: int) -> None:
        """Look at the process once more; nothing is seen of one that has ended."""
        import psutil

        with suppress(psutil.Error):
            process = psutil.Process(pid)
            with process.oneshot():
                self.peak = max(self.peak, int(process.memory_info().rss))
                times = process.cpu_times()
                self.processor = times.user + times.system
            free = int(psutil.virtual_memory().available)
            self.least_free = free if self.least_free is None else min(self.least_free, free)

    def __str__(self) -> str:
        free = "" if self.least_free is None else f" when {format_bytes(self.least_free)} were free"
        return f"it had used {format_bytes(self.peak)} of memory{free}"

    def speak_of_memory(self, total: int, kills: int | None) -> bool:
        """Whether a process that was killed with SIGKILL was most likely killed for memory.

        Args:
            total: Memory of the machine or of the control group, bytes.
            kills: What :func:`oom_kills` says now.
        """
        if kills is not None and self.kills_before is not None and kills > self.kills_before:
            return True
        if not self.peak or self.least_free is None:
            return True  # nothing was seen of it: the usual cause
        return self.peak > LARGE * total or self.least_free < SCARCE * total
