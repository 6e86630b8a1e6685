"""Wix's dashboard as far as an app sees it: a page that shows the app's own one in a frame, with an `instance` that is
signed anew each time (Wix: "Iframe query parameters for dashboard extensions", "Parse encoded app instance data").
"""

import base64
import hashlib
import hmac
import json
import secrets
from datetime import UTC, datetime
from urllib.parse import urlencode, urljoin

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from sandbox.house import APP_SECRET, Sandbox
from sandbox.pages import ENVIRONMENT


def dashboard_routes(sandbox: Sandbox) -> list[Route]:
    async def dashboard(_request: Request) -> Response:
        framed = _page_of_the_app(sandbox)
        html = ENVIRONMENT.get_template("dashboard.html").render(site=sandbox.community.site, framed=framed)
        origin = "'none'" if not framed else framed.partition("/admin/")[0]
        policy = f"default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-src {origin}"
        headers = {"content-security-policy": policy, "cache-control": "no-store"}
        return HTMLResponse(html, headers=headers)

    return [Route("/dashboard", dashboard, methods=["GET"])]


def sign_instance(fields: dict[str, str]) -> str:
    data = _base64(json.dumps(fields).encode())
    return f"{_base64(hmac.digest(APP_SECRET.encode(), data.encode(), hashlib.sha256))}.{data}"


def _page_of_the_app(sandbox: Sandbox) -> str:
    """It is where its webhooks go; "" as long as nobody said where that is."""
    if not sandbox.sender.url:
        return ""
    site = sandbox.community.site
    instance = sign_instance(
        {
            "instanceId": site.instance_id,
            "signDate": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "uid": site.owner_id,
            "permissions": "OWNER",
        }
    )
    query = {
        "instance": instance,
        "locale": site.locale,
        "viewMode": "dashboard",
        "containerProtocol": "http:",
        "siteUrl": site.url,
        "cacheKiller": secrets.token_hex(8),
    }
    return urljoin(sandbox.sender.url, "/admin/") + "?" + urlencode(query)


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
