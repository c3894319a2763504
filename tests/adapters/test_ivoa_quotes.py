"""Asking sites for offers, over real sockets: what goes out, what is taken from the answer, what is not."""

from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import aiohttp
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.ivoa import translate
from adapters.ivoa.adapter import plugin
from broker.domain import hops, kinds
from broker.domain.identity import Owner
from broker.errors import SettingsError, SiteBusy, SiteError, SiteForbids, SiteMisbehaved, SiteTimeout, SiteUnreachable
from broker.plugins import Credentials
from broker.ports import Planner, Quotes
from broker.services.clock import SystemClock
from broker.testing.asks import ask, wanted
from broker.testing.resources import planner, shared_http
from broker.testing.site import FakeSite

CLOCK = SystemClock()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with shared_http() as http:
        yield http


@pytest.fixture
async def site() -> AsyncIterator[FakeSite]:
    async with FakeSite("alba", offers=2) as site:
        yield site


@pytest.fixture
def to(http: aiohttp.ClientSession) -> Callable[..., Planner]:
    return lambda site, **more: planner(plugin, site.url, http, CLOCK, **more)


def words(quotes: Quotes) -> str:
    return " | ".join(reason.text for reason in quotes.reasons)


async def test_offers_come_as_the_site_wrote_them(site: FakeSite, to: Callable[..., Planner]) -> None:
    quotes = await to(site).quote(ask(CLOCK))
    assert [quote.handle for quote in quotes.quotes] == list(site.sessions)
    for quote in quotes.quotes:
        assert msgspec.json.decode(quote.body) == site.sessions[quote.handle].wire()


async def test_a_plain_site_is_sent_strict_1_0_and_no_header_of_ours(
    site: FakeSite, to: Callable[..., Planner]
) -> None:
    await to(site).quote(ask(CLOCK))
    sent = site.requests[0]
    assert (sent.method, sent.path) == ("POST", "/requests")
    assert sent.json() == wanted()
    assert sent.headers["Content-Type"] == "application/json"
    assert not [name for name in sent.headers if name.startswith("Broker-")]


async def test_a_late_answer_is_waited_for_but_nothing_is_asked_late(
    site: FakeSite, to: Callable[..., Planner]
) -> None:
    site.behave(quote="late:0.2")
    assert len((await to(site).quote(ask(CLOCK, within=0.1, drain=5.0))).quotes) == 2
    with pytest.raises(SiteUnreachable, match="no time left"):
        await to(site).quote(ask(CLOCK, within=0.0, drain=5.0))
    assert len(site.seen("quote")) == 1


async def test_200_is_as_good_as_303(site: FakeSite, to: Callable[..., Planner]) -> None:
    site.behave(quote="ok")
    assert len((await to(site).quote(ask(CLOCK))).quotes) == 2


async def test_303_without_a_body_is_one_reading_of_its_location(site: FakeSite, to: Callable[..., Planner]) -> None:
    site.behave(quote="see-other")
    assert len((await to(site).quote(ask(CLOCK))).quotes) == 2
    assert [seen.operation for seen in site.requests] == ["quote", "set"]
    site.behave(set="redirect:/offersets/again")
    with pytest.raises(SiteMisbehaved, match="307"):
        await to(site).quote(ask(CLOCK))


async def test_a_location_elsewhere_is_not_read(site: FakeSite, to: Callable[..., Planner]) -> None:
    async with FakeSite() as other:
        for fault in ("redirect", "elsewhere"):
            site.behave(quote=f"{fault}:{other.url}/requests")
            with pytest.raises(SiteMisbehaved, match="redirect"):
                await to(site, credentials=Credentials("a", "b")).quote(ask(CLOCK))
        assert other.requests == []


async def test_no_comes_with_its_reasons(site: FakeSite, to: Callable[..., Planner]) -> None:
    site.declines = "memory above ${limit} GiB"
    quotes = await to(site).quote(ask(CLOCK))
    assert quotes.quotes == ()
    assert words(quotes) == "memory above ${limit} GiB"  # the field sends no values to fill it with


