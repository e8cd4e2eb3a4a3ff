"""``rsembed fleet``: the commands, each loaded when it is called."""

from workers.cli.group import fleet
