"""Real distributions in a temporary folder on ``sys.path``: metadata, entry points, modules."""

from __future__ import annotations

import importlib
import sys
import textwrap
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest
from stevedore import ExtensionManager

from eventbus_core import loading

BACKEND = """
    from eventbus_core.backend import Backend, BackendSettings
    from pydantic import Field, SecretStr, model_validator
    from urllib.parse import urlsplit

    class {prefix}Settings(BackendSettings):
        url: str = Field(default="", repr=False)
        password: SecretStr | None = None
        size: int = 1
        mode: str = "a"
        hosts: tuple[str, ...] = ()
        options: dict[str, str] = {{}}
        tls: bool = False
        check: bool = False

        @model_validator(mode="after")
        def _port(self):
            if self.check:
                urlsplit(self.url).port
            return self

        @classmethod
        def fields_of_url(cls, url):
            return {{"url": url, "tls": url.split(":")[0].endswith("+tls")}}

    class {prefix}Backend(Backend[{prefix}Settings]):
        name = "{name}"
        api_version = {api_version}
        settings_type = {prefix}Settings
        def producer(self, *, max_records, max_bytes): ...
        def consumer(self, group): ...
        def admin(self): ...
        def close(self): ...
"""


class Distributions:
    """Installs distributions until the test ends."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self._monkeypatch = monkeypatch
        # stevedore remembers entry points per process, and would per machine.
        monkeypatch.setattr(ExtensionManager, "ENTRY_POINT_CACHE", {})

    def install(
        self,
        name: str,
        entry_points: Mapping[str, str],
        modules: Mapping[str, str] | None = None,
        *,
        version: str = "1.0",
    ) -> None:
        site = self._folder / name
        info = site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        lines = [f"{entry} = {target}" for entry, target in entry_points.items()]
        (info / "entry_points.txt").write_text("\n".join([f"[{loading.GROUP}]", *lines, ""]))
        for module, source in (modules or {}).items():
            (site / f"{module}.py").write_text(textwrap.dedent(source))
            self._monkeypatch.delitem(sys.modules, module, raising=False)
        self._monkeypatch.syspath_prepend(str(site))
        importlib.invalidate_caches()
        ExtensionManager.ENTRY_POINT_CACHE.clear()

    def install_backend(self, name: str, *, api_version: object = 1, version: str = "1.0") -> None:
        """A backend that loads, in a distribution ``eventbus-<name>``."""
        module = f"eventbus_fake_{name}"
        source = BACKEND.format(prefix=name.capitalize(), name=name, api_version=api_version)
        self.install(
            f"eventbus-{name}", {name: f"{module}:{name.capitalize()}Backend"}, {module: source}, version=version
        )

    def install_core(self) -> None:
        """What eventbus-core itself declares, where the tests run from a checkout that is not installed."""
        if "memory" in loading.names():
            return
        project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
        self.install("eventbus-core", project["entry-points"][loading.GROUP], version=project["version"])
