"""How busy the machine is."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Load:
    """Processor time since the machine started, in clock ticks. share: that was busy, from 0 to 1."""

    busy: int
    total: int

    @property
    def share(self) -> float:
        """The busy part."""
        return self.busy / self.total

    def since(self, before: "Load") -> "Load":
        """What came after another reading."""
        return Load(self.busy - before.busy, self.total - before.total)


def load() -> Load:
    """A reading, from proc(5): user, nice, system, idle, iowait, irq, softirq, steal."""
    ticks = [int(part) for part in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return Load(sum(ticks) - ticks[3] - ticks[4], sum(ticks))


def processor_seconds(pid: int) -> float:
    """Processor time that a process has had, from proc(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
