import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def test_the_quickstart_runs_in_memory(tmp_path):
    code, *_ = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    script = tmp_path / "quickstart.py"
    script.write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    stored, *handled = done.stdout.splitlines()
    assert "topic='orders'" in stored
    assert handled == [f"shop.order.placed ada {number}" for number in range(3)]
    assert done.stderr == ""


def test_the_commands_named_exist():
    root = README.parent
    text = README.read_text(encoding="utf-8")
    assert "tools/test" in text
    assert (root / "tools" / "test").stat().st_mode & 0o111
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (root / link).exists(), link


def test_the_architecture_names_every_module_of_core_and_nothing_else():
    root = README.parent
    files = (root / "docs" / "architecture.md").read_text(encoding="utf-8").partition("## Files")[2]
    core = root / "eventbus_core"
    named = set(re.findall(r"[\w*]+\.py|\w+/", files.partition("backends/ ")[0]))
    there = {each.name for each in core.glob("*.py") if each.name != "__init__.py"}
    there |= {f"{each.parent.name}/" for each in core.glob("*/__init__.py")}
    assert {each for each in there if each not in named and not each.startswith("setting_")} == set()
    inside = {each.name for each in core.rglob("*.py")}
    assert {each for each in named if each.endswith(".py") and "*" not in each} <= inside
