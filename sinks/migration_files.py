"""The migrations that this code ships: `NNNN_name.up.sql` and `NNNN_name.down.sql` in `sinks/migrations`.

A file begins with lines `-- key: value`:

- `blocking`: `no`, `inserts`, or `reads and inserts`; who waits while the statements run.
- `rewrites`: the tables whose parts are written anew, so that the time grows with the rows. Without it, metadata only.
- `loses`: of a down, what is deleted with it. Without it, nothing is.

Statements end with a semicolon at the end of a line, and are written so that running one again does no harm.
"""

import hashlib
import importlib.resources
import re
from dataclasses import dataclass
from functools import cache
from typing import Literal

Way = Literal["up", "down"]

BLOCKING = ("no", "inserts", "reads and inserts")

_FILE = re.compile(r"^(?P<version>\d{4})_(?P<name>\w+)\.up\.sql$")
_HEADER = re.compile(r"-- (?P<key>blocking|rewrites|loses): (?P<value>.+)")


@dataclass(frozen=True, slots=True)
class Script:
    """One way of a migration. rewrites: tables. loses: in words, empty for nothing. The rest is as in the file."""

    statements: tuple[str, ...]
    blocking: str
    rewrites: tuple[str, ...]
    loses: str

    @property
    def about(self) -> str:
        """What it costs those who use the store, for people."""
        blocks = "blocks nothing" if self.blocking == "no" else f"blocks {self.blocking}"
        work = f"rewrites parts of {', '.join(self.rewrites)}" if self.rewrites else "metadata only"
        return f"{blocks}; {work}" + (f"; deletes {self.loses}" if self.loses else "")


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema. checksum: of the file `up`, to notice one that was changed later."""

    version: int
    name: str
    up: Script
    down: Script
    checksum: str

    @property
    def label(self) -> str:
        """As the files are called."""
        return f"{self.version:04}_{self.name}"

    def script(self, way: Way) -> Script:
        """Its one way or the other."""
        return self.up if way == "up" else self.down


@cache
def migrations() -> tuple[Migration, ...]:
    """All migrations that this code ships, in order."""
    folder = importlib.resources.files("sinks") / "migrations"
    found = []
    for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if match := _FILE.match(file.name):
            up = file.read_text(encoding="utf-8")
            down = (folder / file.name.replace(".up.sql", ".down.sql")).read_text(encoding="utf-8")
            checksum = hashlib.sha256(up.encode()).hexdigest()
            found.append(Migration(int(match["version"]), match["name"], parse(up), parse(down), checksum))
    return tuple(found)


def parse(sql: str) -> Script:
    """The script that a file holds. Raises ValueError if its header does not say whether it blocks."""
    header: dict[str, str] = {}
    for line in sql.splitlines():
        match = _HEADER.fullmatch(line)
        if match is None:
            break
        header[match["key"]] = match["value"]
    blocking = header.get("blocking", "")
    if blocking not in BLOCKING:
        raise ValueError(f"the first line must be '-- blocking: ' and one of {', '.join(BLOCKING)}; found {blocking!r}")
    rewrites = tuple(table.strip() for table in header.get("rewrites", "").split(",") if table.strip())
    return Script(_statements(sql), blocking, rewrites, header.get("loses", ""))


def _statements(sql: str) -> tuple[str, ...]:
    code = "\n".join(line for line in sql.splitlines() if not line.lstrip().startswith("--"))
    return tuple(s.strip() for s in re.split(r";\s*(?:\n|$)", code) if s.strip())