async def test_an_unknown_kind_is_a_no_with_the_sites_words(site: FakeSite, to: Callable[..., Planner]) -> None:
    quotes = await to(site).quote(ask(CLOCK, kind=kinds.PYTHON_PROGRAM))
    assert words(quotes) == "Could not resolve type id 'uri:python-program-1.0'"


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("hang", SiteTimeout),
        ("drip", SiteTimeout),
        ("reset", SiteMisbehaved),
        ("reset-in-headers", SiteMisbehaved),
        ("reset-in-body", SiteMisbehaved),
        ("half-close", SiteMisbehaved),
        ("not-http", SiteMisbehaved),
        ("flood", SiteMisbehaved),
        ("gzip-bomb", SiteMisbehaved),
        ("million", SiteMisbehaved),
        ("garbage", SiteMisbehaved),
        ("not-an-object", SiteMisbehaved),
        ("empty", SiteMisbehaved),
        ("bad-utf8", SiteMisbehaved),
        ("nan", SiteMisbehaved),
        ("deep", SiteMisbehaved),
        ("wrong-type", SiteMisbehaved),
        ("status:500", SiteMisbehaved),
        ("status:503", SiteMisbehaved),
        ("status:503:7", SiteBusy),
        ("status:429", SiteBusy),
        ("status:401", SiteForbids),
        ("status:403", SiteForbids),
        ("status:404", SiteMisbehaved),
        ("status:202", SiteMisbehaved),
    ],
)
async def test_every_way_to_go_wrong_is_a_site_error(
    site: FakeSite, to: Callable[..., Planner], fault: str, kind: type[SiteError]
) -> None:
    site.behave(quote=fault)
    with pytest.raises(kind) as caught:
        await to(site).quote(ask(CLOCK, within=0.4))
    assert site.url.removeprefix("http://") in str(caught.value)
    assert len(site.seen("quote")) == 1  # a question leaves offers behind, so it is put once
    site.behave(quote=None)
    assert len((await to(site).quote(ask(CLOCK))).quotes) == 2


async def test_a_site_that_is_not_there_is_unreachable(site: FakeSite, to: Callable[..., Planner]) -> None:
    asked = to(site)
    await site.stop()
    with pytest.raises(SiteUnreachable):
        await asked.quote(ask(CLOCK))


async def test_only_open_offers_are_taken(site: FakeSite, to: Callable[..., Planner]) -> None:
    site.behave(quote="phase:RUNNING")
    quotes = await to(site).quote(ask(CLOCK))
    assert quotes.quotes == ()
    assert words(quotes) == "an offer was dropped: its phase is RUNNING, not OFFERED."


async def test_a_uuid_stands_once_in_an_answer(site: FakeSite, to: Callable[..., Planner]) -> None:
    site.behave(quote="uuid:8a1f0e6c-0000-4000-8000-000000000001")
    quotes = await to(site).quote(ask(CLOCK))
    assert [quote.handle for quote in quotes.quotes] == ["8a1f0e6c-0000-4000-8000-000000000001"]
    assert "twice" in words(quotes)


@pytest.mark.parametrize("name", ["../../admin", "a/b", "", "..", "a b", "a?b", "%2e", "é"])
async def test_a_uuid_that_would_lead_elsewhere_is_not_used(
    site: FakeSite, to: Callable[..., Planner], name: str
) -> None:
    site.behave(quote=f"uuid:{name}")
    quotes = await to(site).quote(ask(CLOCK))
    # What the session's own address ends with names it as well.
    assert [quote.handle for quote in quotes.quotes] == list(site.sessions)


async def test_no_more_than_so_many_offers_are_taken(to: Callable[..., Planner]) -> None:
    async with FakeSite(offers=7) as site:
        quotes = await to(site, options={"most_offers": 5}).quote(ask(CLOCK))
    assert len(quotes.quotes) == 5
    assert words(quotes) == "2 more offers were left out: 5 are taken from a site."


