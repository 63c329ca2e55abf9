"""Histories made by hand: each call appends a line, one second after the last."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

from eventbus_conformance.checker import Expectations, Verdict, begin, judge

SHA = "5" * 64


class Made:
    """Records are named key/kseq; each lies at position kseq of the partition that its key names: "a" 0, "b" 1."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.clock = 0.0
        self.group = "g"

    def line(self, event: str, by: str, **fields: Any) -> Self:
        self.clock += 1
        self.lines.append({"event": event, "by": by, "pid": 1, "at": self.clock, **fields})
        return self

    def invoke(self, *ids: str) -> Self:
        for each in ids:
            self.line("send-invoke", "sender", topic="t", id=each, key=key(each), kseq=kseq(each), sha256=SHA)
        return self

    def sent(self, *ids: str) -> Self:
        for each in ids:
            self.invoke(each).line("send-ok", "sender", id=each, **place(each))
        return self

    def failed(self, *ids: str) -> Self:
        for each in ids:
            self.invoke(each).line("send-failed", "sender", id=each, error="no")
        return self

    def unknown(self, *ids: str) -> Self:
        for each in ids:
            self.invoke(each).line("send-unknown", "sender", id=each, error="?")
        return self

    def join(self, member: str, *partitions: int, start: str = "earliest") -> Self:
        self.line("join", member, group=self.group, start=start)
        self.line("ready", member, group=self.group)
        return self.holds(member, *partitions)

    def holds(self, member: str, *partitions: int) -> Self:
        return self.line("holds", member, group=self.group, partitions=[["t", each] for each in partitions])

    def deliver(self, member: str, *ids: str, **changed: Any) -> Self:
        for each in ids:
            told = {"id": each, "key": key(each), "kseq": kseq(each), "sha256": SHA, **place(each), **changed}
            self.line("deliver", member, group=self.group, **told)
        return self

    def start(self, member: str, each: str, **changed: Any) -> Self:
        return self.line("handle-start", member, group=self.group, **{"id": each, **place(each), **changed})

    def end(self, member: str, each: str, **changed: Any) -> Self:
        return self.line("handle-end", member, group=self.group, **{"id": each, **place(each), **changed})

    def fail(self, member: str, each: str) -> Self:
        return self.line("handle-failed", member, group=self.group, id=each, **place(each))

    def handled(self, member: str, *ids: str) -> Self:
        """Handle what was delivered."""
        for each in ids:
            self.start(member, each).end(member, each)
        return self

    def ack(self, member: str, *ids: str, durable: bool = True) -> Self:
        for each in ids:
            of = {"group": self.group, "topic": "t", "partition": partition(each), "positions": [str(kseq(each))]}
            self.line("ack-invoke", member, **of)
            if durable:
                self.line("ack-ok", member, **of)
        return self

    def took(self, member: str, *ids: str) -> Self:
        """Deliver, handle and ack durably."""
        for each in ids:
            self.deliver(member, each).handled(member, each).ack(member, each)
        return self

    def fault(self, kind: str, *members: str, number: str = "f", everybody: bool = False) -> Self:
        return self.line("fault-begin", "test", fault=number, kind=kind, members=None if everybody else list(members))

    def healed(self, seen: int = 1, number: str = "f") -> Self:
        return self.line("fault-end", "test", fault=number, seen=seen)

    def killed(self, *members: str, number: str = "f") -> Self:
        return self.fault("kill", *members, number=number).healed(number=number)

    def read_back(self, *ids: str, **changed: Any) -> Self:
        for each in ids:
            told = {"id": each, "key": key(each), "kseq": kseq(each), "sha256": SHA, **place(each), **changed}
            self.line("stored", "test", **told)
        return self.line("read-back", "test", topic="t")

    def drained(self, lag: int = 0) -> Self:
        return self.line("drained", "test", group=self.group, lag=lag)

    def judged(self, folder: Path, **expected: Any) -> Verdict:
        return judge(self.written(folder, **expected))

    def written(self, folder: Path, **expected: Any) -> Path:
        path = folder / "history.jsonl"
        begin(path, Expectations(**expected))
        with path.open("a") as file:
            file.writelines(json.dumps(each) + "\n" for each in self.lines)
        return path


def ids(key: str, first: int, last: int) -> list[str]:
    return [f"{key}/{number}" for number in range(first, last + 1)]


def key(name: str) -> str:
    return name.split("/", maxsplit=1)[0]


def kseq(name: str) -> int:
    return int(name.split("/")[1])


def partition(name: str) -> int:
    return ord(name[0]) - ord("a")


def place(name: str) -> dict[str, Any]:
    return {"topic": "t", "partition": partition(name), "position": str(kseq(name))}
