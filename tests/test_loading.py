"""Backends are found by name, and each of five failures says what to do. With real distributions in a folder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from eventbus_core.errors import LoadError
from eventbus_core.loading import installed, load
from eventbus_core.memory import MemoryBackend
from tests.distributions import Distributions


@pytest.fixture
def distributions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Distributions:
    found = Distributions(tmp_path, monkeypatch)
    found.install_core()
    return found


def failure(name: str) -> LoadError:
    with pytest.raises(LoadError) as caught:
        load(name)
    assert caught.value.backend == name
    return caught.value


def test_memory_loads(distributions: Distributions) -> None:
    assert load("memory") is MemoryBackend


def test_a_backend_of_another_distribution_loads(distributions: Distributions) -> None:
    distributions.install_backend("lemon")
    assert load("lemon").name == "lemon"


def test_a_name_is_loaded_without_importing_the_other_backends(distributions: Distributions) -> None:
    distributions.install("broken", {"broken": "eventbus_fake_broken:X"}, {"eventbus_fake_broken": "raise OSError"})
    load("memory")
    assert "eventbus_fake_broken" not in sys.modules


def test_an_unknown_name_lists_what_is_installed_and_the_nearest(distributions: Distributions) -> None:
    error = failure("memroy")
    assert error.reason == "unknown"
    assert "no backend 'memroy'" in str(error)
    assert "memory" in str(error).split("did you mean")[0]
    assert "did you mean 'memory'?" in str(error)


@pytest.mark.parametrize("name", ["kafka", "pulsar", "redis"])
def test_a_known_backend_that_is_not_installed_comes_with_its_pip_line(
    name: str, distributions: Distributions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventbus_core.loading.entry_points", lambda **_: ())
    error = failure(name)
    assert error.reason == "unknown"
    assert str(error).endswith(f"pip install eventbus-{name}")


def test_a_missing_client_library_is_named_with_the_pip_line(distributions: Distributions) -> None:
    distributions.install(
        "eventbus-lemon", {"lemon": "eventbus_fake_lemon:X"}, {"eventbus_fake_lemon": "import lemon_client.core"}
    )
    error = failure("lemon")
    assert error.reason == "client_missing"
    assert "'lemon_client'" in str(error)
    assert str(error).endswith("pip install eventbus-lemon")
    assert isinstance(error.__cause__, ModuleNotFoundError)


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("raise RuntimeError('broken')", RuntimeError),
        ("assert False, 'broken'", AssertionError),
        ("import eventbus_fake_lemon.missing", ModuleNotFoundError),
        ("from eventbus_core.backend import NotThere", ImportError),
        ("Other = 1", AttributeError),
    ],
)
def test_any_other_failure_of_the_import_is_the_cause(
    source: str, cause: type[Exception], distributions: Distributions
) -> None:
    distributions.install("eventbus-lemon", {"lemon": "eventbus_fake_lemon:X"}, {"eventbus_fake_lemon": source})
    error = failure("lemon")
    assert error.reason == "import_failed"
    assert isinstance(error.__cause__, cause)
    assert "eventbus-lemon 1.0" in str(error)
    assert cause.__name__ in str(error)


@pytest.mark.parametrize("source", ["X = 5", "X = ()", "class X: api_version = 1"])
def test_an_entry_point_that_names_no_backend_is_refused(source: str, distributions: Distributions) -> None:
    distributions.install("eventbus-lemon", {"lemon": "eventbus_fake_lemon:X"}, {"eventbus_fake_lemon": source})
    error = failure("lemon")
    assert error.reason == "import_failed"
    assert "must name a subclass" in str(error)


@pytest.mark.parametrize(
    ("api_version", "upgrade"), [(0, "eventbus-lemon"), (99, "eventbus-core"), ("None", "eventbus-lemon")]
)
def test_a_version_mismatch_says_which_side_to_upgrade(
    api_version: object, upgrade: str, distributions: Distributions
) -> None:
    distributions.install_backend("lemon", api_version=api_version)
    error = failure("lemon")
    assert error.reason == "version_mismatch"
    assert str(error).endswith(f"pip install --upgrade {upgrade}")
    assert f"version {api_version} of the plugin interface" in str(error)


def test_two_distributions_with_one_name_are_both_named(distributions: Distributions) -> None:
    distributions.install_backend("lemon")
    distributions.install("other-lemon", {"lemon": "eventbus_fake_lemon:LemonBackend"}, version="2.5")
    error = failure("lemon")
    assert error.reason == "duplicate"
    assert "eventbus-lemon 1.0" in str(error)
    assert "other-lemon 2.5" in str(error)


def test_nobody_can_replace_memory_unnoticed(distributions: Distributions) -> None:
    distributions.install("impostor", {"memory": "eventbus_fake_lemon:LemonBackend"})
    assert failure("memory").reason == "duplicate"


def test_the_listing_shows_distribution_version_and_problem(distributions: Distributions) -> None:
    distributions.install_backend("lemon", version="3.1")
    distributions.install("eventbus-plum", {"plum": "eventbus_fake_plum:X"}, {"eventbus_fake_plum": "import plumlib"})
    listing = {one.name: one for one in installed()}
    assert listing["memory"].backend is MemoryBackend
    assert listing["memory"].distribution == "eventbus-core"
    assert (listing["lemon"].distribution, listing["lemon"].version) == ("eventbus-lemon", "3.1")
    assert listing["lemon"].backend is load("lemon")
    assert listing["lemon"].problem is None
    assert listing["plum"].backend is None
    assert "plumlib" in (listing["plum"].problem or "")
