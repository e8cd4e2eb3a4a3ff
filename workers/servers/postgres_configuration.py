"""The configuration files of the embedded Postgres."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

PORT = 5432
"""Part of the socket's name; no port is opened."""
ACCESS = "local all all trust\n"
"""Who may enter the socket's folder, its owner and root, may enter."""


def configuration(sockets: Path, *, durable: bool, max_connections: int) -> Mapping[str, str]:
    """File name in the data folder -> its whole content; the server listens in the folder ``sockets`` only."""
    quoted = str(sockets).replace("'", "''")
    values: dict[str, str | int] = {
        "listen_addresses": "''",
        "unix_socket_directories": f"'{quoted}'",
        "unix_socket_permissions": "0700",
        "port": PORT,
        "max_connections": max_connections,
        "max_locks_per_transaction": 256,  # a statement over many runs' partitions locks each
        "shared_buffers": "'128MB'",
        "work_mem": "'16MB'",
        "maintenance_work_mem": "'128MB'",
        "max_wal_size": "'2GB'",
        "checkpoint_timeout": "'15min'",
        "wal_compression": "on",
        "autovacuum_naptime": "'10s'",
        "fsync": "on" if durable else "off",
        "full_page_writes": "on" if durable else "off",
        "timezone": "'UTC'",
        "log_timezone": "'UTC'",
        "logging_collector": "off",
        "log_line_prefix": "'%m [%p] '",
        "log_checkpoints": "off",
        "password_encryption": "'scram-sha-256'",
    }
    text = "# Written anew at every start.\n" + "".join(f"{name} = {value}\n" for name, value in values.items())
    return {"postgresql.conf": text, "postgresql.auto.conf": "", "pg_hba.conf": ACCESS}
