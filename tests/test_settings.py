"""What config/ promises: every setting, every mistake named at once, no secret shown; and how a log line looks."""

from __future__ import annotations

import json
import logging
import os
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis

from config.logging import set_up_logging
from config.settings import TO_RUN, TO_SEND, Settings, load_settings, socket_path
from core.errors import ConfigError
from integrations.store.database import parse_database_url

Read = Callable[..., Settings]

TO_START = {
    "WIX_APP_ID": "app-1",
    "WIX_APP_SECRET": "an app secret",
    "WIX_PUBLIC_KEY": "a key",
    "SECRET_KEY": "sixteen letters!",
    "EMAIL_FROM": "Usher <usher@club.example.com>",
    "PUBLIC_URL": "https://usher.example.com",
}
DEFAULTS = {
    "WIX_APP_ID": "",
    "WIX_APP_SECRET": "",
    "WIX_PUBLIC_KEY": "",
    "WIX_PUBLIC_KEY_NEXT": "",
    "WIX_API_URL": "https://www.wixapis.com",
    "WIX_API_KEY": "",
    "WIX_SITE_ID": "",
    "WIX_CALLS_PER_MINUTE": "180",
    "DATABASE_URL": "",
    "REDIS_URL": "",
    "BROKER_URL": "",
    "EMAIL_URL": "console:",
    "EMAIL_FROM": "",
    "EMAIL_BOUNCES": "",
    "EMAIL_POSTAL_ADDRESS": "",
    "PUBLIC_URL": "",
    "SECRET_KEY": "",
    "SECRET_KEY_PREVIOUS": "",
    "ADMIN_TOKEN": "",
    "AUTOMATIONS_FILE": "config/automations.toml",
    "AUTOMATIONS_LOCKED": "false",
    "DATA_DIR": "data",
    "PORT": "8000",
}
SECRETS = ("WIX_APP_SECRET", "WIX_API_KEY", "SECRET_KEY", "ADMIN_TOKEN")
SECRET_URLS = ("DATABASE_URL", "REDIS_URL", "BROKER_URL", "EMAIL_URL")


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.lower() in Settings.model_fields:
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Read:
    """Settings of an environment that holds these variables alone."""

    def read(required: tuple[str, ...] = (), *, lenient: bool = False, **variables: str) -> Settings:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return load_settings(required=required, lenient=lenient)

    return read


def plain(settings: Settings, name: str) -> str:
    value = getattr(settings, name.lower())
    if isinstance(value, bool):
        return str(value).lower()
    return str(value.get_secret_value() if hasattr(value, "get_secret_value") else value)


