"""Known vulnerabilities of the packages that requirements.lock pins, by pip-audit: `python -m deploy.audit`.

Exit status 1 if there are any; 0 if there are none, and also if the advisories could not be fetched, which is said.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

_LOCK = Path(__file__).resolve().parents[1] / "requirements.lock"
_SECONDS = 600
_LINES = 3


def main() -> int:
    """Run it; returns the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        argv = [
            "pip-audit",
            "--requirement",
            str(_LOCK),
            "--require-hashes",
            "--disable-pip",
            "--progress-spinner",
            "off",
        ]
        argv += ["--format", "json", "--output", str(report)]
        try:
            done = subprocess.run(argv, capture_output=True, text=True, timeout=_SECONDS, check=False)
        except (FileNotFoundError, subprocess.TimeoutExpired) as error:
            return _unknown(str(error))
        if not report.is_file() or not (text := report.read_text(encoding="utf-8")):
            return _unknown("\n".join(done.stderr.strip().splitlines()[-_LINES:]))
    packages = json.loads(text)["dependencies"]
    found = [(package, told) for package in packages for told in package.get("vulns", ())]
    for package, told in found:
        fixed = ", ".join(told.get("fix_versions", ())) or "no version"
        print(f"{package['name']} {package['version']}: {told['id']}, fixed in {fixed}")
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    if len(skipped) == len(packages):
        return _unknown(f"{packages[0]['skip_reason']}, and so all {len(packages)}" if packages else "no packages")
    print(f"{len(packages) - len(skipped)} packages checked, {len(found)} known vulnerabilities")
    if skipped:
        print(f"not checked: {', '.join(skipped)}")
    return 1 if found else 0


def _unknown(reason: str) -> int:
    print(f"NOT CHECKED: the advisories could not be had: {reason}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
