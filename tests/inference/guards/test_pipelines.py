"""The example pipelines, one a family of guards."""

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from inference.operators.guard import GuardSettings

FOLDER = Path(__file__).parents[3] / "deploy" / "pipelines" / "guards"
FILES = sorted(FOLDER.glob("*.yaml"))


def judge(file: Path) -> dict[str, Any]:
    (stage,) = YAML(typ="safe").load(file.read_text(encoding="utf-8"))["stages"]
    section: dict[str, Any] = stage["judge"]
    return section


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_settings_are_right(file: Path) -> None:
    settings = GuardSettings.model_validate(judge(file))
    assert settings.guard.startswith(file.stem)


def test_every_family_has_one() -> None:
    assert [file.stem for file in FILES] == ["gpt-oss-safeguard", "llama-guard-3", "qwen3guard", "shieldgemma"]
