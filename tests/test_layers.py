"""Imports point downwards, core knows no client library, backends know the plugin interface and their client only."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.layers import violations_of_backend, violations_of_core

_ROOT = Path(__file__).parents[1]
_BACKENDS = sorted(path for path in _ROOT.glob("backends/*/eventbus_*") if path.is_dir())


def test_core_keeps_its_layers() -> None:
    assert violations_of_core(_ROOT / "eventbus_core") == []


def test_there_are_backends_to_look_at() -> None:
    assert [path.name for path in _BACKENDS] == ["eventbus_kafka", "eventbus_pulsar", "eventbus_redis"]


@pytest.mark.parametrize("root", _BACKENDS, ids=lambda path: path.name)
def test_a_backend_knows_the_plugin_interface_and_its_client_only(root: Path) -> None:
    assert violations_of_backend(root) == []


def _package(folder: Path, name: str, module: str, source: str) -> Path:
    root = folder / name
    path = root / module
    path.parent.mkdir(parents=True)
    path.write_text(source)
    return root


@pytest.mark.parametrize(
    ("module", "source", "message"),
    [
        ("records.py", "import confluent_kafka", "imports confluent_kafka"),
        ("bus.py", "def f():\n    from sqlalchemy.orm import Session", "imports sqlalchemy.orm"),
        ("bus.py", "import opentelemetry.trace", "imports opentelemetry.trace"),
        ("bus.py", "import rich", "imports rich"),
        (
            "records.py",
            "from eventbus_core.errors import X\nfrom eventbus_core.bus import Y",
            "upwards: eventbus_core.bus",
        ),
        ("records.py", "from eventbus_core import bus", "upwards: eventbus_core.bus"),
        ("backend/leases.py", "from ..envelope import encode", "upwards: eventbus_core.envelope"),
        ("events.py", "from . import settings", "upwards: eventbus_core.settings"),
        ("consumer.py", "import eventbus_core.brand_new", "upwards: eventbus_core.brand_new"),
        ("utils.py", "", "no place in CORE_LAYERS"),
        ("memory/store.py", "import eventbus_redis", "imports eventbus_redis"),
    ],
)
def test_a_violation_in_core_is_found(tmp_path: Path, module: str, source: str, message: str) -> None:
    found = violations_of_core(_package(tmp_path, "eventbus_core", module, source))
    assert len(found) == 1
    assert message in found[0]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import eventbus_kafka.producer", "imports eventbus_kafka.producer"),
        ("import confluent_kafka", "imports confluent_kafka"),
        ("from eventbus_core.envelope import decode", "knows eventbus_core.envelope"),
        ("from eventbus_core import EventBus", "knows eventbus_core.EventBus"),
        ("if True:\n    import requests", "imports requests"),
        ("from eventbus_conformance.harness import Harness", "imports eventbus_conformance.harness"),
    ],
)
def test_a_violation_in_a_backend_is_found(tmp_path: Path, source: str, message: str) -> None:
    found = violations_of_backend(_package(tmp_path, "eventbus_redis", "inner/deep.py", source))
    assert len(found) == 1
    assert message in found[0]


def test_what_is_allowed_is_not_reported(tmp_path: Path) -> None:
    source = "import json, redis.exceptions\nfrom eventbus_core.backend.leases import Beat\nfrom . import scripts"
    assert violations_of_backend(_package(tmp_path, "eventbus_redis", "consumer.py", source)) == []
    assert (
        violations_of_core(_package(tmp_path, "eventbus_core", "bus.py", "from eventbus_core.events import Event"))
        == []
    )
