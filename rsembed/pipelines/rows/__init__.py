"""From any table of places to numbered, validated, ordered rows."""
