"""Signing in: right and wrong passwords, tokens, what is remembered, and how guessing is slowed down."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import pytest

from broker.domain.identity import Caller, Owner
from broker.errors import NotSignedIn, TooMany, Unavailable
from broker.services.access import GUESS_EVERY, GUESSES, REMEMBERED, Access, User, is_loopback
from broker.testing.clock import FakeClock
from broker.testing.memory import MemoryLimits


def basic(name: str, secret: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{secret}".encode()).decode()


class Counting:
    """Counts the checks of passwords, and can hold them up."""

    def __init__(self, access: Access) -> None:
        self._real = access._verify
        self.checked: list[str] = []
        access._verify = self  # type: ignore[method-assign]

    def __call__(self, stored: str, secret: str) -> bool:
        self.checked.append(stored)
        return self._real(stored, secret)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def access(users: dict[str, User], clock: FakeClock) -> AsyncIterator[Access]:
    access = Access(users, "me", clock=clock)
    yield access
    await access.close()


async def test_a_right_password_is_that_user(access: Access) -> None:
    caller = await access.sign_in(basic("ann", "ann-secret"), "192.0.2.1")
    assert caller == Caller(Owner("me", "ann", ("sky",), "p1"), "ann", frozenset({"user"}))


async def test_a_token_is_that_user_as_bearer_and_as_password(access: Access, token: str) -> None:
    for header in (f"Bearer {token}", f"bearer  {token} ", basic("tokenfolk", token)):
        caller = await access.sign_in(header, None)
        assert caller is not None
        assert caller.account == "tokenfolk"


@pytest.mark.parametrize(
    "header",
    [
        basic("ann", "wrong"),
        basic("ann", ""),
        basic("nobody", "ann-secret"),
        basic("tokenfolk", "tokenfolk-secret"),
        basic("ann\0", "ann-secret"),
        "Bearer wrong",
        "Bearer ",
        "Bearer " + "x" * 5000,
        "Bearer \udcff",
        "Basic",
        "Basic !!!",
        "Basic " + base64.b64encode(b"no colon").decode(),
        "Basic " + base64.b64encode(b"\xff:\xff").decode(),
        basic("ann", "x" * 5000),
        "Digest username=ann",
        "",
    ],
)
async def test_everything_else_is_nobody(access: Access, header: str) -> None:
    with pytest.raises(NotSignedIn):
        await access.sign_in(header, None)


async def test_another_ones_token_does_not_go_with_a_name(access: Access, token: str) -> None:
    with pytest.raises(NotSignedIn):
        await access.sign_in(basic("ann", token), None)


async def test_no_credentials_is_none(access: Access) -> None:
    assert await access.sign_in(None, "127.0.0.1") is None


async def test_the_anonymous_come_from_this_machine_alone(users: dict[str, User], clock: FakeClock) -> None:
    guest = Caller(Owner("me", "guest"), "guest", anonymous=True)
    access = Access(users, "me", clock=clock, anonymous=guest)
    assert await access.sign_in(None, "127.0.0.1") is guest
    assert await access.sign_in(None, "::1") is guest
    assert await access.sign_in(None, "::ffff:127.0.0.1") is guest
    for remote in ("192.0.2.1", "by way of 127.0.0.1", "", None, "127.0.0.1.example.org"):
        assert await access.sign_in(None, remote) is None
    await access.close()


def test_loopback_by_name() -> None:
    assert is_loopback("localhost")
    assert is_loopback("[::1]")
    assert not is_loopback("localhost.example.org")


async def test_a_right_password_is_remembered_for_a_while(access: Access, clock: FakeClock) -> None:
    counting = Counting(access)
    for _ in range(3):
        await access.sign_in(basic("ann", "ann-secret"), "a")
    assert len(counting.checked) == 1
    clock.advance(REMEMBERED)
    await access.sign_in(basic("ann", "ann-secret"), "a")
    assert len(counting.checked) == 2


async def test_a_wrong_password_is_not_remembered(access: Access) -> None:
    counting = Counting(access)
    for _ in range(2):
        with pytest.raises(NotSignedIn):
            await access.sign_in(basic("ann", "wrong"), "a")
    assert len(counting.checked) == 2


async def test_nothing_remembered_is_the_password_itself(access: Access) -> None:
    await access.sign_in(basic("ann", "ann-secret"), "a")
    assert "ann-secret" not in repr(vars(access)) + repr(access._right)


async def test_a_name_that_is_not_there_costs_a_check_too(access: Access, users: dict[str, User]) -> None:
    counting = Counting(access)
    for name in ("nobody", "tokenfolk"):
        with pytest.raises(NotSignedIn):
            await access.sign_in(basic(name, "x"), "a")
    assert len(counting.checked) == 2
    cost = {text.rsplit("$", 2)[0] for text in counting.checked}
    assert cost == {str(users["ann"].password_hash).rsplit("$", 2)[0]}


async def test_callers_with_one_password_share_one_check(access: Access) -> None:
    counting = Counting(access)
    found = await asyncio.gather(*(access.sign_in(basic("ann", "ann-secret"), "a") for _ in range(50)))
    assert len(counting.checked) == 1
    assert all(caller is not None and caller.account == "ann" for caller in found)


async def test_a_caller_that_leaves_takes_the_check_from_nobody(access: Access) -> None:
    first = asyncio.ensure_future(access.sign_in(basic("ann", "ann-secret"), "a"))
    second = asyncio.ensure_future(access.sign_in(basic("ann", "ann-secret"), "a"))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second) is not None


async def test_guessing_is_slowed_down_for_that_name_and_address(access: Access, clock: FakeClock) -> None:
    async def guess(name: str, remote: str) -> None:
        with pytest.raises(NotSignedIn):
            await access.sign_in(basic(name, "wrong"), remote)

    for _ in range(GUESSES):
        await guess("ann", "a")
    with pytest.raises(TooMany) as refusal:
        await access.sign_in(basic("ann", "ann-secret"), "a")  # even the right one: that would be a guess that hits
    assert refusal.value.retry_after == pytest.approx(GUESS_EVERY)
    await guess("ops", "a")
    await guess("ann", "b")
    clock.advance(GUESS_EVERY)
    assert await access.sign_in(basic("ann", "ann-secret"), "a") is not None


async def test_who_is_signed_in_already_is_not_locked_out_by_guesses(access: Access) -> None:
    await access.sign_in(basic("ann", "ann-secret"), "a")
    for n in range(GUESSES):
        with pytest.raises(NotSignedIn):
            await access.sign_in(basic("ann", f"wrong {n}"), "a")
    assert await access.sign_in(basic("ann", "ann-secret"), "a") is not None


async def test_guesses_side_by_side_do_not_outrun_the_count(access: Access) -> None:
    counting = Counting(access)
    guesses = [access.sign_in(basic("ann", f"guess {n}"), "a") for n in range(30)]
    found = await asyncio.gather(*guesses, return_exceptions=True)
    assert len(counting.checked) == GUESSES
    assert sum(isinstance(item, TooMany) for item in found) == 30 - GUESSES


async def test_right_passwords_are_no_guesses(access: Access, clock: FakeClock) -> None:
    for _ in range(3 * GUESSES):
        await access.sign_in(basic("ann", "ann-secret"), "a")
        clock.advance(REMEMBERED)
    assert access._names._empty[("a", "ann")] <= clock.monotonic()


async def test_one_address_cannot_try_all_names(access: Access) -> None:
    for n in range(100):
        with pytest.raises(NotSignedIn):
            await access.sign_in(basic(f"name{n}", "wrong"), "a")
    with pytest.raises(TooMany):
        await access.sign_in(basic("another", "wrong"), "a")


@pytest.fixture
async def replicas(users: dict[str, User], clock: FakeClock) -> AsyncIterator[list[Access]]:
    limits = MemoryLimits(clock)
    pair = [Access(users, "me", clock=clock, limits=limits) for _ in range(2)]
    yield pair
    for access in pair:
        await access.close()


async def test_guesses_at_any_replica_count_for_all(replicas: list[Access], clock: FakeClock) -> None:
    for n in range(GUESSES):
        with pytest.raises(NotSignedIn):
            await replicas[n % 2].sign_in(basic("ann", f"guess-{n}"), "192.0.2.1")
    for access in replicas:
        with pytest.raises(TooMany) as caught:
            await access.sign_in(basic("ann", "ann-secret"), "192.0.2.1")
        assert 0 < caught.value.retry_after <= GUESSES * GUESS_EVERY
    assert await replicas[1].sign_in(basic("ops", "ops-secret"), "192.0.2.1")
    assert await replicas[1].sign_in(basic("ann", "ann-secret"), "192.0.2.2")
    clock.advance(GUESSES * GUESS_EVERY)
    assert await replicas[0].sign_in(basic("ann", "ann-secret"), "192.0.2.1")


async def test_right_passwords_are_no_guesses_at_any_replica(replicas: list[Access]) -> None:
    for _ in range(2 * GUESSES):
        for access in replicas:
            access._right.clear()  # so that each is checked
            assert await access.sign_in(basic("ann", "ann-secret"), "192.0.2.1")


async def test_the_names_that_were_guessed_are_not_kept_in_the_clear(users: dict[str, User], clock: FakeClock) -> None:
    kept: list[str] = []

    class Noting(MemoryLimits):
        async def enter(self, key: str, member: str, ceiling: int, until: float) -> bool:
            kept.extend((key, member))
            return await super().enter(key, member, ceiling, until)

    access = Access(users, "me", clock=clock, limits=Noting(clock))
    with pytest.raises(NotSignedIn):
        await access.sign_in(basic("my-secret", "oops"), "192.0.2.1")
    assert kept
    assert not [text for text in kept if "secret" in text or "oops" in text]
    await access.close()


async def test_without_the_common_count_each_replica_counts_its_own(
    users: dict[str, User], clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = MemoryLimits(clock)

    async def gone(*_: object) -> Any:
        raise Unavailable("gone")

    for name in ("members", "enter"):
        monkeypatch.setattr(limits, name, gone)
    access = Access(users, "me", clock=clock, limits=limits)
    for n in range(GUESSES):
        with pytest.raises(NotSignedIn):
            await access.sign_in(basic("ann", f"guess-{n}"), "192.0.2.1")
    with pytest.raises(TooMany):
        await access.sign_in(basic("ann", "ann-secret"), "192.0.2.1")
    await access.close()


async def test_without_passwords_there_is_nothing_to_check(clock: FakeClock) -> None:
    access = Access({}, "me", clock=clock)
    with pytest.raises(NotSignedIn):
        await access.sign_in(basic("ann", "x"), "a")
    await access.close()


def test_users_do_not_show_their_hashes(users: dict[str, User]) -> None:
    shown: Any = repr(users)
    assert "argon2" not in shown
    assert str(users["tokenfolk"].token_sha256) not in shown
