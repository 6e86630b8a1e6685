from __future__ import annotations

import pytest

from core.errors import ConfigError
from core.pacing import Limits
from integrations.email.transport import mail_from_url
from integrations.email.url import parse_email_url


def test_an_email_url_is_understood() -> None:
    url = parse_email_url("smtp://us%40er:p%3Aw@mail.example.com?connections=4&timeout_s=5&verp=off")
    assert (url.host, url.port, url.user, url.password) == ("mail.example.com", 587, "us@er", "p:w")
    assert (url.connections, url.timeout_s, url.reply_timeout_s, url.verp) == (4, 5.0, 600.0, False)
    assert parse_email_url("smtps://mail.example.com").port == 465
    assert parse_email_url("smtp://[::1]:2525").host == "::1"


def test_limits_are_in_the_providers_terms() -> None:
    of_all = "per_second=14.5&per_minute=500&per_day=50000"
    of_domain = "domain_per_second=2&domain_per_minute=0.5&domain_per_day=1000"
    url = parse_email_url(f"smtp://mail.example.com?{of_all}&{of_domain}&warm_up=50")
    assert url.limits == Limits(14.5, 500, 50_000, 2, 0.5, 1_000, 50)


def test_what_is_not_said_is_no_limit() -> None:
    url = parse_email_url("smtp://mail.example.com")
    assert (url.limits, url.connections, url.verp) == (Limits(), None, True)
    assert parse_email_url("console:").limits == Limits()


@pytest.mark.parametrize(
    ("url", "starttls"),
    [
        ("smtp://mail.example.com", True),
        ("smtp://u:p@mail.example.com", True),
        ("smtp://u:p@localhost", True),
        ("smtp://localhost:1025", False),
        ("smtp://127.0.0.1:1025?tls=require", True),
        ("smtp://mailhog:1025?tls=off", False),
        ("smtps://mail.example.com", False),
    ],
)
def test_only_this_machine_or_an_explicit_wish_is_spoken_to_in_clear(url: str, starttls: bool) -> None:
    assert parse_email_url(url).starttls is starttls


@pytest.mark.parametrize(
    "url",
    [
        "",
        "mail.example.com",
        "http://mail.example.com",
        "console:x",
        "smtp://",
        "smtp://:587",
        "smtp://mail.example.com:0",
        "smtp://mail.example.com:",
        "smtp://mail.example.com:99999",
        "smtp://mail.example.com:smtp",
        "smtp://mail.example.com/path",
        "smtp://mail.example.com#x",
        "smtp://mail example.com",
        "smtp://user@mail.example.com",
        "smtp://mail.example.com?colour=red",
        "smtp://mail.example.com?connections=0",
        "smtp://mail.example.com?connections=1.5",
        "smtp://mail.example.com?connections=",
        "smtp://mail.example.com?per_second=fast",
        "smtp://mail.example.com?per_second=nan",
        "smtp://mail.example.com?per_second=-1",
        "smtp://mail.example.com?per_minute=0",
        "smtp://mail.example.com?per_day=0",
        "smtp://mail.example.com?per_day=0.5",
        "smtp://mail.example.com?per_day=1e3",
        "smtp://mail.example.com?domain_per_day=٣",
        "smtp://mail.example.com?warm_up=0",
        "smtp://mail.example.com?warm_up=50&per_day=50",
        "smtp://mail.example.com?verp=maybe",
        "smtp://mail.example.com?tls=maybe",
        "smtp://u:p@mail.example.com?tls=off",
        "smtps://mail.example.com?tls=off",
    ],
)
def test_a_mistake_in_an_email_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_email_url(url)
    with pytest.raises(ConfigError, match="EMAIL_URL"):
        mail_from_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "smtp://user:hun/ter@mail.example.com:587",
        "smtp://user:hun?ter@mail.example.com:587",
        "smtp://user:hun#ter@mail.example.com:587",
        "smtp://user:12/hunter@mail.example.com:587",
        "smtp://user:12?hunter@mail.example.com",
        "smtp://user:hunter@mail.example.com:port",
        "smtp://user:hunter@mail.example.com?colour=red",
        "smtp://user:hun／ter@mail.example.com",
        "smtp://user:hunter@mail.example.com?tls=off",
        "smtp://user:hun[ter@mail.example.com",
    ],
)
def test_no_error_about_an_email_url_holds_the_password(url: str) -> None:
    with pytest.raises(ValueError, match=r"\w") as failure:
        parse_email_url(url)
    assert "hun" not in str(failure.value)
    assert "ter" not in str(failure.value)


def test_the_password_shows_in_no_repr() -> None:
    assert "hunter" not in repr(parse_email_url("smtp://user:hunter@mail.example.com"))


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("per_hour=5", "unknown option 'per_hour'"),
        ("per_day=many", "option per_day must be a whole number from 1 to 100,000,000, not 'many'"),
        ("per_second=0", "option per_second must be a number from 0.001 to 100,000, not '0'"),
        ("verp=no", "option verp must be on or off, not 'no'"),
        ("warm_up=99&per_day=9", "option warm_up=99 (letters on the first day) must be below per_day=9"),
    ],
)
def test_a_mistake_in_an_option_is_named(option: str, said: str) -> None:
    with pytest.raises(ValueError, match=r"\w") as failure:
        parse_email_url(f"smtp://mail.example.com?{option}")
    assert said in str(failure.value)
