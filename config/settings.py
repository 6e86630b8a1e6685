"""All settings, read once by whoever puts a process together. The environment wins over `.env`.

A bad or missing value stops the start: `load_settings` raises one ConfigError that names every problem by variable,
never by a secret's value.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Mapping, Sequence
from email.headerregistry import Address
from email.utils import parseaddr
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, quote, urlsplit, urlunsplit

import idna
import sqlalchemy as sa
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from core.errors import ConfigError

_EMPTY_SECRET = SecretStr("")


class Settings(BaseSettings):
    """Field names in capitals are the variables; `.env.example` explains each."""

    model_config = SettingsConfigDict(env_file=".env", env_file_encoding="utf-8", extra="ignore", frozen=True)

    wix_app_id: str = ""
    wix_app_secret: SecretStr = _EMPTY_SECRET
    wix_public_key: str = ""
    wix_public_key_next: str = ""
    wix_api_url: str = "https://www.wixapis.com"
    wix_api_key: SecretStr = _EMPTY_SECRET
    wix_site_id: str = ""
    wix_calls_per_minute: int = Field(180, ge=1, le=100_000)
    database_url: SecretStr = _EMPTY_SECRET
    redis_url: SecretStr = _EMPTY_SECRET
    broker_url: SecretStr = _EMPTY_SECRET
    email_url: SecretStr = SecretStr("console:")
    email_from: str = ""
    email_postal_address: str = ""
    public_url: str = ""
    email_bounces: str = ""
    secret_key: SecretStr = _EMPTY_SECRET
    secret_key_previous: SecretStr = _EMPTY_SECRET
    admin_token: SecretStr = _EMPTY_SECRET
    automations_file: Path = Path("config/automations.toml")
    automations_locked: bool = False
    data_dir: Path = Path("data")
    port: int = Field(8000, ge=0, le=65535)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        del settings_cls, file_secret_settings
        return init_settings, env_settings, dotenv_settings

    @field_validator("*", mode="before")
    @classmethod
    def _empty_is_missing(cls, value: Any, info: Any) -> Any:
        """`NAME=` in a file means: not set."""
        if isinstance(value, str) and not value.strip():
            return cls.model_fields[info.field_name].get_default()
        return value.strip() if isinstance(value, str) else value

    @field_validator("wix_api_url")
    @classmethod
    def _api_url(cls, value: str) -> str:
        url = _http_url(value)
        if url.scheme == "http" and not _is_loopback(url.hostname or ""):
            raise ValueError("must be https; plain http is for the loopback address only")
        return urlunsplit(url).rstrip("/")

    @field_validator("public_url")
    @classmethod
    def _public_url(cls, value: str) -> str:
        if not value:
            return value
        url = _http_url(value)
        if url.scheme == "http" and not _is_loopback(url.hostname or ""):
            raise ValueError("must be https: mail clients unsubscribe through it")
        if url.query or url.fragment:
            raise ValueError("must not have a query or fragment")
        return urlunsplit(url).rstrip("/")

    @field_validator("email_from", "email_bounces")
    @classmethod
    def _email_from(cls, value: str) -> str:
        if not value:
            return value
        _, address = parseaddr(value)
        # The parser closes gaps, drops comments and takes the first of several: what it found must be all there is.
        if (
            "\n" in value
            or "\r" in value
            or not re.fullmatch(r"[^@\s]+@[^@\s]+", address)
            or not (value == address or value.endswith(f"<{address}>"))
        ):
            raise ValueError("is not of the form `Name <address@domain>`")
        if address.endswith("]"):
            raise ValueError("is not of the form `Name <address@domain>`: the domain must be a name")
        try:
            Address(addr_spec=address)
        except Exception as exc:  # the parser fails in many ways
            raise ValueError("is not of the form `Name <address@domain>`") from exc
        return value

    @field_validator("secret_key", "secret_key_previous")
    @classmethod
    def _secret_key(cls, value: SecretStr) -> SecretStr:
        if value.get_secret_value() and len(value.get_secret_value()) < 16:
            raise ValueError("is too short to sign with: at least 16 characters")
        return value

    @field_validator("redis_url")
    @classmethod
    def _redis_url(cls, value: SecretStr) -> SecretStr:
        if value.get_secret_value():
            schemes = ("redis", "rediss", "unix", "valkey", "valkeys", "redis+socket")
            _url(value.get_secret_value(), schemes, "is not a redis://, rediss:// or unix:// URL")
        return value

    @field_validator("broker_url")
    @classmethod
    def _broker_url(cls, value: SecretStr) -> SecretStr:
        if value.get_secret_value():
            schemes = ("redis", "rediss", "redis+socket", "amqp", "amqps")
            _url(value.get_secret_value(), schemes, "is not a redis://, rediss:// or amqp:// URL")
        return value

    @property
    def secret_keys(self) -> tuple[str, ...]:
        """The one that signs, then the one that is still believed."""
        keys = (self.secret_key.get_secret_value(), self.secret_key_previous.get_secret_value())
        return tuple(key for number, key in enumerate(keys) if key or number == 0)

    @property
    def database(self) -> str:
        """The database's URL; SQLite in DATA_DIR when none is set."""
        if url := self.database_url.get_secret_value():
            return url
        return sa.URL.create("sqlite", database=str(self.data_dir.resolve() / "usher.db")).render_as_string()

    @property
    def redis(self) -> str:
        """Redis's URL for redis-py; the embedded server's socket when none is set."""
        url = self.redis_url.get_secret_value()
        if not url:
            return f"unix://{quote(str(socket_path(self.data_dir)))}"
        return _respelled(url, {"valkey": "redis", "valkeys": "rediss", "redis+socket": "unix"})

    @property
    def broker(self) -> str:
        """The broker's URL as Celery spells it."""
        url = self.broker_url.get_secret_value() or self.redis
        return _respelled(url, {"unix": "redis+socket"})


