import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def test_the_quickstart_runs_in_memory(tmp_path):
    (code,) = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
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
