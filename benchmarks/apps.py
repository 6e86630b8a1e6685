"""What the door is compared with, as processes of their own: `python -m benchmarks.apps PORT NAME KEY_FILE [REDIS]`.

- `bare`: reads the body and answers 200; what the sender can reach at most.
- `verify`: Starlette, and the signature checked with a parsed key and a remembered header; nothing read or stored.
- `naive`: what one writes first: `jwt.decode` with the key's text, SET NX in Redis, `task.delay()` in the request.
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

import jwt
import uvicorn
from celery import Celery
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from redis import Redis
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send


async def bare(_scope: Scope, receive: Receive, send: Send) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


def verify(pem: str) -> ASGIApp:
    key = load_pem_public_key(pem.encode())
    if not isinstance(key, RSAPublicKey):
        raise TypeError
    padding, algorithm = PKCS1v15(), SHA256()
    known: set[bytes] = set()

    async def receive_event(request: Request) -> Response:
        signed, _, signature = (await request.body()).rpartition(b".")
        header = signed[: signed.find(b".")]
        try:
            key.verify(base64.urlsafe_b64decode(signature + b"=="), signed, padding, algorithm)
        except InvalidSignature:
            return Response(status_code=401)
        if header not in known:
            if json.loads(base64.urlsafe_b64decode(header + b"=="))["alg"] != "RS256":
                return Response(status_code=401)
            known.add(header)
        return Response()

    return Starlette(routes=[Route("/webhooks/wix", receive_event, methods=["POST"])])


def naive(pem: str, socket: str) -> ASGIApp:
    redis = Redis(unix_socket_path=socket)
    celery = Celery("naive", broker=f"redis+socket://{socket}", set_as_current=False)

    @celery.task(name="naive.handle")
    def handle(event: dict[str, Any]) -> None:
        del event

    async def receive_event(request: Request) -> Response:
        try:
            claims = jwt.decode(await request.body(), pem, algorithms=["RS256"])
        except jwt.PyJWTError:
            return Response(status_code=401)
        event = json.loads(json.loads(claims["data"])["data"])
        if redis.set(f"seen:{event['id']}", 1, nx=True, ex=4 * 86400):
            handle.delay(event)
        return Response()

    return Starlette(routes=[Route("/webhooks/wix", receive_event, methods=["POST"])])


def main(port: str, name: str, key_file: str, socket: str = "") -> None:
    pem = Path(key_file).read_text(encoding="utf-8")
    app: ASGIApp = bare if name == "bare" else verify(pem) if name == "verify" else naive(pem, socket)
    # As the web process has it.
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(port),
        loop="uvloop",
        http="httptools",
        lifespan="off",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        log_config=None,
        timeout_graceful_shutdown=10,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
