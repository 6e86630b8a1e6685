"""PUBLIC_URL: the real web process behind TLS, and the proxies that people put in front of it."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
import uvicorn

from admin.doctor.findings import Finding, Subject
from admin.doctor.public import check_public, judge_click, judge_page, judge_transport, judge_webhooks
from admin.doctor.reach import NoWayError, addresses_of, private_among, require_way
from asgi import create_app
from config.settings import Settings
from integrations.store.database import Database
from integrations.store.tables import metadata
from tests.doctor.patient import a_subject, said, verdict, verdicts
from tests.email.smtp_servers import self_signed


class Web(uvicorn.Server):
    def __init__(self, settings: Settings, **options: object) -> None:
        super().__init__(uvicorn.Config(create_app(settings), port=0, log_config=None, **options))  # type: ignore[arg-type]
        self.ready = threading.Event()

    async def startup(self, sockets: object = None) -> None:
        await super().startup()
        self.ready.set()


@contextmanager
def web_of(settings: Settings, **options: object) -> Iterator[int]:
    """The web process with these settings, in a thread; gives its port."""
    web = Web(settings, **options)
    thread = threading.Thread(target=web.run, daemon=True)
    thread.start()
    try:
        assert web.ready.wait(20)
        yield web.servers[0].sockets[0].getsockname()[1]
    finally:
        web.should_exit = True
        thread.join(20)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    url = f"sqlite:///{tmp_path / 'usher.db'}"
    database = Database(url)
    database.migrate()
    database.close()
    return a_subject(tmp_path, database_url=url, redis_url=f"unix://{tmp_path}/nobody.sock").settings


def at(url: str, settings: Settings, trust: ssl.SSLContext | None = None) -> Subject:
    subject = a_subject(settings.data_dir, public_url=url)
    return replace(subject, trust=trust)


def test_a_web_process_behind_tls_has_nothing_to_mend_but_its_address(
    settings: Settings, tmp_path: Path
) -> None:
    _, trust = self_signed(tmp_path)
    pem = str(tmp_path / "server.pem")
    with web_of(settings, ssl_certfile=pem, ssl_keyfile=pem) as port:
        findings = list(check_public(at(f"https://127.0.0.1:{port}", settings, trust)))

    assert verdicts(findings) == {
        "public": "warning",
        "public.tls": "ok",
        "public.webhooks": "ok",
        "public.unsubscribe": "ok",
        "public.one_click": "ok",
        "public.closed": "warning",
    }
    assert "cannot reach" in said(findings, "public")


def test_the_trial_of_the_link_leaves_nothing_in_any_table(settings: Settings) -> None:
    with web_of(settings) as port:
        found = verdicts(check_public(at(f"http://127.0.0.1:{port}", settings)))

    assert (found["public.unsubscribe"], found["public.one_click"]) == ("ok", "ok")
    database = Database(settings.database)
    with database.read() as tx:
        assert {
            table.name: tx.execute(sa.select(table)).all()
            for table in metadata.sorted_tables
            if tx.execute(sa.select(table)).all()
        } == {}
    database.close()


def test_a_certificate_nobody_trusts_is_told_with_its_reason(settings: Settings, tmp_path: Path) -> None:
    self_signed(tmp_path)
    pem = str(tmp_path / "server.pem")
    with web_of(settings, ssl_certfile=pem, ssl_keyfile=pem) as port:
        findings = list(check_public(at(f"https://127.0.0.1:{port}", settings)))

    assert verdicts(findings)["public.tls"] == "failed"
    assert "self-signed" in said(findings, "public.tls")
    assert "authority" in said(findings, "public.tls")


def test_another_secret_key_is_found_by_the_link(settings: Settings) -> None:
    with web_of(settings) as port:
        subject = a_subject(
            settings.data_dir,
            public_url=f"http://127.0.0.1:{port}",
            secret_key="quite another secret of the web process",
        )
        findings = list(check_public(subject))

    assert verdicts(findings)["public.unsubscribe"] == "failed"
    assert "SECRET_KEY" in said(findings, "public.unsubscribe")


Answer = Callable[[BaseHTTPRequestHandler], tuple[int, dict[str, str], bytes]]


@contextmanager
def proxy(answer: Answer) -> Iterator[int]:
    """Something in front of Usher with ideas of its own."""

    class Handler(BaseHTTPRequestHandler):
        def _respond(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            status, headers, body = answer(self)
            self.send_response(status)
            for name, value in {**headers, "content-length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = _respond

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join(10)


def behind(answer: Answer, settings: Settings) -> list[Finding]:
    with proxy(answer) as port:
        return list(check_public(at(f"http://127.0.0.1:{port}", settings)))


def test_a_proxy_without_a_web_process_behind_it_is_told(settings: Settings) -> None:
    findings = behind(lambda _: (502, {}, b"bad gateway"), settings)

    assert verdicts(findings)["public.tls"] == "failed"
    assert "usher web" in said(findings, "public.tls")


def test_a_proxy_that_redirects_breaks_webhooks_page_and_click(settings: Settings) -> None:
    found = verdicts(behind(lambda _: (301, {"location": "https://elsewhere.example/"}, b""), settings))

    broken = ("public.webhooks", "public.unsubscribe", "public.one_click")
    assert [found[line] for line in broken] == ["failed"] * 3


def test_a_proxy_that_answers_everything_itself_is_not_taken_for_usher(settings: Settings) -> None:
    found = verdicts(behind(lambda _: (200, {}, b"welcome to nginx"), settings))

    broken = ("public.webhooks", "public.unsubscribe", "public.one_click")
    assert [found[line] for line in broken] == ["failed"] * 3
    assert found["public.closed"] == "ok"


def test_a_proxy_that_hands_on_only_what_letters_and_wix_need_is_as_it_should_be(settings: Settings) -> None:
    """As the README has it for Caddy, which answers 200 with nothing to the rest."""
    with web_of(settings) as port:

        def caddy(request: BaseHTTPRequestHandler) -> tuple[int, dict[str, str], bytes]:
            if not request.path.startswith(("/webhooks/wix", "/unsubscribe/")):
                return 200, {}, b""
            answer = httpx.request(request.command, f"http://127.0.0.1:{port}{request.path}", trust_env=False)
            return answer.status_code, {"content-type": "text/html"}, answer.content

        found = verdicts(behind(caddy, settings))

    expected = ("public.webhooks", "public.unsubscribe", "public.one_click", "public.closed")
    assert [found[line] for line in expected] == ["ok"] * 4


def test_something_that_speaks_no_http_is_told(settings: Settings) -> None:
    from tests.email.smtp_servers import scripted_server

    with scripted_server(lambda _: None, lambda talk: talk.say("220 mx.example.com")) as port:
        findings = list(check_public(at(f"http://127.0.0.1:{port}", settings)))

    assert verdicts(findings)["public.tls"] == "failed"
    assert "HTTP" in said(findings, "public.tls")


def test_an_address_where_nobody_listens_is_a_failure(settings: Settings) -> None:
    assert verdicts(check_public(at("http://127.0.0.1:9", settings))) == {"public": "failed"}


def test_without_a_public_url_there_is_nothing_to_look_at(settings: Settings) -> None:
    assert verdicts(check_public(at("", settings))) == {"public": "not checked"}


def test_a_name_that_does_not_exist_is_told_from_a_network_that_is_not_there() -> None:
    with pytest.raises(NoWayError):
        addresses_of("nowhere.invalid", 443)
    with pytest.raises(NoWayError) as wrong:
        addresses_of("a" * 70 + ".example", 443)
    with pytest.raises(NoWayError) as refused:
        require_way("127.0.0.1", 9)
    assert wrong.value.is_theirs
    assert refused.value.is_theirs


def test_private_addresses_are_those_the_world_cannot_reach() -> None:
    addresses = ["127.0.0.1", "10.0.0.1", "192.168.1.1", "fe80::1%eth0", "::1", "9.9.9.9", "2620:fe::fe"]

    assert private_among(addresses) == addresses[:5]


@pytest.mark.parametrize(
    ("status", "expected"), [(401, "ok"), (200, "failed"), (308, "failed"), (404, "failed"), (405, "failed")]
)
def test_the_door_refuses_what_nobody_signed(status: int, expected: str) -> None:
    assert verdict(judge_webhooks(status)) == expected


OURS = b"<h1>You are unsubscribed</h1>"


@pytest.mark.parametrize(
    ("answer", "expected", "words"),
    [
        (httpx.Response(200, content=OURS), "ok", "arrives"),
        (httpx.Response(200, content=OURS, headers={"set-cookie": "a=b"}), "failed", "cookie"),
        (httpx.Response(302), "failed", "redirect"),
        (httpx.Response(200, content=b"fine"), "failed", "without Usher"),
        (httpx.Response(404, content=b"<h1>This link does not work</h1>"), "failed", "404"),
        (httpx.Response(403, content=b"csrf"), "failed", "403"),
        (httpx.Response(404, content=b"nginx"), "failed", "404"),
        (httpx.Response(405), "failed", "405"),
    ],
)
def test_the_one_click_arrives_as_it_was_sent(answer: httpx.Response, expected: str, words: str) -> None:
    finding = judge_click(answer)

    assert verdict(finding) == expected
    assert words in finding.seen


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (httpx.Response(200, content=b'<form method="post"><button>'), "ok"),
        (httpx.Response(404, content=OURS), "failed"),
        (httpx.Response(404, content=b"nginx"), "failed"),
        (httpx.Response(200, content=b"welcome"), "failed"),
    ],
)
def test_the_page_behind_the_link_is_usher_s(answer: httpx.Response, expected: str) -> None:
    assert verdict(judge_page(answer)) == expected


@pytest.mark.parametrize(
    ("scheme", "status", "expected"),
    [("https", 200, "ok"), ("https", 404, "ok"), ("http", 200, "warning"), ("https", 502, "failed")],
)
def test_the_way_to_usher_is_https_with_usher_at_its_end(scheme: str, status: int, expected: str) -> None:
    assert verdict(judge_transport(scheme, status)) == expected
