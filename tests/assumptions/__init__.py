"""Asks a Firebolt engine what the loader assumes of it (docs/architecture.md, "Assumptions")."""
