"""The ledger's schema, step by step (Alembic); run by :func:`workers.ledger.db.upgrade`."""
