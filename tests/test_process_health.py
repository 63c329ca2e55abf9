"""Health of a worker process: the file, the endpoints and the probe command."""

import json
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from eventbus_core.cli import main
from eventbus_core.errors import UsageError
from eventbus_core.process.health import STALE_SECONDS, Health, HealthFile, HealthServer, read
from tests.waiting import wait_until


def test_the_file_follows_the_state_and_goes_with_the_process(tmp_path: Path) -> None:
    path = tmp_path / "health.json"
    state = [Health(alive=True, ready=False)]
    with HealthFile(path, lambda: state[0]):
        assert read(path) == (True, False)
        state[0] = Health(alive=True, ready=True)
        wait_until(lambda: read(path).ready, 5, what="the file says ready")
    assert not path.exists()
    assert read(path) == (False, False)


def test_a_file_that_nobody_renews_is_dead(tmp_path: Path) -> None:
    path = tmp_path / "health.json"
    path.write_text(json.dumps({"alive": True, "ready": True, "at": time.time() - STALE_SECONDS - 1}))
    assert read(path) == (False, False)
    path.write_text("{")
    assert read(path) == (False, False)


def test_a_place_that_cannot_be_written_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"health file .* cannot be written"):
        HealthFile(tmp_path / "no" / "health.json", lambda: Health(alive=True, ready=True)).__enter__()


def test_the_probe_command_exits_by_the_state(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "health.json"
    with HealthFile(path, lambda: Health(alive=True, ready=False)):
        assert main(["health", str(path)]) == 0
        assert main(["health", str(path), "--ready"]) == 1
    assert main(["health", str(path)]) == 1
    assert "alive, not ready" in capsys.readouterr().out
    assert main(["health", str(path), "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {"alive": False, "ready": False}


def _get(port: int, path: str) -> tuple[int, dict[str, bool]]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        body = error.read()
        error.close()
        return error.code, json.loads(body) if body.startswith(b"{") else {}


def test_the_endpoints_answer_200_or_503() -> None:
    state = [Health(alive=True, ready=False)]
    with HealthServer(0, lambda: state[0], host="127.0.0.1") as server:
        assert _get(server.port, "/live") == (200, {"alive": True, "ready": False})
        assert _get(server.port, "/ready")[0] == 503
        state[0] = Health(alive=True, ready=True)
        assert _get(server.port, "/ready?verbose=1")[0] == 200
        assert _get(server.port, "/")[0] == 404
        with pytest.raises(UsageError, match=f"health port {server.port} cannot be opened"):
            HealthServer(server.port, lambda: state[0], host="127.0.0.1")
