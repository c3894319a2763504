"""What somebody hears who wants a second offer of a set: the way out must be one that works."""

from __future__ import annotations

from uuid import UUID

import pytest

from broker.domain import offerset
from broker.domain.identity import Owner, members, new_set
from broker.domain.offerset import Claim, SessionRecord, SetRecord
from broker.errors import Conflict

NOW = 1_795_356_120.0


def taken(phase: str) -> tuple[SetRecord, UUID, UUID]:
    set_ = new_set(bytes(range(16)))
    first, second = members(set_, b"\x01\x02\x03\x04", set(), 2)
    record = SetRecord(
        uuid=set_,
        owner=Owner("here", "ada"),
        account="ada",
        name="fit",
        created=NOW,
        sites=("alba", "delta"),
        sessions=(
            SessionRecord(first, "alba", "a", "alba", phase=phase),
            SessionRecord(second, "delta", "b", "delta", phase="REJECTED"),
        ),
        claim=Claim(first, NOW, state="taken"),
    )
    return record, first, second


def test_while_the_first_runs_both_ways_out_are_named() -> None:
    record, first, second = taken("RUNNING")
    with pytest.raises(Conflict) as caught:
        offerset.claim(record, second, b"{}", NOW)
    assert f"(session {first}, RUNNING)" in caught.value.detail
    assert f"broker cancel {str(first)[:8]}" in caught.value.remedy
    assert "ask anew" in caught.value.remedy


@pytest.mark.parametrize("phase", ["COMPLETED", "FAILED", "CANCELLED"])
def test_nobody_is_told_to_cancel_what_is_over(phase: str) -> None:
    record, _, second = taken(phase)
    with pytest.raises(Conflict) as caught:
        offerset.claim(record, second, b"{}", NOW)
    assert "cancel" not in caught.value.remedy
    assert "ask anew" in caught.value.remedy
