"""Postgres and Redis from wheels, for one machine: started, watched and stopped by us alone."""

from workers.servers.place import ServerError
from workers.servers.postgres import EmbeddedPostgres
from workers.servers.redis import EmbeddedRedis

__all__ = ["EmbeddedPostgres", "EmbeddedRedis", "ServerError"]
