"""Check containers and manifests: `python -m deploy.check [--no-programs]`. Exit status 1 if anything is wrong."""

import argparse
import sys

from rich.console import Console

from deploy.check import compose, images, kubernetes, programs
from deploy.check.documents import compose as project
from deploy.check.documents import some_variables
from deploy.check.fetch import missing
from deploy.check.report import Report


def main() -> int:
    """Run all checks and print them."""
    options = argparse.ArgumentParser(prog="python -m deploy.check", description=__doc__)
    options.add_argument("--no-programs", action="store_true", help="only files: start nothing")
    chosen = options.parse_args()
    report = Report()
    images.check(report)
    found: dict[str, set[str]] = {}
    if reason := missing("compose"):
        report.skip(compose.SUBJECT, "all", reason)
    else:
        compose.check(report)
        for profile in compose.PROFILES:
            services = project(some_variables(), profile)["services"]
            found[f"compose {profile}"] = {service["image"] for service in services.values()}
    if reason := missing("kustomize"):
        report.skip("k8s", "all", reason)
    else:
        for overlay, manifests in kubernetes.check(report).items():
            found[overlay] = {image for document in manifests.documents for image in images.of_manifest(document)}
    with report.checking("images", "the same versions everywhere, and those that are tested") as mistakes:
        mistakes.extend(images.versions(found))
    if not chosen.no_programs:
        programs.check(report)
    report.show(Console(width=None if sys.stdout.isatty() else 160))
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
