"""A model checker for the claim and load protocol: `python -m model` (with `handler` and `tests` on PYTHONPATH).

`machine` says what can happen next, `search` tries all of it (or a random part), `scenarios` says in which worlds,
and which knock-outs must be found violating.
"""
