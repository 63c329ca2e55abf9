"""What operators ask of a bus, and the clauses that show it."""

from __future__ import annotations

import re
from typing import Final, Literal, NamedTuple, TypeAlias

from eventbus_conformance.reports import Report
from eventbus_core.capabilities import Durability, Reach

Answer: TypeAlias = Literal["yes", "no", "not shown"]


class Need(NamedTuple):
    """Met where all its clauses pass, and where the capability has one of the values, if any is named."""

    id: str
    text: str
    clauses: tuple[str, ...]
    capability: str = ""
    values: tuple[str, ...] = ()


class Met(NamedTuple):
    """Whether a backend meets a need, and why where it does not."""

    answer: Answer
    reason: str


DURABLE: Final = (Durability.PROCESS.value, Durability.HOST.value, Durability.REPLICATED.value)
NEEDS: Final = (
    Need("hosts", "Services on several machines share topics", ("P6",), "reach", (Reach.NETWORK.value,)),
    Need("sigkill", "What is stored survives a SIGKILL of the broker", ("F2",), "durability", DURABLE),
    Need("power", "What is stored survives a power cut of the broker's machine", ("F9",), "durability", DURABLE[1:]),
    Need("failover", "A node of the broker's cluster fails, and nothing that is stored goes with it", ("F10",)),
    Need("network", "Network cuts lose nothing and reorder nothing", ("F3", "O5")),
    Need("members", "Killed members lose nothing and reorder nothing", ("F1", "F5")),
    Need("frozen", "A frozen member that comes back does no harm", ("D9", "F6")),
    Need("deploys", "Members come and go without anything being handled twice", ("G7",)),
    Need("once", "A lost reply never stores a record twice", ("D11",)),
    Need("outbox", "What a handler publishes and the ack of its event are stored together", ("W10",)),
    Need("time", "Seek by time", ("G6",)),
    Need("retention", "Retention keeps what a group has not settled", ("D13",)),
    Need("gaps", "Records that vanish unsettled are told", ("D12",)),
    Need("counted", "Deliveries of a record are counted across members", ("P5",)),
)


_TEST: Final = re.compile(r"^\S+\.py::\w+(\[.*?\])?: ")
"""Where a reason names the test that gave it."""


def met(need: Need, report: Report) -> Met:
    """Whether a report shows that a need is met. What was not proven is not shown, which is no yes."""
    if need.capability and report.value(need.capability) not in need.values:
        return Met("no", f"{need.capability} is {report.value(need.capability)}")
    told = {each: report.told(each) for each in need.clauses}
    for answer, outcomes in _ANSWERS:
        for clause, (outcome, reason) in told.items():
            if outcome in outcomes:
                return Met(answer, f"{clause} {outcome or 'not run'}: {_TEST.sub('', reason)}")
    return Met("yes", "")


_ANSWERS: Final[tuple[tuple[Answer, frozenset[str | None]], ...]] = (
    ("no", frozenset({"fail", "known failure", "refused as declared"})),
    ("not shown", frozenset({"unknown", "not proven", None})),
)
