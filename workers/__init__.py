"""The fleet: workers that share runs of millions of rows, the ledger that knows all of it, and the commands."""
