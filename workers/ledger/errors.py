"""What goes wrong with the ledger; the driver's own errors never leave :mod:`workers.ledger`.

::

    RSEmbedError
    └── LedgerError              the ledger refuses, or is not as it should be   (permanent)
        ├── UnknownRunError      no run of that number
        ├── RunStateError        the run's state does not allow that
        └── LedgerUnavailableError  connection lost, server restarting, lock not had  (transient)
"""

from __future__ import annotations

from rsembed.core.errors import RSEmbedError


class LedgerError(RSEmbedError):
    """The ledger refuses what was asked, or its schema is another one."""

    error_class = "ledger"


class UnknownRunError(LedgerError):
    """There is no run of that number."""


class RunStateError(LedgerError):
    """The state of the run does not allow what was asked."""


class LedgerUnavailableError(LedgerError):
    """The database did not answer; the same call may succeed later."""

    error_class = "ledger_unavailable"
    transient = True
