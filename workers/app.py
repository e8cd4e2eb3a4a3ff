"""The Celery application: how tickets travel, and nothing about what they stand for.

A ticket is acknowledged when its task starts and no result is kept: the ledger is the truth,
a lost ticket costs a moment and a doubled one nothing.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any, Self

from celery import Celery
from kombu import Connection, Exchange, Queue
from kombu.exceptions import KombuError
from kombu.transport import redis
from redis.exceptions import ConnectionError as RedisConnectionError

from workers.broker import ERRORS, BrokerAwayError
from workers.queues import task_of
from workers.ticket import Ticket

_TRANSPORT = {
    "priority_steps": [0],  # one list per queue, so that its length is one LLEN
    "socket_connect_timeout": 5,
    "socket_timeout": 30,
    "socket_keepalive": True,
    "health_check_interval": 10,
    "ack_emulation": False,  # no copy of what is in hand: it would only come back as a doubled ticket
}
_CONFIGURATION = {
    "accept_content": ["json"],
    "task_serializer": "json",
    "event_serializer": "json",
    "result_accept_content": ["json"],
    "task_ignore_result": True,
    "task_store_errors_even_if_ignored": False,
    "task_acks_late": False,
    "task_create_missing_queues": False,
    "worker_prefetch_multiplier": 1,
    "worker_enable_prefetch_count_reduction": False,
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "worker_send_task_events": True,
    "worker_hijack_root_logger": False,
    "worker_redirect_stdouts": False,
    "broker_connection_retry": True,
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    "broker_transport_options": _TRANSPORT,
    "event_queue_expires": 60.0,
    "event_queue_ttl": 5.0,
}


class TicketChannel(redis.Channel):
    """A channel that forgets what it took and did not begin: the dispatcher sends new tickets.

    A connection that is taken apart already says so in a way that Celery survives (kombu 5.7
    raises AttributeError there, and the worker ends).
    """

    do_restore = False

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        if self.connection is None or self.connection.client is None:
            raise RedisConnectionError("this connection to the broker was closed")
        parameters: dict[str, Any] = super()._connparams(asynchronous=asynchronous)  # type: ignore[misc]  # not in its stubs
        return parameters


class TicketTransport(redis.Transport):
    """kombu's Redis transport with our channel."""

    Channel = TicketChannel


class TicketConnection(Connection):
    """A connection that tries a broker that is away every few seconds, not every thirty."""

    def get_transport_cls(self) -> type[TicketTransport]:
        """See kombu."""
        return TicketTransport

    def ensure_connection(self, *args: Any, **options: Any) -> Self:
        """See kombu."""
        patience = {"interval_start": 0.5, "interval_step": 0.5, "interval_max": 3.0}
        return super().ensure_connection(*args, **{**patience, **options})


class FleetCelery(Celery):
    """Celery that goes to our broker, whatever CELERY_BROKER_URL of another project says."""

    def __init__(self, redis_url: str) -> None:
        super().__init__("rsembed", broker=redis_url, set_as_current=False)
        self.amqp.Connection = TicketConnection
        self._redis_url = redis_url

    def connection_for_read(self, url: str | None = None, **options: Any) -> Connection:
        """See Celery."""
        return super().connection_for_read(url or self._redis_url, **options)

    def connection_for_write(self, url: str | None = None, **options: Any) -> Connection:
        """See Celery."""
        return super().connection_for_write(url or self._redis_url, **options)


def make_app(redis_url: str, queues: Iterable[str] = ()) -> FleetCelery:
    """The application on the broker at ``redis_url``; a worker names the queues it listens on."""
    app = FleetCelery(redis_url)
    app.conf.update(_CONFIGURATION)
    app.conf.task_queues = [Queue(name, Exchange(name, type="direct"), routing_key=name) for name in queues]
    return app


class TicketSender:
    """Puts tickets into queues over a connection of its own, which is dropped at the first error.

    Only the default exchange is used, by queue name: it has no bindings that a flush could lose.
    """

    def __init__(self, redis_url: str) -> None:
        self._app = make_app(redis_url)
        self._connection: Connection | None = None

    def send(self, queue: str, tickets: Iterable[Ticket]) -> int:
        """Publish ``tickets`` to ``queue``; how many. BrokerAwayError when the broker does not take them."""
        sent = 0
        try:
            if self._connection is None:
                self._connection = self._app.connection_for_write()
                self._connection.ensure_connection(max_retries=1, timeout=5)
            producer = self._connection.Producer(serializer="json", auto_declare=False)
            for ticket in tickets:
                self._publish(producer, queue, ticket)
                sent += 1
        except (KombuError, *ERRORS) as exc:
            self.close()
            raise BrokerAwayError(f"the broker took {sent} tickets for {queue}, then: {exc}") from exc
        return sent

    def close(self) -> None:
        """Drop the connection; the next `send` opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.release()

    def _publish(self, producer: Any, queue: str, ticket: Ticket) -> None:
        message = self._app.amqp.create_task_message(
            str(uuid.uuid4()),
            task_of(queue),
            kwargs=ticket.to_json(),
            argsrepr="",
            kwargsrepr=str(ticket),
            ignore_result=True,
        )
        producer.publish(
            message.body,
            exchange="",
            routing_key=queue,
            headers=message.headers,
            delivery_mode=1,
            retry=False,
            **message.properties,
        )
