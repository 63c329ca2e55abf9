"""A backend that is installed for one run of pytest: the memory backend, with what a test changes in it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

MODULE = """
    import dataclasses
    from eventbus_conformance.harness import Bounds, KnownFailure, NoBroker
    from eventbus_conformance.memory_harness import MemoryHarness
    from eventbus_core.memory import MemoryBackend, MemorySettings
    from eventbus_core.records import Stored

    class AcmeBackend(MemoryBackend):
        name = "acme"
        capabilities = dataclasses.replace(MemoryBackend.capabilities, {capabilities})

    class AcmeHarness(MemoryHarness):
        backend = "acme"
        profiles = {{"plain": "as it comes", "other": "otherwise"}}
        bounds = Bounds(quiet=0.1)
        known_failures = [{known_failures}]
        def up(self):
            {up}
        def url(self):
            return "acme://conformance?create_topics=false"
"""

ENTRY_POINTS = """[eventbus.backends]
acme = acme:AcmeBackend
[eventbus.conformance]
acme = acme:AcmeHarness
"""


class Acme:
    """Installs the backend in a folder of its own, and runs pytest there as its author would."""

    def __init__(self, folder: Path) -> None:
        self.site = folder / "site"
        self.work = folder / "work"
        self.work.mkdir()
        info = self.site / "acme-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(ENTRY_POINTS)
        self.write()

    def write(self, *, capabilities: str = "", known_failures: str = "", up: str = "pass", more: str = "") -> None:
        """Write the module anew."""
        module = textwrap.dedent(MODULE).format(capabilities=capabilities, known_failures=known_failures, up=up)
        (self.site / "acme.py").write_text(module + textwrap.dedent(more))

    def pytest(
        self, *arguments: str, suite: bool = True, backend: bool | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run pytest: the suite, or what is in ``work``; ``backend``: name this one (by default to the suite)."""
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
        command += ["--pyargs", "eventbus_conformance"] if suite else []
        command += ["--eventbus-backend", "acme"] if (suite if backend is None else backend) else []
        # stevedore's cache in the user's home would remember this backend.
        environment = {**os.environ, "PYTHONPATH": str(self.site), "XDG_CACHE_HOME": str(self.site / "cache")}
        return subprocess.run(
            [*command, *arguments],
            cwd=self.work,
            env=environment,
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
