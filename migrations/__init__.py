"""Database migrations of the fleet (to come)."""