async def test_an_answer_larger_than_the_option_is_not_taken(site: FakeSite, to: Callable[..., Planner]) -> None:
    await to(site, options={"answer_cap_bytes": 4096}).quote(ask(CLOCK))
    site.terms = type(site.terms)(extra={"note": "x" * 5000})
    with pytest.raises(SiteMisbehaved, match="4096"):
        await to(site, options={"answer_cap_bytes": 4096}).quote(ask(CLOCK))


async def test_credentials_go_with_the_question(to: Callable[..., Planner]) -> None:
    async with FakeSite(users={"broker": "secret"}) as site:
        right, wrong = Credentials("broker", "secret"), Credentials("broker", "other")
        assert (await to(site, credentials=right).quote(ask(CLOCK))).quotes
        for credentials in (wrong, None):
            with pytest.raises(SiteForbids) as caught:
                await to(site, credentials=credentials).quote(ask(CLOCK))
            assert caught.value.acts == "operator"


@pytest.mark.parametrize("url", ["", "ftp://alba"])
async def test_a_registration_without_an_address_is_a_setting_to_mend(http: aiohttp.ClientSession, url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        planner(plugin, url, http, CLOCK)
    assert caught.value.key == "url"


# ── describing ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_plain_site_is_probed_and_left_as_it_was(site: FakeSite, to: Callable[..., Planner]) -> None:
    profile = await to(site).describe(ask(CLOCK).deadline)
    assert profile.broker is None
    assert profile.executables is None
    assert profile.clock_offset == 0.0
    assert [seen.method for seen in site.requests] == ["GET", "GET"]
    assert not site.sessions


@pytest.mark.parametrize("ahead", [3600.0, -3600.0])
async def test_a_clock_that_is_off_is_noticed(to: Callable[..., Planner], ahead: float) -> None:
    async with FakeSite(ahead=ahead) as site:
        profile = await to(site).describe(ask(CLOCK).deadline)
    assert profile.clock_offset == pytest.approx(ahead, abs=1.5)


@pytest.mark.parametrize("fault", ["status:500", "status:429", "reset", "hang", "not-http"])
async def test_a_site_that_cannot_be_described_says_so(site: FakeSite, to: Callable[..., Planner], fault: str) -> None:
    site.behave(profile=fault)
    with pytest.raises(SiteError):
        await to(site).describe(ask(CLOCK, within=0.3).deadline)


@pytest.mark.parametrize("fault", ["status:500", "status:401", "redirect:/login", "reset"])
async def test_a_plain_site_must_answer_for_offer_sets(site: FakeSite, to: Callable[..., Planner], fault: str) -> None:
    site.behave(set=fault)
    with pytest.raises(SiteError):
        await to(site).describe(ask(CLOCK, within=0.3).deadline)


@pytest.mark.parametrize("fault", ["status:401", "status:405", "redirect:/login", "wrong-type"])
async def test_whatever_a_plain_site_says_of_an_unknown_address_it_stays_plain(
    site: FakeSite, to: Callable[..., Planner], fault: str
) -> None:
    site.behave(profile=fault)
    assert (await to(site).describe(ask(CLOCK).deadline)).broker is None


# ── brokers of ours ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def child() -> AsyncIterator[FakeSite]:
    profile = {"platform": "broker", "origins": ["alba", "borealis"], "executables": [kinds.PYTHON_PROGRAM]}
    async with FakeSite("child", broker_id="child-1", profile=profile) as site:
        yield site


async def test_a_broker_of_ours_describes_itself(child: FakeSite, to: Callable[..., Planner]) -> None:
    profile = await to(child).describe(ask(CLOCK).deadline)
    assert profile.broker == "child-1"
    assert profile.origins == ("alba", "borealis")
    assert profile.repeatable
    assert profile.batches


@pytest.mark.parametrize("fault", ["garbage", "not-an-object", "status:500", "status:403"])
async def test_a_broken_profile_of_a_broker_is_an_error(
    child: FakeSite, to: Callable[..., Planner], fault: str
) -> None:
    child.behave(profile=fault)
    with pytest.raises(SiteError):
        await to(child).describe(ask(CLOCK).deadline)


async def test_a_broker_that_is_ourselves_is_not_a_site(child: FakeSite, to: Callable[..., Planner]) -> None:
    with pytest.raises(SiteMisbehaved, match="this broker itself"):
        await to(child, broker_id="child-1").describe(ask(CLOCK).deadline)


async def test_until_described_a_broker_is_asked_as_a_plain_site(child: FakeSite, to: Callable[..., Planner]) -> None:
    asked = to(child)
    await asked.quote(ask(CLOCK))
    await asked.quote(ask(CLOCK))
    first, second = child.seen("quote")
    assert first.json() == wanted()
    assert hops.PATH not in first.headers
    assert second.json() == {**wanted(), "preferences": {"preset": "balanced"}}


async def test_a_broker_of_ours_learns_where_the_request_has_been(child: FakeSite, to: Callable[..., Planner]) -> None:
    asked, question = to(child), ask(CLOCK, within=4.0, user=Owner("iam", "al ice", ("g",)), path=("top", "us"))
    await asked.describe(question.deadline)
    await asked.quote(question)
    headers = child.seen("quote")[0].headers
    assert 2000 < int(headers[hops.DEADLINE]) <= 4000
    assert hops.decode_path(headers[hops.PATH]) == ("top", "us")
    assert headers[hops.REQUEST] == str(question.root)
    assert hops.decode_user(headers[hops.USER]) == question.user


async def test_our_own_id_is_always_on_the_path(child: FakeSite, to: Callable[..., Planner]) -> None:
    asked, question = to(child), ask(CLOCK, path=("top",))
    await asked.describe(question.deadline)
    await asked.quote(question)
    assert child.seen("quote")[0].headers[hops.PATH] == "top,us"


async def test_too_many_groups_are_left_out(child: FakeSite, to: Callable[..., Planner]) -> None:
    asked = to(child)
    question = ask(CLOCK, user=Owner("iam", "alice", tuple(f"group-{i}" for i in range(1000))))
    await asked.describe(question.deadline)
    await asked.quote(question)
    assert hops.decode_user(child.seen("quote")[0].headers[hops.USER]) == Owner("iam", "alice")


async def test_a_loop_is_a_no(child: FakeSite, to: Callable[..., Planner]) -> None:
    child.behave(quote="status:508")
    assert words(await to(child).quote(ask(CLOCK))) == "scripted"


# ── documents ────────────────────────────────────────────────────────────────────────────────────────────────


_NAMES = ("uuid", "url", "messages", "phase", "state", "meta", "message", "template", "values", "level", "site",
          "outcome", "reasons", "retry_after", "actual_start", "actual_cost", "unit")  # fmt: skip


def read(document: object, *, ours: bool = False) -> Quotes:
    return translate.quotes(msgspec.json.encode(document), "alba", most=200, ours=ours)


def test_messages_are_filled_where_only_their_values_came() -> None:
    messages = [
        {"template": "at most ${most} of {what}", "values": {"most": 16, "what": "cores"}},
        {"template": "ignored", "message": "said in full"},
        {"level": "DEBUG", "message": "not for people"},
        {"message": ""},
        {"message": 5, "template": ["x"], "values": 3},
        "no message at all",
        {"message": "said in full"},
    ]
    assert words(read({"result": "NO", "meta": {"messages": messages}})) == "at most 16 of cores | said in full"


@pytest.mark.parametrize("meta", [None, 5, [], {"messages": 5}, {"messages": {"a": 1}}, {"uuid": 7, "messages": [[]]}])
def test_a_no_needs_no_words(meta: object) -> None:
    assert read({"result": "NO", "meta": meta}) == Quotes()


@pytest.mark.parametrize(
    "document", [{}, {"result": "MAYBE"}, {"result": None}, {"result": "YES", "offers": {}}, [], 5]
)
def test_what_is_no_offer_set_is_refused(document: object) -> None:
    with pytest.raises(SiteMisbehaved, match="offer set"):
        read(document)


def test_a_yes_without_offers_says_so() -> None:
    assert words(read({"result": "YES"})) == "it says YES, but sent no offer."


def test_offers_that_are_none_are_dropped_one_by_one() -> None:
    good = {"phase": "OFFERED", "meta": {"uuid": "a-1"}}
    offers = [5, None, {}, {"phase": "OFFERED"}, {"meta": {"uuid": "a-2"}}, {"phase": 5, "meta": {"uuid": "a-3"}}, good]
    quotes = read({"result": "YES", "offers": offers})
    assert [quote.handle for quote in quotes.quotes] == ["a-1"]
    assert len(quotes.reasons) == 3  # of each trouble one


@pytest.mark.parametrize("name", ["phase", "state", "status"])
def test_older_dialects_call_the_phase_otherwise(name: str) -> None:
    assert (
        read({"result": "YES", "offers": [{name: "OFFERED", "meta": {"url": "http://a/offers/7/"}}]}).quotes[0].handle
        == "7"
    )


_JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_NAMES) | st.text(max_size=5), inner),
    max_leaves=20,
)


