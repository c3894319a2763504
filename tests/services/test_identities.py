"""Users made while the broker runs: what is kept of them, who may make them, and that they can sign in."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import pytest
from argon2 import PasswordHasher

from broker.domain.identity import Caller, Owner
from broker.errors import BadInput, NotAllowed, NotSignedIn
from broker.services.access import Access, User, hasher_of
from broker.services.identities import LONGEST, SHORTEST, Identities
from broker.store.sqlite import SqliteStore, open_sqlite
from broker.testing.clock import FakeClock
from broker.testing.executor import InlineExecutor

ROOT = Caller(Owner("me", "root"), "root", frozenset({"administrator"}))
OPERATOR = Caller(Owner("me", "ops"), "ops", frozenset({"user", "operator"}))
BROKER = UUID("7f3a0001-0000-4000-8000-00000000feed")
CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
USERS = {"root": User(password_hash=CHEAP.hash("root-secret"), roles=frozenset({"administrator"}))}


def basic(name: str, secret: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{secret}".encode()).decode()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def store(tmp_path: Path, clock: FakeClock) -> AsyncIterator[SqliteStore]:
    store = await open_sqlite(tmp_path / "broker.db", clock, executor=InlineExecutor())
    yield store
    await store.close()


@pytest.fixture
def identities(store: SqliteStore, clock: FakeClock) -> Identities:
    return Identities(store, clock, configured=USERS, namespace=BROKER, hasher=hasher_of(USERS))


@pytest.fixture
async def access(identities: Identities, clock: FakeClock) -> AsyncIterator[Access]:
    access = Access(USERS, "me", clock=clock, find=identities.find)
    yield access
    await access.close()


async def test_who_was_made_signs_in_as_a_user_and_no_more(identities: Identities, access: Access) -> None:
    with pytest.raises(NotSignedIn):
        await access.sign_in(basic("ada", "correct horse"), "a")
    made = await identities.make("ada", "correct horse", ROOT)
    assert (made.username, made.made) == ("ada", True)
    caller = await access.sign_in(basic("ada", "correct horse"), "a")
    assert caller == Caller(Owner("me", "ada"), "ada", frozenset({"user"}))
    with pytest.raises(NotSignedIn):
        await access.sign_in(basic("ada", "wrong horse"), "a")
    with pytest.raises(NotSignedIn):
        await access.sign_in("Bearer correct horse", "a")


async def test_who_is_there_keeps_the_password(identities: Identities, access: Access) -> None:
    first = await identities.make("ada", "correct horse", ROOT)
    again = await identities.make("ada", "another horse", ROOT)
    assert (again.uuid, again.made) == (first.uuid, False)
    assert await access.sign_in(basic("ada", "correct horse"), "a") is not None
    with pytest.raises(NotSignedIn):
        await access.sign_in(basic("ada", "another horse"), "a")


async def test_of_many_at_once_one_makes_the_user(identities: Identities, access: Access) -> None:
    found = await asyncio.gather(*(identities.make("ada", f"password {n}", ROOT) for n in range(8)))
    assert [one.made for one in found].count(True) == 1
    assert len({one.uuid for one in found}) == 1
    (winner,) = (n for n, one in enumerate(found) if one.made)
    assert await access.sign_in(basic("ada", f"password {winner}"), "a") is not None


async def test_a_name_of_the_settings_file_is_taken(identities: Identities, access: Access) -> None:
    taken = await identities.make("root", "another root", ROOT)
    assert not taken.made
    with pytest.raises(NotSignedIn):
        await access.sign_in(basic("root", "another root"), "a")


async def test_the_settings_file_goes_before_what_was_made(
    identities: Identities, store: SqliteStore, clock: FakeClock
) -> None:
    await identities.make("ada", "correct horse", ROOT)
    later = {**USERS, "ada": User(password_hash=CHEAP.hash("new horse"))}
    access = Access(later, "me", clock=clock, find=identities.find)
    assert await access.sign_in(basic("ada", "new horse"), "a") is not None
    with pytest.raises(NotSignedIn):
        await access.sign_in(basic("ada", "correct horse"), "a")
    await access.close()


async def test_they_are_kept_with_the_store(tmp_path: Path, clock: FakeClock) -> None:
    found = []
    for _ in range(2):
        store = await open_sqlite(tmp_path / "kept.db", clock, executor=InlineExecutor())
        identities = Identities(store, clock, configured=(), namespace=BROKER, hasher=CHEAP)
        found.append(await identities.make("ada", "correct horse", ROOT))
        await store.close()
    assert [one.made for one in found] == [True, False]
    assert found[0].uuid == found[1].uuid
    files = [file for file in (tmp_path / "kept.db", tmp_path / "kept.db-wal") if file.exists()]
    assert b"correct horse" not in b"".join(path.read_bytes() for path in files)


async def test_only_administrators_make_users(identities: Identities) -> None:
    with pytest.raises(NotAllowed):
        await identities.make("ada", "correct horse", OPERATOR)
    assert await identities.find("ada") is None


BAD_NAMES = ["", "a:b", "a|b", "a b", "ada\n", ".ada", "å", "a" * 65, "anonymous", "Anonymous"]


@pytest.mark.parametrize("name", BAD_NAMES)
async def test_names_that_will_not_do(identities: Identities, name: str) -> None:
    with pytest.raises(BadInput) as refusal:
        await identities.make(name, "correct horse", ROOT)
    assert refusal.value.element == "username"
    assert await identities.find(name) is None


@pytest.mark.parametrize("length", [0, SHORTEST - 1, LONGEST + 1])
async def test_passwords_that_will_not_do(identities: Identities, length: int) -> None:
    with pytest.raises(BadInput) as refusal:
        await identities.make("ada", "x" * length, ROOT)
    assert refusal.value.element == "password"
    assert "xxx" not in str(refusal.value)


async def test_a_name_that_is_not_there_costs_a_check_though_no_file_has_a_password(clock: FakeClock) -> None:
    async def nobody(name: str) -> User | None:
        return None

    access = Access({}, "me", clock=clock, find=nobody)
    checked: list[str] = []
    verify = access._verify
    access._verify = lambda stored, secret: bool(checked.append(stored)) or verify(stored, secret)  # type: ignore[method-assign, func-returns-value]
    with pytest.raises(NotSignedIn):
        await access.sign_in(basic("ada", "correct horse"), "a")
    (decoy,) = checked
    assert decoy.rsplit("$", 2)[0] == PasswordHasher().hash("x").rsplit("$", 2)[0]
    await access.close()


async def test_all_passwords_take_equally_long_to_check(identities: Identities) -> None:
    await identities.make("ada", "correct horse", ROOT)
    found = await identities.find("ada")
    assert found is not None
    cost = {str(user.password_hash).rsplit("$", 2)[0] for user in (found, USERS["root"])}
    assert len(cost) == 1
