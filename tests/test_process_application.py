"""Finding the bus of an application by MODULE:NAME."""

from pathlib import Path

import pytest

from eventbus_core.errors import UsageError
from eventbus_core.process.application import load_bus

_MODULE = """
from eventbus_core import EventBus
bus = EventBus("memory://")
number = 3
class Holder:
    inner = bus
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_the_bus_of_a_module_in_the_current_directory(here: Path) -> None:
    (here / "shop_found.py").write_text(_MODULE)
    assert load_bus("shop_found:bus") is load_bus("shop_found:Holder.inner")


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("shop_wrong", "is not MODULE:NAME"),
        ("shop_wrong:", "is not MODULE:NAME"),
        ("shop_missing:bus", "there is no module 'shop_missing'"),
        ("shop_wrong.inner:bus", "there is no module 'shop_wrong.inner'"),
        ("shop_wrong:buss", "it has shop_wrong:bus"),
        ("shop_wrong:number", r"is no EventBus \(int\)"),
        ("shop_broken:bus", "importing 'shop_broken' failed: ZeroDivisionError.*shop_broken.py, line 1"),
        ("shop_needs:bus", "importing 'shop_needs' failed: ModuleNotFoundError.*nowhere_to_be_found"),
    ],
)
def test_what_is_wrong_is_named(here: Path, target: str, said: str) -> None:
    (here / "shop_wrong.py").write_text(_MODULE)
    (here / "shop_broken.py").write_text("1 / 0\n")
    (here / "shop_needs.py").write_text("import nowhere_to_be_found\n")
    with pytest.raises(UsageError, match=said):
        load_bus(target)
