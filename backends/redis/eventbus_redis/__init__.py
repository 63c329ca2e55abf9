"""Redis Streams backend of eventbus."""

from eventbus_redis.backend import RedisBackend
from eventbus_redis.settings import RedisSettings

__all__ = ["RedisBackend", "RedisSettings"]