def problems(read: Read, required: tuple[str, ...] = (), /, **variables: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(required, **variables)
    return list(caught.value.problems)


def test_without_a_word_every_setting_has_the_default_of_the_handbook(read: Read) -> None:
    settings = read()

    assert {name.upper(): plain(settings, name) for name in Settings.model_fields} == DEFAULTS


def test_the_environment_wins_over_the_file_and_the_file_over_the_default(read: Read, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(
        '# notes\nPORT=8100\nWIX_APP_ID=from-the-file\nWIX_PUBLIC_KEY="one\\ntwo"\n'
        "EMAIL_FROM=Café <cafe@example.com>\nSOMEBODY_ELSES=setting\n",
        encoding="utf-8",
    )

    settings = read(WIX_APP_ID="from-the-environment")

    assert (settings.port, settings.wix_app_id) == (8100, "from-the-environment")
    assert settings.wix_public_key == "one\ntwo"
    assert settings.email_from == "Café <cafe@example.com>"


@pytest.mark.parametrize("empty", ["", "   "])
def test_an_empty_value_is_a_missing_one(read: Read, empty: str) -> None:
    settings = read(**dict.fromkeys(DEFAULTS, empty))

    assert {name.upper(): plain(settings, name) for name in Settings.model_fields} == DEFAULTS


def test_what_is_required_and_empty_is_named_as_missing(read: Read) -> None:
    missing = dict.fromkeys(TO_START, " ")

    assert problems(read, TO_RUN + TO_SEND, **missing) == [f"{name}: is required" for name in TO_START]


def test_blanks_around_a_value_are_not_part_of_it(read: Read) -> None:
    assert read(WIX_APP_ID=" app-1 \n").wix_app_id == "app-1"


@pytest.mark.parametrize(
    "value", ["a@b.example", "<a@b.example>", "A <a@b.example>", '"A, (B)" <a@b.example>']
)
def test_one_address_with_or_without_a_name_is_taken(read: Read, value: str) -> None:
    settings = read(EMAIL_FROM=value, EMAIL_BOUNCES=value)

    assert settings.email_from == settings.email_bounces == value


def test_a_web_process_starts_without_the_settings_of_those_who_send(read: Read) -> None:
    only_to_run = {name: TO_START[name] for name in TO_START if name.lower() in TO_RUN}

    assert read(TO_RUN, **only_to_run).wix_app_id == "app-1"
    assert problems(read, TO_RUN + TO_SEND) == ["EMAIL_FROM: is required", "PUBLIC_URL: is required"]


WRONG = [
    ("WIX_API_URL", "www.wixapis.com", "is not an http(s) URL"),
    ("WIX_API_URL", "ftp://www.wixapis.com", "is not an http(s) URL"),
    ("WIX_API_URL", "https://", "is not an http(s) URL"),
    ("WIX_API_URL", "https://[::1", "is not an http(s) URL"),
    ("WIX_API_URL", "https://user@www.wixapis.com", "must not carry a user or password"),
    ("WIX_API_URL", "https://www.wixapis.com:https", "has a port that is no number"),
    ("WIX_API_URL", "http://www.wixapis.com", "must be https"),
    ("WIX_API_URL", "http://localhost.example.com", "must be https"),
    ("WIX_API_URL", "http://127.0.0.1.example.com", "must be https"),
    ("WIX_API_URL", "http://10.0.0.1", "must be https"),
    ("PUBLIC_URL", "usher.example.com", "is not an http(s) URL"),
    ("PUBLIC_URL", "http://usher.example.com", "must be https"),
    ("PUBLIC_URL", "https://usher.example.com/?a=1", "must not have a query or fragment"),
    ("PUBLIC_URL", "https://\u2488.example.com", "has a host that is no name"),
    ("PUBLIC_URL", "https://usher.example.com/#top", "must not have a query or fragment"),
    ("WIX_CALLS_PER_MINUTE", "many", "integer"),
    ("WIX_CALLS_PER_MINUTE", "0", "greater than or equal to 1"),
    ("PORT", "http", "integer"),
    ("PORT", "65536", "less than or equal to 65535"),
    ("EMAIL_FROM", "Ann <ann@ex ample.com>", "`Name <address@domain>`"),
    ("EMAIL_FROM", "Usher", "`Name <address@domain>`"),
    ("EMAIL_FROM", "Usher <usher@>", "`Name <address@domain>`"),
    ("EMAIL_FROM", "Usher <usher@@example.com>", "`Name <address@domain>`"),
    ("EMAIL_FROM", "Usher\nBcc: all@example.com <usher@example.com>", "`Name <address@domain>`"),
    *(
        (name, value, "`Name <address@domain>`")
        for name in ("EMAIL_FROM", "EMAIL_BOUNCES")
        for value in (
            "a@b.example, c@d.example",
            "a@b.example, C <c@d.example>",
            "A <a@b.example>, C <c@d.example>",
            "a@b.example (x)",
            "A <a@b.example> (x)",
            "a @b.example",
        )
    ),
    ("EMAIL_FROM", "Usher <usher@[192.0.2.1]>", "the domain must be a name"),
    ("EMAIL_BOUNCES", "usher@[IPv6:2001:db8::1]", "the domain must be a name"),
    ("SECRET_KEY", "fifteen letters", "at least 16 characters"),
    ("REDIS_URL", "http://127.0.0.1:6379", "is not a redis://"),
    ("REDIS_URL", "redis:6379", "is not a redis://"),
    ("REDIS_URL", "redis://[::1/0", "is not a redis://"),
    ("REDIS_URL", "redis://127.0.0.1:99999", "has a port that is no number"),
    ("BROKER_URL", "kafka://127.0.0.1", "is not a redis://"),
    ("BROKER_URL", "amqp:guest", "is not a redis://"),
    ("BROKER_URL", "amqp://guest@127.0.0.1:rabbit", "has a port that is no number"),
]


@pytest.mark.parametrize(("name", "value", "complaint"), WRONG)
def test_a_wrong_value_is_one_line_that_names_the_variable(
    read: Read, name: str, value: str, complaint: str
) -> None:
    [problem] = problems(read, **{name: value})

    assert problem.startswith(f"{name}: ")
    assert complaint in problem
    assert "\n" not in problem


def test_all_that_is_wrong_and_all_that_is_missing_stand_in_one_message(read: Read) -> None:
    wrong = {"PORT": "http", "WIX_API_URL": "ftp://wix", "REDIS_URL": "nowhere", "SECRET_KEY": "short"}

    with pytest.raises(ConfigError) as caught:
        read(TO_RUN + TO_SEND, **wrong, WIX_APP_ID="app-1", WIX_API_KEY="a key alone")

    named = [problem.partition(":")[0] for problem in caught.value.problems]
    missing = {"WIX_APP_SECRET", "WIX_PUBLIC_KEY", "EMAIL_FROM", "PUBLIC_URL"}
    assert set(named) == {*wrong, *missing, "WIX_API_KEY, WIX_SITE_ID"}
    assert len(named) == len(set(named)), "each is named once"
    assert str(caught.value).splitlines() == [
        "Not fit to start",
        *(f"  - {problem}" for problem in caught.value.problems),
    ]


def test_read_leniently_what_is_wrong_has_its_default_and_the_rest_its_value(read: Read) -> None:
    settings = read(("wix_app_id",), lenient=True, PORT="http", WIX_SITE_ID="site-1")

    assert (settings.port, settings.wix_site_id) == (8000, "site-1")


@pytest.mark.parametrize("given", [{"WIX_API_KEY": "IST.key"}, {"WIX_SITE_ID": "site-1"}])
def test_half_of_the_second_identity_is_a_mistake(read: Read, given: dict[str, str]) -> None:
    assert problems(read, **given) == ["WIX_API_KEY, WIX_SITE_ID: belong together; set both or neither"]


def test_the_whole_second_identity_is_none(read: Read) -> None:
    assert read(WIX_API_KEY="IST.key", WIX_SITE_ID="site-1").wix_site_id == "site-1"


def test_a_file_that_is_not_text_is_named(read: Read, tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"EMAIL_FROM=caf\xe9@example.com\n")

    assert problems(read) == [".env: cannot be read (UnicodeDecodeError)"]


def test_no_secret_shows_when_settings_are_printed(read: Read) -> None:
    variables = dict.fromkeys(SECRETS, "hunter2-hunter2-hunter2") | {
        "DATABASE_URL": "postgresql://usher:hunter2@127.0.0.1/usher",
        "REDIS_URL": "redis://:hunter2@127.0.0.1",
        "BROKER_URL": "amqp://usher:hunter2@127.0.0.1",
        "EMAIL_URL": "smtp://usher:hunter2@127.0.0.1",
        "WIX_SITE_ID": "site-1",
    }
    settings = read(**variables)

    assert {name: plain(settings, name) for name in variables} == variables
    assert "hunter2" not in f"{settings!r} {settings} {settings.model_dump()}"


# U+2100 makes the standard library's own complaint about a URL quote user and password.
@pytest.mark.parametrize("name", [*SECRETS, *SECRET_URLS, "WIX_API_URL", "PUBLIC_URL"])
@pytest.mark.parametrize("value", ["hunter2", "nowhere://usher:hunter2@[", "redis://:hunter2\u2100@h:port"])
def test_no_secret_shows_in_a_complaint(read: Read, name: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(("wix_app_id",), **{name: value})

    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8090",
        "http://localhost:8090",
        "http://[::1]:8090",
        "http://127.8.8.8",
        "https://x.org",
    ],
)
def test_plain_http_is_for_this_machine_and_https_for_all(read: Read, url: str) -> None:
    settings = read(WIX_API_URL=f"{url}/", PUBLIC_URL=f"{url}/usher/")

    assert (settings.wix_api_url, settings.public_url) == (url, f"{url}/usher")


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("HTTPS://Usher.Example.com/Path/", "https://usher.example.com/Path"),
        ("http://LOCALHOST:1", "http://localhost:1"),
        ("https://bücher.example:8443/a", "https://xn--bcher-kva.example:8443/a"),
    ],
)
def test_an_address_is_spelled_as_it_goes_over_the_wire(read: Read, given: str, taken: str) -> None:
    settings = read(PUBLIC_URL=given, WIX_API_URL=given)

    assert (settings.public_url, settings.wix_api_url) == (taken, taken)


