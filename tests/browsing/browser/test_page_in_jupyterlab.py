"""The widget in JupyterLab itself, as its users see it."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
from chromium import (  # noqa: F401  # one_browser is a fixture
    SECONDS,
    expect,
    image_at,
    images_left,
    one_browser,
    pixels_come,
)
from stores_to_look_at import new_store, write_blocks

pytest.importorskip("anywidget", reason="needs anywidget (pip install 'dmkd[browse]')")
pytest.importorskip("jupyterlab", reason="needs JupyterLab (pip install jupyterlab)")

TOKEN = "secret"


@pytest.fixture
def lab(tmp_path):
    """JupyterLab in a folder with a store and a notebook that shows it -> the notebook's address."""
    write_blocks(new_store(tmp_path / "digits.zarr", 128))
    source = "from dmkd.stores import open_store\nopen_store('digits.zarr').browse()"
    cell = {"cell_type": "code", "execution_count": None, "id": "a", "metadata": {}, "outputs": [], "source": source}
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    notebook = {"cells": [cell], "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    (tmp_path / "look.ipynb").write_text(json.dumps(notebook))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {
        "ServerApp.port": port,
        "IdentityProvider.token": TOKEN,
        "ServerApp.open_browser": False,
        "ServerApp.allow_root": True,
        "LabApp.news_url": None,
        "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
        "LabApp.extension_manager": "readonly",
    }
    words = [f"--{name}={value}" for name, value in options.items()]
    environment = os.environ | {
        "JUPYTER_CONFIG_DIR": str(tmp_path / "config"),
        "JUPYTER_DATA_DIR": str(tmp_path / "data"),
    }
    process = subprocess.Popen([sys.executable, "-m", "jupyterlab", *words], cwd=tmp_path, env=environment)
    try:
        wait_for(f"http://127.0.0.1:{port}/api/status?token={TOKEN}")
        yield f"http://127.0.0.1:{port}/lab/tree/look.ipynb?token={TOKEN}"
    finally:
        process.terminate()
        process.wait()


def wait_for(address):
    for _ in range(4 * SECONDS):
        try:
            urllib.request.urlopen(address).close()
            return
        except urllib.error.URLError:
            time.sleep(0.5)
    raise AssertionError("JupyterLab does not start")


@pytest.mark.slow  # a server, a kernel and some MB of scripts
def test_a_store_is_browsed_in_a_notebook(browser, lab):
    page = browser.new_page(viewport={"width": 1300, "height": 900})
    page.set_default_timeout(3000 * SECONDS)
    page.goto(lab)
    page.get_by_text("| Idle").wait_for()  # the kernel
    page.locator(".jp-Notebook .cm-content").first.click()
    page.keyboard.press("Shift+Enter")
    page.locator(".dmkd.widget .count b").wait_for()
    images_left(page, 128)
    pixels_come(page, ".tile .picture")
    image_at(page, 3).focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    shown = page.locator(".dmkd dialog")
    expect(shown.get_by_role("heading", level=2)).to_contain_text("Image 4, asked for")
    pixels_come(page, ".dmkd dialog .seenview")
    page.keyboard.press("Escape")
    expect(shown).to_have_count(0)
    cells = page.locator(".jp-Notebook .jp-Cell").count()
    image_at(page, 0).focus()
    page.keyboard.type("ddb/entropy < 1")  # no shortcuts of the notebook
    page.keyboard.press("Enter")
    expect(page.locator(".dmkd .count b")).not_to_have_text("128")
    assert page.locator(".jp-Notebook .jp-Cell").count() == cells
    page.close()
