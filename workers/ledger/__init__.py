"""The ledger: the Postgres tables that hold every run's state, and the only truth about it.

``records`` are the values that cross its border, ``repository`` the classes that read and
change it (:class:`~workers.ledger.repository.Ledger`, and
:class:`~workers.ledger.repository.Leadership` for the one dispatcher that leads).
"""
