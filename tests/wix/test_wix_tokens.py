from __future__ import annotations

import threading
from collections.abc import Callable

import httpx
import pytest
from redis import Redis
from wix_stand_in import (
    GROUP,
    SITE,
    TOKEN,
    Clock,
    WixStandIn,
    a_client,
    body_of,
    example_answer,
    example_error,
)

from core.community import SiteId
from core.errors import RetryableError
from integrations.shared import SharedRedis, open_redis
from integrations.wix.auth import Tokens
from integrations.wix.client import WixClient

KEY = f"usher:wix:{{{SITE}}}:token:app-id"
GET_GROUP = "/groups/[^/]+$"


class TokenSource:
    """Gives T1, T2, … and counts."""

    def __init__(self, lifetime_s: float = 14400) -> None:
        self.given = 0
        self.lifetime_s = lifetime_s

    def __call__(self, site: SiteId) -> tuple[str, float]:
        self.given += 1
        return f"T{self.given}", self.lifetime_s


def tokens(
    source: Callable[[SiteId], tuple[str, float]],
    redis: Redis | None = None,
    *,
    clock: Clock | None = None,
    secret: str = "app-secret",
    wait_s: float = 3,
) -> Tokens:
    now = clock or Clock()
    return Tokens("app-id", secret, source, SharedRedis(redis, now), now, wait_s)


def test_a_token_is_kept_until_five_minutes_before_its_end():
    clock, source = Clock(), TokenSource()
    held = tokens(source, clock=clock)

    assert held.current(SITE) == "T1"
    clock.now_s += 14400 - 301
    assert held.current(SITE) == "T1"
    clock.now_s += 2
    assert held.current(SITE) == "T2"


def test_a_short_lived_token_is_used_for_most_of_its_life():
    clock, source = Clock(), TokenSource(lifetime_s=60)
    held = tokens(source, clock=clock)
    held.current(SITE)

    clock.now_s += 50
    assert held.current(SITE) == "T1"
    clock.now_s += 5
    assert held.current(SITE) == "T2"


def test_every_site_has_its_own_token():
    held = tokens(TokenSource())

    assert held.current(SITE) != held.current(SiteId("other"))


def test_workers_share_a_token_through_redis(redis_client: Redis):
    first, second = TokenSource(), TokenSource()

    assert tokens(first, redis_client).current(SITE) == "T1"
    assert tokens(second, redis_client).current(SITE) == "T1"
    assert (first.given, second.given) == (1, 0)


def test_a_shared_token_ends_for_everybody_at_the_same_time(redis_client: Redis):
    tokens(TokenSource(), redis_client).current(SITE)
    left_ms = redis_client.pttl(KEY)
    assert (14400 - 300 - 60) * 1000 < left_ms <= (14400 - 300) * 1000
    clock, source = Clock(), TokenSource()
    held = tokens(source, redis_client, clock=clock)
    held.current(SITE)

    redis_client.delete(KEY)
    clock.now_s += left_ms / 1000 + 1
    held.current(SITE)

    assert source.given == 1


def test_a_token_cannot_be_read_in_redis(redis_client: Redis):
    tokens(lambda site: ("secret-bearer-token", 14400), redis_client).current(SITE)

    everything = b"".join(redis_client.get(key) or b"" for key in redis_client.keys("*"))
    assert everything
    assert b"secret-bearer-token" not in everything
    assert b"app-secret" not in everything


def test_a_token_written_with_another_secret_is_replaced(redis_client: Redis):
    tokens(TokenSource(), redis_client, secret="old").current(SITE)
    source = TokenSource()

    assert tokens(source, redis_client, secret="new").current(SITE) == "T1"
    assert source.given == 1


def test_one_sites_token_does_not_pass_for_anothers(redis_client: Redis):
    tokens(lambda site: ("token of one", 14400), redis_client).current(SITE)
    other = SiteId("other")
    redis_client.set(KEY.replace(SITE, other), redis_client.get(KEY), px=60_000)

    assert tokens(TokenSource(), redis_client).current(other) == "T1"


def test_a_newer_token_is_not_thrown_away_for_an_older_refusal(redis_client: Redis):
    source = TokenSource()
    held = tokens(source, redis_client)
    held.current(SITE)

    assert held.renewed(SITE, refused="T0") == "T1"
    assert tokens(source, redis_client).renewed(SITE, refused="T0") == "T1"
    assert source.given == 1
    assert held.renewed(SITE, refused="T1") == "T2"


def test_a_worker_takes_over_what_another_one_renewed(redis_client: Redis):
    source = TokenSource()
    one, other = tokens(source, redis_client), tokens(source, redis_client)
    one.current(SITE), other.current(SITE)
    one.renewed(SITE, refused="T1")

    assert other.renewed(SITE, refused="T1") == "T2"
    assert source.given == 2


def test_a_worker_that_died_while_renewing_holds_the_others_up_only_for_a_moment(redis_client: Redis):
    redis_client.set(f"usher:wix:{{{SITE}}}:token-lock:app-id", "somebody", px=200)

    assert tokens(TokenSource(), redis_client).current(SITE) == "T1"


def test_whoever_waited_long_enough_asks_wix_itself(redis_client: Redis):
    redis_client.set(f"usher:wix:{{{SITE}}}:token-lock:app-id", "somebody", px=600_000)

    assert tokens(TokenSource(), redis_client, wait_s=0.1).current(SITE) == "T1"
    assert redis_client.get(f"usher:wix:{{{SITE}}}:token-lock:app-id") == b"somebody"


