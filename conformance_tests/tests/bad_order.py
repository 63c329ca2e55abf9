"""Hand-made histories in which records come again or in a wrong way; each with the promise that it breaks."""

from __future__ import annotations

from conformance_tests.tests.good_histories import freeze_with_one_in_progress, good, two_members
from conformance_tests.tests.made import Made, ids
from eventbus_conformance.checker import Kind


def handled_without_acks() -> Made:
    return two_members().deliver("m1", *ids("a", 0, 3)).handled("m1", *ids("a", 0, 3)).killed("m1").holds("m2", 0, 1)


def killed_after_acks() -> Made:
    return two_members().took("m1", *ids("a", 0, 3)).killed("m1").holds("m2", 0, 1)


BAD_ORDER = {
    "acked durably before a kill, delivered again after it": (
        Kind.UNSTUCK,
        killed_after_acks().took("m2", *ids("a", 3, 5), *ids("b", 0, 5)).drained(),
    ),
    "acked durably before a handover": (
        Kind.UNSTUCK,
        two_members()
        .took("m1", *ids("a", 0, 3))
        .holds("m1")
        .holds("m2", 0, 1)
        .took("m2", *ids("a", 2, 5), *ids("b", 0, 5))
        .drained(),
    ),
    "acked durably before the broker was killed": (
        Kind.UNSTUCK,
        two_members()
        .took("m1", *ids("a", 0, 3))
        .fault("broker-kill", everybody=True)
        .healed()
        .took("m1", *ids("a", 3, 5))
        .took("m2", *ids("b", 0, 5))
        .drained(),
    ),
    "two records exchanged": (
        Kind.REORDERED,
        two_members().took("m1", "a/0", "a/2", "a/1", "a/3", "a/4", "a/5").took("m2", *ids("b", 0, 5)).drained(),
    ),
    "one that was acked before it was handled, after the next": (
        Kind.REORDERED,
        Made()
        .sent(*ids("a", 0, 2))
        .join("m1", 0)
        .took("m1", "a/0")
        .deliver("m1", "a/1", "a/2")
        .ack("m1", "a/1")
        .handled("m1", "a/2", "a/1")
        .drained(),
    ),
    "a replay that does not begin at the oldest unacked": (
        Kind.REORDERED,
        handled_without_acks().took("m2", *ids("a", 1, 5), *ids("b", 0, 5)).drained(),
    ),
    "a replay with a gap": (
        Kind.REORDERED,
        handled_without_acks()
        .deliver("m2", "a/0", "a/2")
        .handled("m2", "a/0", "a/2")
        .took("m2", *ids("a", 3, 5), *ids("b", 0, 5))
        .drained(),
    ),
    "a replay that jumps to what is new": (
        Kind.REORDERED,
        handled_without_acks()
        .deliver("m2", "a/0", "a/1")
        .handled("m2", "a/0", "a/1")
        .took("m2", "a/4", "a/5", *ids("b", 0, 5))
        .drained(),
    ),
    "a redelivery to the tail": (
        Kind.REORDERED,
        two_members()
        .took("m1", *ids("a", 0, 1))
        .deliver("m1", "a/2")
        .start("m1", "a/2")
        .fail("m1", "a/2")
        .took("m1", "a/3", "a/4", "a/2", "a/5")
        .took("m2", *ids("b", 0, 5))
        .drained(),
    ),
    "the next one though this one failed": (
        Kind.REORDERED,
        two_members()
        .deliver("m1", "a/0")
        .start("m1", "a/0")
        .fail("m1", "a/0")
        .took("m1", "a/1", "a/0", *ids("a", 2, 5))
        .took("m2", *ids("b", 0, 5))
        .drained(),
    ),
    "two at one key": (
        Kind.OVERLAP,
        two_members()
        .deliver("m1", *ids("a", 0, 5))
        .start("m1", "a/0")
        .deliver("m2", "a/1")
        .start("m2", "a/1")
        .end("m1", "a/0")
        .end("m2", "a/1")
        .ack("m1", "a/0")
        .took("m2", *ids("a", 2, 5), *ids("b", 0, 5))
        .drained(),
    ),
    "at one key with a member that is killed later": (
        Kind.OVERLAP,
        two_members()
        .deliver("m1", "a/0")
        .start("m1", "a/0")
        .took("m2", "a/1")
        .killed("m1")
        .took("m2", "a/0", *ids("a", 2, 5), *ids("b", 0, 5))
        .drained(),
    ),
    "one member, two at one key": (
        Kind.OVERLAP,
        two_members()
        .deliver("m1", "a/0", "a/1")
        .start("m1", "a/0")
        .start("m1", "a/1")
        .end("m1", "a/0")
        .end("m1", "a/1")
        .took("m1", *ids("a", 2, 5))
        .took("m2", *ids("b", 0, 5))
        .drained(),
    ),
    "two handlings of a frozen member overlap": (
        Kind.OVERLAP,
        freeze_with_one_in_progress()
        .healed()
        .end("m1", "a/1")
        .handled("m1", "a/2")
        .start("m1", "a/3")
        .took("m2", "a/3")
        .end("m1", "a/3")
        .took("m2", "a/4", "a/5")
        .drained(),
    ),
    "what a frozen member took after its thaw": (
        Kind.OVERLAP,
        freeze_with_one_in_progress()
        .healed()
        .end("m1", "a/1")
        .deliver("m1", "a/4")
        .took("m2", "a/3")
        .start("m1", "a/4")
        .took("m2", "a/4")
        .end("m1", "a/4")
        .took("m2", "a/5")
        .drained(),
    ),
    "at two positions": (
        Kind.STORED_TWICE,
        good()
        .deliver("m1", "a/5", position="6")
        .start("m1", "a/5", position="6")
        .end("m1", "a/5", position="6")
        .drained(),
    ),
    "at another position than its receipt says": (
        Kind.STORED_TWICE,
        Made()
        .sent("a/0")
        .join("m1", 0)
        .deliver("m1", "a/0", position="7")
        .start("m1", "a/0", position="7")
        .end("m1", "a/0", position="7")
        .drained(),
    ),
    "twice without a reason": (
        Kind.DUPLICATES,
        two_members()
        .took("m1", "a/0")
        .deliver("m1", "a/1")
        .handled("m1", "a/1", "a/1")
        .ack("m1", "a/1")
        .took("m1", *ids("a", 2, 5))
        .took("m2", *ids("b", 0, 5))
        .drained(),
    ),
    "twice, and only another member was killed": (
        Kind.DUPLICATES,
        two_members()
        .took("m1", "a/0")
        .deliver("m1", "a/1")
        .handled("m1", "a/1")
        .killed("m2")
        .took("m1", *ids("a", 1, 5), *ids("b", 0, 5))
        .drained(),
    ),
    "three times after one kill": (
        Kind.DUPLICATES,
        two_members()
        .deliver("m1", "a/0")
        .handled("m1", "a/0")
        .killed("m1")
        .holds("m2", 0, 1)
        .deliver("m2", "a/0")
        .handled("m2", "a/0", "a/0")
        .ack("m2", "a/0")
        .took("m2", *ids("a", 1, 5), *ids("b", 0, 5))
        .drained(),
    ),
    "still unsettled": (Kind.STUCK, two_members().took("m1", *ids("a", 0, 4)).took("m2", *ids("b", 0, 5)).drained(1)),
}
