"""Hostile histories over the wire: the real loader and cleanup code, the real SDK, the stand-in, and everything that
can go wrong between them. `python -m wire --histories N --seed S` runs a campaign."""