@pytest.mark.parametrize(
    ("url", "for_redis", "for_celery"),
    [
        ("redis://h:6380/2", "redis://h:6380/2", "redis://h:6380/2"),
        ("rediss://:pass@h/0", "rediss://:pass@h/0", "rediss://:pass@h/0"),
        ("valkey://valkey:6379/0", "redis://valkey:6379/0", "redis://valkey:6379/0"),
        ("valkeys://h", "rediss://h", "rediss://h"),
        ("valkey://:myvalkeypw@h", "redis://:myvalkeypw@h", "redis://:myvalkeypw@h"),
        ("REDIS://:unix@h", "redis://:unix@h", "redis://:unix@h"),
        ("redis://valkey:6379/0", "redis://valkey:6379/0", "redis://valkey:6379/0"),
        ("rediss://:valkey@h", "rediss://:valkey@h", "rediss://:valkey@h"),
        ("unix:///run/redis.sock", "unix:///run/redis.sock", "redis+socket:///run/redis.sock"),
        ("redis+socket:///run/redis.sock", "unix:///run/redis.sock", "redis+socket:///run/redis.sock"),
    ],
)
def test_each_form_of_redis_is_spelled_for_its_reader(
    read: Read, url: str, for_redis: str, for_celery: str
) -> None:
    settings = read(REDIS_URL=url)

    assert (settings.redis, settings.broker) == (for_redis, for_celery)


