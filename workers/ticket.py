"""What a queue's message says: some work is ready. A hint for people; the ledger decides what is done."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Ticket:
    """Work that was ready when the ticket was written; fields that say nothing are None."""

    stage: str
    run: int | None = None
    shard: int | None = None
    model: str | None = None

    def to_json(self) -> dict[str, int | str]:
        """The task's keyword arguments."""
        fields = {"run": self.run, "stage": self.stage, "shard": self.shard, "model": self.model}
        return {name: value for name, value in fields.items() if value is not None}

    def __str__(self) -> str:
        """As Flower shows it."""
        return " ".join(f"{name}={value}" for name, value in self.to_json().items())
