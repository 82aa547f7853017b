"""Messages that fit into ledger, log and queue attributes."""

from __future__ import annotations

from firebolt_cdc.errors import redact


def test_a_message_is_one_line_of_characters_that_sqs_takes() -> None:
    assert redact("a\nb\t c\x85d") == "a b c d"
    assert redact("k\x01\x1f\0\ud800\ufffe") == "k" + "\ufffd" * 5
    assert redact("é日😀") == "é日😀"
    assert redact("a" * 20, 5) == "aaaa…"