def socket_path(data_dir: Path) -> Path:
    """Where the embedded Redis listens: in DATA_DIR, or beside it where a socket or Redis cannot have that path.

    The system limits a socket's path to about 100 bytes, and Redis's configuration file knows no spaces.
    """
    here = data_dir.resolve() / "redis" / "redis.sock"
    if len(str(here).encode()) <= 90 and not any(character.isspace() for character in str(here)):
        return here
    name = hashlib.sha256(str(data_dir.resolve()).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"usher-{name}" / "redis.sock"


TO_RUN = ("wix_app_id", "wix_app_secret", "wix_public_key", "secret_key")
TO_SEND = ("email_from", "public_url")


def load_settings(
    *, required: Sequence[str] = (), env_file: str | None = ".env", lenient: bool = False, **values: Any
) -> Settings:
    """Read the environment and `.env`. `required` names the fields that this process cannot do without.

    Raises ConfigError naming every problem at once; `lenient` puts the default in the place of what is wrong.
    """
    problems: list[str] = []
    wrong: dict[str, Any] = {}
    try:
        settings = Settings(_env_file=env_file, **values)
    except ValidationError as exc:
        for error in exc.errors(include_input=False, include_url=False, include_context=False):
            text = error["msg"].removeprefix("Value error, ")
            name = str(error["loc"][0])
            problems.append(f"{name.upper()}: {text}")
            wrong[name] = Settings.model_fields[name].get_default()
        # Once more without the wrong ones, so that what is missing is said in the same message.
        settings = Settings(_env_file=env_file, **{**values, **wrong})
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(NOT_FIT, [f"{env_file}: cannot be read ({type(exc).__name__})"]) from exc
    problems += [
        f"{name.upper()}: is required"
        for name in required
        if name not in wrong and not _plain(getattr(settings, name))
    ]
    if bool(_plain(settings.wix_api_key)) != bool(settings.wix_site_id):
        problems.append("WIX_API_KEY, WIX_SITE_ID: belong together; set both or neither")
    if problems and not lenient:
        raise ConfigError(NOT_FIT, problems)
    return settings


NOT_FIT = "Not fit to start"


def _plain(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


def _http_url(value: str) -> SplitResult:
    """With scheme and host as they go over the wire: lower case, and A-labels (RFC 5891)."""
    url = _url(value, ("http", "https"), "is not an http(s) URL")
    if not url.hostname:
        raise ValueError("is not an http(s) URL")
    if url.username or url.password:
        raise ValueError("must not carry a user or password")
    if url.netloc.isascii():
        return url._replace(netloc=url.netloc.lower())
    try:
        host = idna.encode(url.hostname, uts46=True).decode()
    except idna.IDNAError:
        raise ValueError("has a host that is no name") from None
    return url._replace(netloc=host if url.port is None else f"{host}:{url.port}")


def _url(value: str, schemes: Sequence[str], complaint: str) -> SplitResult:
    """The library's own complaints may quote a password."""
    try:
        url = urlsplit(value)
    except ValueError:
        raise ValueError(complaint) from None
    if url.scheme not in schemes or "://" not in value:
        raise ValueError(complaint)
    try:
        _ = url.port
    except ValueError:
        raise ValueError("has a port that is no number from 0 to 65535") from None
    return url


def _respelled(url: str, schemes: Mapping[str, str]) -> str:
    """The same URL under its reader's name for the scheme; nothing after it is touched."""
    scheme, _, rest = url.partition(":")
    return f"{schemes.get(scheme.lower(), scheme.lower())}:{rest}"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
