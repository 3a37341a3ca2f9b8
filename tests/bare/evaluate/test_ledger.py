"""The ledger of finished trials: what a kill in the middle of a write leaves is still a ledger."""

from pathlib import Path

import pytest

from longva_ray.evaluate.ledger import Ledger
from longva_ray.files.digest import fingerprint_of


def test_outcomes_survive(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "new", "f")
    ledger.record({"a": {"exact": True}, "b": {"exact": False}})
    ledger.record({"c": {"text": "line\nbreak"}})
    again = Ledger(tmp_path / "new", "f")
    assert len(again) == 3
    assert again["c"] == {"text": "line\nbreak"}
    assert "d" not in again
    assert len(Ledger(tmp_path / "new", "other")) == 0


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_line_that_was_cut_short_is_dropped_and_replaced(tmp_path: Path, cut: int) -> None:
    ledger = Ledger(tmp_path, "f")
    ledger.record({"a": {"exact": True}})
    ledger.record({"b": {"exact": True}})
    ledger.path.write_bytes(ledger.path.read_bytes()[:-cut])
    again = Ledger(tmp_path, "f")
    assert len(again) == 1
    again.record({"c": {"exact": False}})
    last = Ledger(tmp_path, "f")
    assert ("a" in last, "b" in last, "c" in last) == (True, False, True)


def test_fingerprints_tell_settings_apart() -> None:
    assert fingerprint_of({"a": 1, "b": 2}) == fingerprint_of({"b": 2, "a": 1})
    assert fingerprint_of({"a": 1}) != fingerprint_of({"a": 2})
