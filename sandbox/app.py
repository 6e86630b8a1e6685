"""The web application: control, pages, and Wix's API behind them all."""

from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send

from sandbox.api import api_routes
from sandbox.control import control_routes
from sandbox.dashboard import dashboard_routes
from sandbox.house import Sandbox
from sandbox.pages import page_routes


class _App(Starlette):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # ASGI has no way to hang up. Uvicorn's `send` belongs to an object that knows the connection.
        scope["connection"] = getattr(getattr(send, "__self__", None), "transport", None)
        await super().__call__(scope, receive, send)


def create_app(sandbox: Sandbox) -> Starlette:
    return _App(
        routes=[
            *control_routes(sandbox),
            *page_routes(sandbox),
            *dashboard_routes(sandbox),
            *api_routes(sandbox),
        ]
    )
