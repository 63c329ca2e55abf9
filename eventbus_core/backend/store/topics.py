"""Topics: a cell for each, with its incarnation and how many partitions it has."""

from __future__ import annotations

import json
import uuid
from typing import Final, NamedTuple

from eventbus_core.backend.store import Key, Log, Put, Store, whole
from eventbus_core.errors import NotFound

_TOPICS: Final = "topics"
_OF: Final = "of"
"""Below this and the incarnation lies what goes with a topic."""


class Topic(NamedTuple):
    """A topic. ``incarnation`` is new whenever it is made, so that nothing of an old one of that name remains."""

    name: str
    incarnation: str
    partitions: int

    def log(self, number: int) -> Log:
        """The log of one of its partitions. NotFound."""
        if not 0 <= number < self.partitions:
            raise NotFound(f"topic {self.name} has no partition {number}", topic=self.name)
        return Log(self.name, self.incarnation, number)

    def logs(self) -> list[Log]:
        """The logs of its partitions, in order."""
        return [self.log(number) for number in range(self.partitions)]

    def key(self, *parts: str) -> Key:
        """The key of something that goes with the topic."""
        return (_OF, self.incarnation, *parts)


def find_topic(store: Store, name: str) -> Topic | None:
    """The topic of this name, if there is one."""
    (cell,) = whole(store.get([(_TOPICS, name)]))
    return Topic(name, *json.loads(cell.value)) if cell else None


def existing_topic(store: Store, name: str) -> Topic:
    """The topic of this name. It makes none, whatever the settings say. NotFound."""
    found = find_topic(store, name)
    if found is None:
        raise NotFound(f"there is no topic {name}; create it first", topic=name, backend=store.backend)
    return found


def topic_to_use(store: Store, name: str) -> Topic:
    """The topic of this name, made now if it is missing and the settings say so. NotFound."""
    found = find_topic(store, name)
    if found is None and store.settings.create_topics:
        return create_topic(store, name, store.settings.default_partitions)
    return found or existing_topic(store, name)


def create_topic(store: Store, name: str, partitions: int) -> Topic:
    """Make a topic, or find the one that somebody else has made meanwhile."""
    made = Topic(name, uuid.uuid4().hex, partitions)
    whole(store.create(made.logs()))
    (revision,) = whole(store.put([Put((_TOPICS, name), json.dumps(made[1:]), 0)]))
    if revision is not None:
        return made
    whole(store.drop(made.logs()))
    return topic_to_use(store, name)


def delete_topic(store: Store, topic: Topic) -> None:
    """Remove a topic and all that goes with it; its name last, so that a delete that failed halfway can be repeated."""
    whole(store.drop(topic.logs()))
    store.delete_below(topic.key())
    store.delete((_TOPICS, topic.name))


def topic_names(store: Store) -> list[str]:
    """The names of all topics, sorted."""
    return sorted(key[-1] for key in store.keys((_TOPICS,)))
