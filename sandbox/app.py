"""The web application: control, pages, and Wix's API behind them all."""

from starlette.applications import Starlette

from sandbox.api import api_routes
from sandbox.control import control_routes
from sandbox.house import Sandbox
from sandbox.pages import page_routes


def create_app(sandbox: Sandbox) -> Starlette:
    return Starlette(routes=[*control_routes(sandbox), *page_routes(sandbox), *api_routes(sandbox)])
