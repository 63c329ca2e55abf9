"""Hand-made histories that break no promise."""

from __future__ import annotations

from conformance_tests.tests.made import Made, ids


def two_members() -> Made:
    """Both at work, everything sent: a/0-5 in partition 0, b/0-5 in partition 1."""
    return Made().sent(*ids("a", 0, 5), *ids("b", 0, 5)).join("m1", 0).join("m2", 1)


def good() -> Made:
    return two_members().took("m1", *ids("a", 0, 5)).took("m2", *ids("b", 0, 5)).drained()


def kill_with_two_unacked() -> Made:
    """m1 is killed after it handled a/0-3, of which a/2 and a/3 were not acked; m2 takes over."""
    made = two_members().took("m1", "a/0", "a/1").deliver("m1", *ids("a", 2, 5)).handled("m1", "a/2", "a/3")
    made.ack("m1", "a/2", durable=False)
    return made.killed("m1").holds("m2", 0, 1).took("m2", *ids("b", 0, 5))


def freeze_with_one_in_progress() -> Made:
    """m1 is frozen while it handles a/1; m2 handles on from there."""
    made = two_members().took("m1", "a/0").deliver("m1", "a/1", "a/2", "a/3").start("m1", "a/1").fault("freeze", "m1")
    return made.holds("m2", 0, 1).took("m2", *ids("b", 0, 5)).took("m2", "a/1", "a/2")


GOOD = {
    "two members": good(),
    "a kill that repeats what was not acked": kill_with_two_unacked().took("m2", *ids("a", 2, 5)).drained(),
    "a kill whose last acks had arrived": kill_with_two_unacked().took("m2", *ids("a", 3, 5)).drained(),
    "a freeze with one handling in progress": (
        freeze_with_one_in_progress().healed().end("m1", "a/1").took("m2", *ids("a", 3, 5)).drained()
    ),
    "a freeze after the check of owned": (
        freeze_with_one_in_progress()
        .healed()
        .end("m1", "a/1")
        .handled("m1", "a/2")
        .took("m2", *ids("a", 3, 5))
        .drained()
    ),
    "a frozen member that is killed": (
        freeze_with_one_in_progress().healed().killed("m1", number="f2").took("m2", *ids("a", 3, 5)).drained()
    ),
    "a freeze that nobody noticed": (
        two_members()
        .took("m1", "a/0")
        .deliver("m1", "a/1", "a/2")
        .start("m1", "a/1")
        .fault("freeze", "m1")
        .healed()
        .end("m1", "a/1")
        .handled("m1", "a/2")
        .took("m1", *ids("a", 3, 5))
        .took("m2", *ids("b", 0, 5))
        .drained()
    ),
    "sendings that failed, and some of unknown outcome": (
        Made().sent("a/0").failed("a/1").unknown("a/2").invoke("a/3").unknown("a/4").sent("a/5").join("m1", 0)
    )
    .took("m1", "a/0", "a/2", "a/5")
    .drained(),
    "a handover without a fault": (
        two_members()
        .took("m1", "a/0", "a/1")
        .holds("m1")
        .holds("m2", 0, 1)
        .took("m2", *ids("a", 2, 5), *ids("b", 0, 5))
        .drained()
    ),
    "delivered before a handover, handled after it": (
        two_members().took("m1", "a/0").deliver("m1", "a/1", "a/2").holds("m1").holds("m2", 0, 1)
    )
    .took("m2", *ids("a", 1, 5), *ids("b", 0, 5))
    .drained(),
    "a group that was forgotten and gets everything again": (
        two_members()
        .took("m1", "a/0", "a/1")
        .fault("group-forgotten", everybody=True)
        .healed()
        .holds("m2", 0, 1)
        .took("m2", *ids("a", 0, 5), *ids("b", 0, 5))
        .drained()
    ),
    "a group that begins at the end": (
        Made().sent("a/0", "a/1").join("m1", 0, start="latest").sent("a/2", "a/3").took("m1", "a/2", "a/3").drained()
    ),
    "two kills, each repeating the same record": (
        two_members()
        .deliver("m1", "a/0")
        .handled("m1", "a/0")
        .killed("m1")
        .holds("m2", 0, 1)
        .deliver("m2", "a/0")
        .handled("m2", "a/0")
        .killed("m2", number="f2")
        .join("m3", 0, 1)
        .took("m3", *ids("a", 0, 5), *ids("b", 0, 5))
        .drained()
    ),
    "a retry in place": (
        two_members()
        .deliver("m1", "a/0")
        .start("m1", "a/0")
        .fail("m1", "a/0")
        .handled("m1", "a/0")
        .ack("m1", "a/0")
        .took("m1", *ids("a", 1, 5))
        .took("m2", *ids("b", 0, 5))
        .drained()
    ),
    "a log that holds what it should": (
        Made()
        .sent("a/0", "b/0")
        .failed("a/1")
        .unknown("a/2", "a/3")
        .join("m1", 0, 1)
        .took("m1", "a/0", "b/0", "a/3")
        .read_back("a/0", "a/3", "b/0")
        .drained()
    ),
    "a sending that met a full buffer": (
        Made().invoke("a/0").invoke("a/0").sent("a/0").join("m1", 0).took("m1", "a/0").drained()
    ),
    "a freeze after the check of owned, long overtaken": (
        two_members()
        .deliver("m1", "a/0", "a/1")
        .handled("m1", "a/0")
        .fault("freeze", "m1")
        .holds("m2", 0, 1)
        .deliver("m2", *ids("a", 0, 4))
        .handled("m2", *ids("a", 0, 4))
        .healed()
        .handled("m1", "a/1")
        .deliver("m2", "a/5")
        .handled("m2", "a/5")
        .took("m2", *ids("b", 0, 5))
        .drained()
    ),
    "one that failed for good and was acked": (
        Made()
        .sent("a/0", "a/1")
        .join("m1", 0)
        .deliver("m1", "a/0", "a/1")
        .start("m1", "a/0")
        .fail("m1", "a/0")
        .ack("m1", "a/0")
        .handled("m1", "a/1")
        .ack("m1", "a/1")
        .drained()
    ),
    "a group that began at the end, and was joined from the beginning": (
        Made()
        .sent("a/0")
        .join("m1", 0, start="latest")
        .sent("a/1")
        .join("m2", start="earliest")
        .took("m1", "a/1")
        .drained()
    ),
    "two kills in one replay": (
        two_members()
        .deliver("m1", *ids("a", 0, 4))
        .handled("m1", *ids("a", 0, 4))
        .killed("m1")
        .holds("m2", 0, 1)
        .took("m2", "a/0", "a/1")
        .killed("m2", number="f2")
        .join("m3", 0, 1)
        .took("m3", *ids("a", 2, 5), *ids("b", 0, 5))
        .drained()
    ),
}
