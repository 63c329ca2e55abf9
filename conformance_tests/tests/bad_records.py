"""Hand-made histories in which records are lost, invented or changed; each with the promise that it breaks."""

from __future__ import annotations

from conformance_tests.tests.good_histories import good, two_members
from conformance_tests.tests.made import Made, ids
from eventbus_conformance.checker import Kind


def in_group_h(made: Made) -> Made:
    made.group = "h"
    return made


BAD_RECORDS = {
    "never delivered": (Kind.LOST, two_members().took("m1", *ids("a", 0, 4)).took("m2", *ids("b", 0, 5)).drained()),
    "left out in the middle, never delivered": (
        Kind.LOST,
        two_members().took("m1", "a/0", "a/1", "a/3", "a/4", "a/5").took("m2", *ids("b", 0, 5)).drained(),
    ),
    "of unknown outcome, delivered to another group only": (
        Kind.LOST,
        in_group_h(Made().unknown("a/0").sent("a/1").join("m1", 0).took("m1", "a/0", "a/1").drained())
        .join("m2", 0)
        .took("m2", "a/1")
        .drained(),
    ),
    "sent after a group was ready at the end, and missed": (
        Kind.LOST,
        Made().sent("a/0").join("m1", 0, start="latest").sent("a/1", "a/2").took("m1", "a/2").drained(),
    ),
    "reported stored, and not in the log": (Kind.LOST, good().read_back(*ids("a", 0, 5), *ids("b", 0, 4))),
    "in the log, and not delivered": (
        Kind.LOST,
        Made().sent("a/0").unknown("a/1").join("m1", 0).took("m1", "a/0").read_back("a/0", "a/1").drained(),
    ),
    "in the log, and never sent": (Kind.PHANTOM, good().read_back(*ids("a", 0, 6), *ids("b", 0, 5))),
    "in the log, and reported failed": (
        Kind.ABORTED,
        Made().sent("a/0").failed("a/1").join("m1", 0).took("m1", "a/0").read_back("a/0", "a/1").drained(),
    ),
    "twice in the log": (
        Kind.STORED_TWICE,
        good().read_back(*ids("a", 0, 5), *ids("b", 0, 5)).read_back("a/2", position="6"),
    ),
    "in another order in the log": (
        Kind.REORDERED,
        Made().sent("a/0", "a/1").join("m1", 0).took("m1", "a/0", "a/1").read_back("a/1", "a/0").drained(),
    ),
    "never sent": (Kind.PHANTOM, good().took("m1", "a/6").drained()),
    "without a number": (
        Kind.PHANTOM,
        good().deliver("m1", "a/6", id=None).start("m1", "a/6", id=None).end("m1", "a/6", id=None).drained(),
    ),
    "delivered from another topic": (
        Kind.PHANTOM,
        Made()
        .sent("a/0", "a/1")
        .join("m1", 0)
        .took("m1", "a/0")
        .deliver("m1", "a/1", topic="u")
        .start("m1", "a/1", topic="u")
        .end("m1", "a/1", topic="u")
        .drained(),
    ),
    "reported failed, and delivered": (
        Kind.ABORTED,
        Made().sent("a/0").failed("a/1").sent("a/2").join("m1", 0).took("m1", *ids("a", 0, 2)).drained(),
    ),
    "another value": (
        Kind.CORRUPT,
        Made().sent("a/0").join("m1", 0).deliver("m1", "a/0", sha256="6" * 64).handled("m1", "a/0").drained(),
    ),
    "another key": (
        Kind.CORRUPT,
        Made().sent("a/0").join("m1", 0).deliver("m1", "a/0", key="b").handled("m1", "a/0").drained(),
    ),
    "delivered and never handled": (
        Kind.HOLE,
        two_members().deliver("m1", "a/0").took("m1", *ids("a", 1, 5)).took("m2", *ids("b", 0, 5)).drained(),
    ),
    "begun by a killed member and left": (
        Kind.HOLE,
        two_members()
        .deliver("m1", "a/0")
        .start("m1", "a/0")
        .killed("m1")
        .holds("m2", 0, 1)
        .took("m2", *ids("a", 1, 5), *ids("b", 0, 5))
        .ack("m1", "a/0")
        .drained(),
    ),
}
