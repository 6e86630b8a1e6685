"""`python -m sandbox`: a stand-in for Wix and a mail catcher on this machine.

On readiness one line of JSON goes to standard output; logs go to standard error.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvicorn

from sandbox.app import create_app
from sandbox.control import checked_url
from sandbox.house import Sandbox
from sandbox.loading import DEFAULT_COMMUNITY, read_community
from sandbox.reading import InputError
from sandbox.sender import Keys
from sandbox.switches import SwitchError, Switches, patched

ENV_FILE_HEAD = "# Written by the sandbox at its start"
ENV_FILE_END = "# --- your own lines below this one are kept ---"

log = logging.getLogger("sandbox")


class _Server(uvicorn.Server):
    """Says when it is ready, and leaves the signals to us: uvicorn would die of them again after its end."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def main(argv: list[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("mail.log").setLevel(logging.WARNING)
    try:
        sandbox = _furnish(options)
        asyncio.run(_serve(sandbox, options))
    except (InputError, SwitchError, OSError, ValueError) as exc:
        sys.stderr.write(f"sandbox: {exc}\n")
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sandbox", description="A stand-in for Wix and a mail catcher."
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine only)")
    add("--port", type=int, default=8090, help="of API and pages; 0: any free one (default: %(default)s)")
    add(
        "--smtp-port",
        type=int,
        default=2525,
        help="of the mail catcher; 0: any free one (default: %(default)s)",
    )
    add("--webhook-url", default="", help="where webhooks go; without one they wait")
    add(
        "--community",
        type=Path,
        default=DEFAULT_COMMUNITY,
        metavar="FILE",
        help="JSON; default: a built-in one",
    )
    add("--env-file", type=Path, metavar="FILE", help="write a client's settings there")
    add(
        "--key-file",
        type=Path,
        metavar="FILE",
        help="PEM of the webhook key, made when missing; default: a new key",
    )
    add("--retry-scale", type=float, metavar="N", help="times Wix's retry schedule (default: 1.0)")
    add("--rate-limit", type=int, metavar="N", help="calls a minute; 0: no limit (default: 200)")
    add("--switch", action="append", default=[], metavar="NAME=JSON", help="any switch of /sandbox/switches")
    return parser


def _furnish(options: argparse.Namespace) -> Sandbox:
    changes: dict[str, Any] = {}
    for text in options.switch:
        name, _, value = text.partition("=")
        try:
            changes[name] = json.loads(value)
        except ValueError:
            changes[name] = value
    plain = {"retry_scale": options.retry_scale, "rate_limit_per_minute": options.rate_limit}
    changes |= {name: value for name, value in plain.items() if value is not None}
    switches = patched(Switches(), changes)
    url = checked_url(options.webhook_url)
    community = read_community(options.community, now=lambda: datetime.now(UTC))
    keys = Keys.from_file(options.key_file) if options.key_file else None
    sandbox = Sandbox(community, switches=switches, keys=keys)
    sandbox.sender.register(url)
    return sandbox


async def _serve(sandbox: Sandbox, options: argparse.Namespace) -> None:
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    # asyncio only switches Nagle's delay off for sockets that say they are TCP
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((options.host, options.port))
        shown_host = f"[{options.host}]" if ":" in options.host else options.host
        sandbox.url = f"http://{shown_host}:{listener.getsockname()[1]}"
        smtp_port = await sandbox.mail.listen(options.host, options.smtp_port)
        sandbox.smtp_url = f"smtp://{shown_host}:{smtp_port}"
        if options.env_file:
            _write_env_file(options.env_file, sandbox.settings() | _enough_to_send(options.webhook_url))

        def ready() -> None:
            line = {"ready": True, "url": sandbox.url, "smtp": sandbox.smtp_url, **sandbox.settings()}
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()
            log.info("listening on %s (API, pages) and %s (mail)", sandbox.url, sandbox.smtp_url)

        config = uvicorn.Config(
            create_app(sandbox),
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
        server = _Server(config, ready)

        def stop(*_: object) -> None:
            server.should_exit = True

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        try:
            await server.serve(sockets=[listener])
        finally:
            await sandbox.close()


def _enough_to_send(webhook_url: str) -> dict[str, str]:
    """What a client needs besides to write letters, as invented as the community."""
    parts = urlsplit(webhook_url)
    return {
        "SECRET_KEY": "only-fit-for-the-sandbox",
        "ADMIN_TOKEN": "only-fit-for-the-sandbox-too",
        "EMAIL_FROM": "Seaside Community <hello@seaside.example.com>",
        "EMAIL_POSTAL_ADDRESS": "Seaside Community, 1 Harbour Road, Port Example",
        "PUBLIC_URL": f"{parts.scheme}://{parts.netloc}" if parts.netloc else "http://127.0.0.1:8000",
        "DATA_DIR": "data/sandbox",
    }


def _write_env_file(path: Path, settings: dict[str, str]) -> None:
    """Our settings, and below them the lines that somebody added to our file, which count when they name the same.

    `InputError` rather than changing a file that somebody else began.
    """
    theirs: list[str] = []
    if path.exists():
        head, *lines = path.read_text(encoding="utf-8").splitlines() or [""]
        if head != ENV_FILE_HEAD:
            raise InputError(f"--env-file: {path} was not written by the sandbox and is left alone")
        theirs = lines[lines.index(ENV_FILE_END) + 1 :] if ENV_FILE_END in lines else []
    ours = [f'{name}="{value}"'.replace("\n", "\\n") for name, value in settings.items()]
    path.touch(mode=0o600)
    path.write_text("\n".join([ENV_FILE_HEAD, *ours, ENV_FILE_END, *theirs, ""]), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
