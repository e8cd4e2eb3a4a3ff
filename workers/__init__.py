"""The fleet: workers that share one run (to come)."""