@pytest.mark.parametrize("url", ["amqp://u:p@h:5672//", "amqps://h", "redis://other:6379/1"])
def test_another_broker_is_for_the_broker_alone(read: Read, url: str) -> None:
    settings = read(REDIS_URL="redis://h:6379/0", BROKER_URL=url)

    assert (settings.redis, settings.broker) == ("redis://h:6379/0", url)


def test_without_urls_everything_lies_in_the_data_folder(read: Read, tmp_path: Path) -> None:
    settings = read(DATA_DIR="there")
    socket = tmp_path / "there" / "redis" / "redis.sock"
    if len(str(socket).encode()) > 90:
        socket = socket_path(Path("there"))

    assert settings.database == f"sqlite:///{tmp_path / 'there' / 'usher.db'}"
    assert settings.redis == f"unix://{socket}"
    assert settings.broker == f"redis+socket://{socket}"


@pytest.mark.parametrize("name", ["plain", "a b%20#c?d ü", "100%", "a@b:c", "+"])
def test_the_database_lies_in_the_data_folder_whatever_its_name(
    read: Read, tmp_path: Path, name: str
) -> None:
    settings = read(DATA_DIR=name)

    assert parse_database_url(settings.database).database == str(tmp_path / name / "usher.db")


def test_a_database_that_is_named_is_taken_as_it_stands(read: Read) -> None:
    url = "postgresql+psycopg://usher:p%40ss@db.example.com:5433/usher?sslmode=require"

    assert read(DATABASE_URL=url).database == url


def test_a_short_data_folder_holds_the_socket() -> None:
    assert socket_path(Path("/srv/usher")) == Path("/srv/usher/redis/redis.sock").resolve()


def test_a_socket_goes_elsewhere_where_the_path_is_too_long_or_has_a_blank() -> None:
    long, spaced = Path("/srv/" + "usher/" * 20), Path("/srv/my usher")
    sockets = {folder: socket_path(folder) for folder in (long, spaced, Path("/srv/your usher"))}

    for folder, socket in sockets.items():
        assert not socket.is_relative_to(folder)
        assert len(str(socket).encode()) < 104, "the least any system allows"
        assert " " not in str(socket)
        assert socket == socket_path(folder), "the next start finds it again"
    assert len(set(sockets.values())) == len(sockets), "two houses do not share one"


def test_a_folder_with_letters_that_urls_escape_still_leads_redis_to_its_socket(read: Read) -> None:
    settings = read(DATA_DIR="/srv/Büro#100%")

    with Redis.from_url(settings.redis) as redis:
        assert redis.connection_pool.connection_kwargs["path"] == str(socket_path(Path("/srv/Büro#100%")))


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_log_line_is_one_json_object_with_its_fields(
    root_logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up_logging("worker")
    set_up_logging("worker")  # Celery's signal sets it up a second time

    logging.getLogger("tasks.letters").info("letter.sent", extra={"message_id": "m1", "note": "a\nb"})
    logging.getLogger("tasks.letters").debug("letter.looked_at")
    logging.getLogger("httpx").info("HTTP Request: GET https://www.wixapis.com/members?email=ann@example.com")
    try:
        raise RuntimeError("first\nsecond")
    except RuntimeError:
        logging.getLogger("tasks.events").exception("event.failed")

    sent, failed = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert sent.pop("timestamp").endswith("Z")
    assert sent == {
        "event": "letter.sent",
        "level": "info",
        "logger": "tasks.letters",
        "process": "worker",
        "message_id": "m1",
        "note": "a\nb",
    }
    assert (failed["event"], failed["level"]) == ("event.failed", "error")
    assert "first\nsecond" in failed["exception"]
