"""The page behind ``dmkd browse`` in Chromium, driven by Playwright: the browser, servers, and pages that are watched."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any
from urllib.parse import quote

import pytest
from PIL import Image

pytest.importorskip("playwright", reason="needs playwright (pip install 'dmkd[dev]')")

from playwright.sync_api import Browser, Page, expect, sync_playwright

SECONDS = 20  # that a busy machine may take for anything
NAMES = ("chromium", "chromium-browser", "google-chrome")
expect.set_options(timeout=1000 * SECONDS)


@pytest.fixture(scope="module", name="browser")
def one_browser() -> Iterator[Browser]:
    """Of a module, since Playwright's loop runs in the test's own thread while it is open, and asyncio knows one at a time."""
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"needs a browser: {', '.join(NAMES)}, or its path in $CHROMIUM (apt-get install chromium)")
    arguments = ["--no-sandbox"] if os.getuid() == 0 else []  # root has no sandbox
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


@contextmanager
def browsing(*paths: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """``dmkd browse`` as people start it -> the page's address, and the process."""
    command = [sys.executable, "-m", "dmkd.cli.main", "browse", *paths, "--no-open", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["address"], process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def serving(*paths: str) -> Iterator[str]:
    """The same page from a thread of this process, at once there -> its address."""
    import uvicorn

    from dmkd.browsing.desk import Desk
    from dmkd.browsing.server import make_app

    desk = Desk(paths)
    desk.follow()
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        server = uvicorn.Server(uvicorn.Config(make_app(desk, "token"), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/token/"
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def looking(
    browser: Browser,
    address: str,
    *,
    width: int = 1280,
    height: int = 860,
    dark: bool = False,
    forgiven: tuple[str, ...] = (),
    **state: Any,
) -> Iterator[Page]:
    """The page in a window of its own, with this state in its address. When it is left, the browser must have had nothing to
    complain of but what is ``forgiven``, and must have asked nobody but the server."""
    scheme = "dark" if dark else "light"
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[arg-type]
    context.set_default_timeout(1000 * SECONDS)
    page = context.new_page()
    complaints: list[str] = []
    page.on(
        "console",
        lambda said: said.type in ("error", "warning") and complaints.append(f"{said.text} ({said.location})"),
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
    page.on("request", lambda asked: asked.url.startswith(address) or complaints.append(f"asked {asked.url}"))
    page.goto(address + as_hash(**state))
    yield page
    context.close()
    left = [one for one in complaints if not any(part in one for part in forgiven)]
    assert not left, left


def as_hash(**state: Any) -> str:
    return "#" + quote(json.dumps(state)) if state else ""


def images_left(page: Page, count: int) -> None:
    """Wait until the page says that so many images fit."""
    expect(page.locator(".count b")).to_have_text(f"{count:,}")


def tiles(page: Page) -> Any:
    """The pictures of the grid that are there."""
    return page.locator(".tile .picture[style*='url']")


def image_at(page: Page, place: int) -> Any:
    """The image at a place of the grid's order."""
    return page.locator(f'.picture[data-place="{place}"]')


def named(image_id: int) -> re.Pattern[str]:
    """How an image's button is called."""
    return re.compile(f"^Image {image_id}\\b")


def ids_shown(page: Page) -> list[int]:
    """The images of the grid, in their order."""
    expect(tiles(page).first).to_be_visible()
    labels = page.locator(".tile .picture").evaluate_all(
        "all => all.sort((a, b) => a.dataset.place - b.dataset.place).map(one => one.ariaLabel)"
    )
    return [int(label.split()[1].rstrip(",")) for label in labels]


def dialog(page: Page) -> Any:
    return page.get_by_role("dialog")


def pixels_come(page: Page, selector: str) -> None:
    """Wait until the first such element shows more than one colour."""
    for _ in range(10 * SECONDS):
        shown = Image.open(BytesIO(page.locator(selector).first.screenshot())).convert("RGB")
        if shown.getcolors(8) is None:  # more than eight
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"{selector} stays empty")