def test_the_lock_is_given_back_when_wix_gives_no_token(redis_client: Redis):
    def fail(site: SiteId) -> tuple[str, float]:
        raise RetryableError("away")

    with pytest.raises(RetryableError):
        tokens(fail, redis_client).current(SITE)

    assert redis_client.keys() == []
    assert tokens(TokenSource(), redis_client).current(SITE) == "T1"


def test_without_redis_each_process_has_its_own_token(tmp_path):
    source = TokenSource()
    held = tokens(source, open_redis(f"unix://{tmp_path / 'nobody'}"))

    assert [held.current(SITE) for _ in range(3)] == ["T1"] * 3
    assert held.renewed(SITE, refused="T1") == "T2"


def run_all(work: list[Callable[[], object]]) -> list[object]:
    results: list[object] = []
    threads = [threading.Thread(target=lambda job=job: results.append(job())) for job in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


def refusing(token: str, at_once: int) -> Callable[[httpx.Request], httpx.Response]:
    """Answers 401 to this token, when all who hold it have asked; the group to any other."""
    everybody = threading.Barrier(at_once)

    def answer(request: httpx.Request) -> httpx.Response:
        if request.headers["authorization"] == token:
            everybody.wait(30)
            return example_error("unauthorized.401")
        return example_answer("getGroup")

    return answer


def a_slow_token_source(wix: WixStandIn) -> list[str]:
    """Gives N1, N2, …; the first one only when a second request came or can be believed not to come."""
    given: list[str] = []
    another = threading.Event()

    def answer(request: httpx.Request) -> httpx.Response:
        given.append(f"N{len(given) + 1}")
        token = given[-1]
        if len(given) > 1:
            another.set()
        another.wait(0.3)
        return httpx.Response(200, json={"access_token": token, "expires_in": 14400})

    wix.on(TOKEN, answer)
    return given


def many_ask(clients: list[WixClient]) -> list[object]:
    return run_all([lambda c=client: c.get_group(SITE, GROUP) for client in clients])


@pytest.mark.parametrize("shared", [True, False], ids=["redis", "no redis"])
def test_twenty_threads_that_meet_a_401_get_one_new_token(redis_client: Redis, shared: bool):
    wix = WixStandIn().on(GET_GROUP, refusing("T1", 20))
    client = a_client(wix, redis=redis_client if shared else None, calls_per_minute=600_000)
    client._tokens.current(SITE)
    given = a_slow_token_source(wix)

    found = many_ask([client] * 20)

    assert [group.name for group in found] == ["Sunrise Yoga"] * 20
    assert given == ["N1"]


def test_twenty_workers_that_meet_a_401_get_one_new_token(redis_client: Redis):
    wix = WixStandIn().on(GET_GROUP, refusing("T1", 20))
    clients = [a_client(wix, redis=redis_client) for _ in range(20)]
    for client in clients:
        client._tokens.current(SITE)
    assert wix.tokens == 1
    given = a_slow_token_source(wix)

    assert len(many_ask(clients)) == 20
    assert given == ["N1"]


def test_twenty_workers_that_start_together_get_one_token(redis_client: Redis):
    wix = WixStandIn().on(GET_GROUP, example_answer("getGroup"))

    given = a_slow_token_source(wix)

    assert len(many_ask([a_client(wix, redis=redis_client) for _ in range(20)])) == 20
    assert given == ["N1"]


def test_the_token_is_asked_for_as_documented_and_sent_bare():
    wix = (
        WixStandIn().on(TOKEN, example_answer("createAccessToken")).on(GET_GROUP, example_answer("getGroup"))
    )

    a_client(wix).get_group(SITE, GROUP)

    asked = wix.asked[0]
    assert (asked.method, str(asked.url)) == ("POST", "https://www.wixapis.com/oauth2/token")
    assert "authorization" not in asked.headers
    assert body_of(asked) == {
        "grant_type": "client_credentials",
        "client_id": "app-id",
        "client_secret": "app-secret",
        "instance_id": SITE,
    }
    assert wix.asked[1].headers["authorization"] == "OauthNG.JWS.example-token"


def test_a_call_is_repeated_only_once_after_a_401():
    wix = WixStandIn().on(GET_GROUP, example_error("unauthorized.401"))

    with pytest.raises(RetryableError):
        a_client(wix).get_group(SITE, GROUP)

    assert [request.headers["authorization"] for request in wix.asked_for(GET_GROUP)] == ["T1", "T2"]


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_refused_token_loses_nothing_and_says_what_to_look_at(status: int):
    """A wrong secret is for a person to mend; what waits for it must go on afterwards."""
    wix = WixStandIn().on(TOKEN, httpx.Response(status, json={"error": "invalid_client"}))

    with pytest.raises(RetryableError, match="WIX_APP_SECRET") as caught:
        a_client(wix).get_group(SITE, GROUP)

    assert not caught.value.counts
    assert caught.value.code == "invalid_client"
    assert "app-secret" not in str(caught.value)


def test_a_token_that_cannot_be_had_just_now_is_tried_again():
    wix = WixStandIn().on(TOKEN, httpx.Response(503, json={"message": "", "details": {}}))

    with pytest.raises(RetryableError):
        a_client(wix).get_group(SITE, GROUP)
