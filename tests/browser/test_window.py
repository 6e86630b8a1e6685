"""What the other stories rely on: a page that is not fit to be looked at is found out."""

from __future__ import annotations

import pytest
from playwright.sync_api import Route

from tests.browser.conftest import Open
from tests.browser.window import Window

GOOD = "<main><h1>Good</h1><p><a href='/'>On</a></p></main>"


def show(window: Window, body: str, style: str = "") -> None:
    """In place of the console's own page, under the same policy."""
    page = f"<!doctype html><html lang=en><title>Page</title><link rel=icon href='data:,'><style>{style}</style>{body}"
    policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'self'; img-src 'self' data: http:"

    def answer(route: Route) -> None:
        route.fulfill(body=page, content_type="text/html", headers={"content-security-policy": policy})

    window.page.route(window.url("/"), answer)
    window.go("/")


def test_a_good_page_passes(open_window: Open):
    with open_window() as window:
        show(window, GOOD)
        window.check()
        assert window.walk() == ["a “On”"]


@pytest.mark.parametrize(
    ("body", "style", "said"),
    [
        (GOOD, "p { color: #bbb; background: #fff } a { color: inherit }", "color-contrast"),
        ("<main><h1>No label</h1><input></main>", "", "label"),
        (f"{GOOD}<pre>{'wide' * 200}</pre>", "", "scrolls sideways"),
        (f"{GOOD}<script>1</script>", "", "Content Security Policy"),
        (f"{GOOD}<img alt='' src='http://127.0.0.1:9/a.png'>", "", "asked somebody else"),
        (f"{GOOD}<img alt='' src='/admin/static/nothing.png'>", "", "404"),
    ],
)
def test_a_page_that_is_not_fit_is_found_out(body: str, style: str, said: str, open_window: Open):
    with open_window() as window:
        show(window, body, style)
        with pytest.raises(AssertionError, match=said):
            window.check()
        window.complaints.clear()


def test_a_focus_that_nobody_sees_is_found_out(open_window: Open):
    with open_window() as window:
        show(window, GOOD, "a:focus { outline: none }")
        with pytest.raises(AssertionError, match="the focus is not to be seen"):
            window.walk()


def test_a_test_fails_for_what_the_page_complained_of_before_its_end(open_window: Open):
    with pytest.raises(AssertionError, match="Content Security Policy"), open_window() as window:
        show(window, f"{GOOD}<p onclick='1'>Inline</p>")
