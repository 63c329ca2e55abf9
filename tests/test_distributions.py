"""The distributions of this repository: one version, typed, and dependent on each other exactly."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
CORE = ROOT / "pyproject.toml"
OTHERS = [*sorted((ROOT / "backends").glob("*/pyproject.toml")), ROOT / "conformance_tests" / "pyproject.toml"]


def project(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    return found


@pytest.mark.parametrize("path", [CORE, *OTHERS], ids=lambda path: path.parent.name)
def test_all_have_one_version_one_python_and_type_information(path: Path) -> None:
    core, own = project(CORE), project(path)
    assert own["version"] == core["version"]
    assert own["requires-python"] == core["requires-python"] == ">=3.11"
    assert own["license"] == "Apache-2.0"
    assert (path.parent / own["name"].replace("-", "_") / "py.typed").exists()
    ours = [each for each in own["dependencies"] if each.startswith("eventbus-")]
    assert all(re.fullmatch(rf"eventbus-[a-z]+=={core['version']}", each) for each in ours), ours


def test_an_extra_of_core_installs_each_backend() -> None:
    core = project(CORE)
    backends = {project(path)["name"] for path in OTHERS if path.parent.parent.name == "backends"}
    assert len(backends) == 3
    extras = {name for extra in core["optional-dependencies"].values() for name in extra}
    assert {f"{name}=={core['version']}" for name in backends} <= extras


def test_a_backend_adds_its_client_only() -> None:
    added = {
        project(path)["name"]: sorted(
            re.split(r"[\[=>~<]", each)[0]
            for each in project(path)["dependencies"]
            if not each.startswith("eventbus-core")
        )
        for path in OTHERS
        if path.parent.parent.name == "backends"
    }
    assert added == {
        "eventbus-kafka": ["confluent-kafka"],
        "eventbus-pulsar": ["httpx", "pulsar-client"],
        "eventbus-redis": ["redis"],
    }
