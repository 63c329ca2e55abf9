"""Log lines of ``eventbus run``: one sentence for people, or JSON with stable field names for machines."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Literal

#: What the worker says beside the sentence; a contract for whoever collects the lines.
FIELDS = (
    "group",
    "topic",
    "partition",
    "position",
    "event_id",
    "event_type",
    "key",
    "attempt",
    "delay_seconds",
    "handler",
    "error",
    "error_type",
    "worker",
    "exit_code",
)

LogFormat = Literal["text", "json"]


def fields_of(line: logging.LogRecord) -> dict[str, Any]:
    """The fields of ours that a line carries."""
    return {name: value for name in FIELDS if (value := getattr(line, name, None)) is not None}


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, pid, message, then the fields that apply."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "message": record.getMessage(),
            **fields_of(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def set_up(log_format: LogFormat, level: str) -> None:
    """Send all log lines of this process to stderr, unless the application has set up logging itself."""
    root = logging.getLogger()
    root.setLevel(level.upper())
    if level != "debug":
        logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for each request of the Pulsar backend
    if root.handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    if log_format == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    root.addHandler(handler)