@given(_JUNK, st.sampled_from(["YES", "NO"]), st.booleans())
def test_whatever_json_comes_it_is_an_offer_set_or_refused(junk: object, result: str, ours: bool) -> None:
    for document in (junk, {"result": result, "offers": [junk], "meta": junk, "outcomes": junk}):
        try:
            quotes = read(document, ours=ours)
        except SiteMisbehaved:
            continue
        for quote in quotes.quotes:
            assert msgspec.json.decode(quote.body) == junk
        assert all(reason.text and reason.text.isprintable() for reason in quotes.reasons)


@given(_JUNK)
def test_whatever_json_comes_it_is_a_session_or_refused(junk: object) -> None:
    for document in (junk, {"phase": "RUNNING", "meta": junk, "promise": junk, "native": junk}):
        with suppress(SiteMisbehaved):
            seen = translate.sighting(msgspec.json.encode(document), "x", "alba", ours=True)
            assert seen is None or seen.phase


@given(st.binary(max_size=200))
def test_whatever_bytes_come_they_are_read_or_refused(body: bytes) -> None:
    for read_ in (
        lambda: translate.quotes(body, "alba", most=200, ours=True),
        lambda: translate.sighting(body, "x", "alba", ours=True),
        lambda: translate.many(body, ["x"], "alba"),
        lambda: translate.profile(body, "b", "alba"),
        lambda: translate.logs(body, "alba"),
        lambda: translate.results(body, "alba"),
    ):
        with suppress(SiteMisbehaved):
            read_()


def test_a_brokers_outcomes_are_reasons_only_where_it_is_one_of_ours() -> None:
    document = {
        "result": "NO",
        "meta": {"messages": [{"message": "No site can."}]},
        "outcomes": [
            {"site": "alba", "outcome": "Declined", "reasons": ["no room"], "retry_after": 60.0},
            {"site": "borealis", "outcome": "TimedOut", "retry_after": 30.0},
            {"site": "c", "outcome": "Offered", "offers": 1},
        ],
    }
    ours = read(document, ours=True)
    assert words(ours) == "No site can. | alba: no room | borealis: TimedOut"
    assert ours.retry_after == 30.0
    assert words(read(document)) == "No site can."
    said = {"messages": [{"message": "alba Declined: no room; no time"}, {"message": "No site can."}]}
    assert words(read({**document, "meta": said}, ours=True)) == words(ours)  # once
    assert words(read({**document, "outcomes": [{"site": 5}]}, ours=True)) == "No site can."
