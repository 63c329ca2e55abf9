"""A small model of a bus: it makes correct runs, with kills, freezes, moves and lost acks, as histories."""

from __future__ import annotations

import dataclasses
import random

from conformance_tests.tests.made import SHA, Made


@dataclasses.dataclass
class Hold:
    """One partition in the hands of one member: how far it has delivered, handled, acked, and noted as durable."""

    delivered: int
    handled: int
    acked: int
    noted: int


@dataclasses.dataclass
class Member:
    name: str
    holds: dict[int, Hold] = dataclasses.field(default_factory=dict)
    current: tuple[int, int] | None = None
    frozen: bool = False


class SmallBus:
    """One group. Each step is one thing that one process does; all of it comes from the random numbers."""

    def __init__(self, chance: random.Random, *, faults: bool = True, freezes: bool = True) -> None:
        self.made = Made()
        self._chance = chance
        self._logs: list[list[str]] = [[] for _ in range(chance.randint(1, 3))]
        self._keys = {f"k{number}": chance.randrange(len(self._logs)) for number in range(chance.randint(1, 4))}
        self._sent = dict.fromkeys(self._keys, 0)
        self._durable = [0] * len(self._logs)
        self._members: list[Member] = []
        self._frozen: list[tuple[Member, str]] = []
        self._named = 0
        self._steps = [self.send, self.send, *[self.work] * 12, self.arrive, self.join, self.move]
        if faults:
            self._steps += [self.kill, self.reconnect]
        if faults and freezes:
            self._steps += [self.freeze, self.thaw]

    def run(self) -> Made:
        self.join()
        for number in self._keys:
            self._send(number, "ok")
        for _ in range(self._chance.randint(20, 200)):
            self._chance.choice(self._steps)()
        while self._frozen:
            self.thaw()
        while any(durable < len(log) for durable, log in zip(self._durable, self._logs, strict=True)):
            self.work()
        return self.made.drained()

    def send(self) -> None:
        outcomes = ["ok"] * 6 + ["failed", "unknown, stored", "unknown", "open, stored", "open"]
        self._send(self._chance.choice(list(self._keys)), self._chance.choice(outcomes))

    def join(self) -> None:
        if len(self._members) < 4:
            member = Member(f"m{self._named}")
            self._named += 1
            self._members.append(member)
            self.made.line("join", member.name, group="g", start="earliest").line("ready", member.name, group="g")
            for partition in self._without_owner():
                self._give(partition, member)

    def move(self) -> None:
        """A healthy move: the owner finishes what it is at, and its acks count."""
        owners = [each for each in self._awake() if each.holds]
        others = self._awake()
        if owners and len(others) > 1:
            owner = self._chance.choice(owners)
            partition = self._chance.choice(list(owner.holds))
            self._end(owner)
            self._ack(owner, partition)
            self._flush(owner, noted=self._chance.random() < 0.5)
            del owner.holds[partition]
            self._say_holds(owner)
            self._give(partition, self._chance.choice([each for each in others if each is not owner]))

    def kill(self) -> None:
        if self._awake():
            victim = self._chance.choice(self._awake())
            self.made.killed(victim.name, number=f"kill {victim.name}")
            self._members.remove(victim)
            self._reassign()

    def reconnect(self) -> None:
        """All connections are cut: what was not durably acked is delivered again, to whoever has it."""
        number = f"cut {self.made.clock}"
        self.made.fault("network", everybody=True, number=number)
        for member in self._awake():
            self._end(member)
        self.made.healed(number=number)
        for member in self._awake():
            for partition in member.holds:
                member.holds[partition] = self._fresh(partition)

    def freeze(self) -> None:
        if len(self._awake()) > 1:
            victim = self._chance.choice(self._awake())
            number = f"freeze {self.made.clock}"
            self.made.fault("freeze", victim.name, number=number)
            victim.frozen = True
            self._frozen.append((victim, number))
            self._reassign_from(victim)

    def thaw(self) -> None:
        if self._frozen:
            member, number = self._frozen.pop(0)
            self.made.healed(number=number)
            decided = member.current is None and self._chance.random() < 0.5
            held = [(number, hold) for number, hold in member.holds.items() if hold.handled < hold.delivered]
            if decided and held:
                partition, hold = held[0]
                self._start(member, partition, hold)
            self._end(member)
            member.holds.clear()
            member.frozen = False
            self._say_holds(member)

    def arrive(self) -> None:
        """Some acks become durable, and nobody knows yet."""
        for member in self._awake():
            for partition, hold in member.holds.items():
                self._durable[partition] = self._chance.randint(self._durable[partition], hold.acked)

    def work(self) -> None:
        if not self._awake():
            self.join()
        member = self._chance.choice(self._awake())
        if member.current is not None:
            self._end(member)
            return
        if not member.holds:
            return
        partition, hold = self._chance.choice(list(member.holds.items()))
        if hold.handled < hold.delivered and self._chance.random() < 0.7:
            self._start(member, partition, hold)
        elif hold.acked < hold.handled and self._chance.random() < 0.5:
            self._ack(member, partition)
        elif self._chance.random() < 0.3:
            self._flush(member, noted=True)
        else:
            for index in range(hold.delivered, min(len(self._logs[partition]), hold.delivered + 3)):
                self._line("deliver", member, partition, index, full=True)
                hold.delivered += 1

    def _send(self, key: str, outcome: str) -> None:
        kseq = self._sent[key]
        self._sent[key] += 1
        name, partition = f"{key}/{kseq}", self._keys[key]
        self.made.line("send-invoke", "s", topic="t", id=name, key=key, kseq=kseq, sha256=SHA)
        log = self._logs[partition]
        if outcome == "ok" or outcome.endswith("stored"):
            log.append(name)
        if outcome == "ok":
            told = self._chance.choice([None, str(len(log) - 1)])
            self.made.line("send-ok", "s", id=name, topic="t", partition=partition, position=told)
        elif outcome == "failed":
            self.made.line("send-failed", "s", id=name, error="no")
        elif outcome.startswith("unknown"):
            self.made.line("send-unknown", "s", id=name, error="?")

    def _start(self, member: Member, partition: int, hold: Hold) -> None:
        member.current = partition, hold.handled
        self._line("handle-start", member, *member.current)

    def _end(self, member: Member) -> None:
        if member.current is not None:
            partition, index = member.current
            self._line("handle-end", member, partition, index)
            member.current = None
            if not member.frozen:
                member.holds[partition].handled = index + 1

    def _ack(self, member: Member, partition: int) -> None:
        hold = member.holds[partition]
        self._acks("ack-invoke", member, partition, range(hold.acked, hold.handled))
        hold.acked = hold.handled

    def _flush(self, member: Member, *, noted: bool) -> None:
        for partition, hold in member.holds.items():
            self._durable[partition] = hold.acked
            if noted:
                self._acks("ack-ok", member, partition, range(hold.noted, hold.acked))
                hold.noted = hold.acked

    def _acks(self, event: str, member: Member, partition: int, indices: range) -> None:
        if indices:
            positions = [str(each) for each in indices]
            self.made.line(event, member.name, group="g", topic="t", partition=partition, positions=positions)

    def _line(self, event: str, member: Member, partition: int, index: int, *, full: bool = False) -> None:
        name = self._logs[partition][index]
        key, kseq = name.split("/")
        told = {"key": key, "kseq": int(kseq), "sha256": SHA} if full else {}
        place = {"topic": "t", "partition": partition, "position": str(index)}
        self.made.line(event, member.name, group="g", id=name, **place, **told)

    def _awake(self) -> list[Member]:
        return [each for each in self._members if not each.frozen]

    def _without_owner(self) -> list[int]:
        owned = {partition for each in self._awake() for partition in each.holds}
        return [each for each in range(len(self._logs)) if each not in owned]

    def _reassign(self) -> None:
        if not self._awake():
            self.join()
        for partition in self._without_owner():
            self._give(partition, self._chance.choice(self._awake()))

    def _reassign_from(self, frozen: Member) -> None:
        for partition in frozen.holds:
            self._give(partition, self._chance.choice(self._awake()))

    def _give(self, partition: int, member: Member) -> None:
        member.holds[partition] = self._fresh(partition)
        self._say_holds(member)

    def _fresh(self, partition: int) -> Hold:
        return Hold(*[self._durable[partition]] * 4)

    def _say_holds(self, member: Member) -> None:
        self.made.holds(member.name, *member.holds)
