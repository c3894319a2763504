"""How long things may be kept, as far as one length limits the other."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.errors import SettingsError
from broker.services.keys import KEPT
from broker.settings import SHORTEST_RECORDS, load_settings


def limits(folder: Path, offers: str, records: str) -> None:
    file = folder / "broker.yaml"
    file.write_text(f"name: x\nlimits: {{keep_offers: {offers}, keep_records: {records}}}\n")
    load_settings(file)


@pytest.mark.parametrize(("offers", "records"), [("P7D", "P400D"), ("P1D", "P2D"), ("P7D", "0")])
def test_records_outlive_offers_or_are_kept_for_ever(tmp_path: Path, offers: str, records: str) -> None:
    limits(tmp_path, offers, records)


@pytest.mark.parametrize(("offers", "records", "why"), [("P7D", "P7D", "longer than"), ("PT1H", "PT47H", "two days")])
def test_a_length_that_would_lose_something_is_refused(tmp_path: Path, offers: str, records: str, why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        limits(tmp_path, offers, records)


def test_a_record_outlives_the_key_that_made_it() -> None:
    assert SHORTEST_RECORDS > KEPT
