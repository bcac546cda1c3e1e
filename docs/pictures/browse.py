"""Makes the README's picture of the page, browse.png: `dmkd browse` on digits, in Chromium ($CHROMIUM, or on the path)."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

DMKD = [sys.executable, "-m", "dmkd.cli.main"]
BEFORE = "generate --store digits.zarr --generator digits --images 1500 --teacher digits-resnet --teacher digits-weak"
SIZE = {"width": 1200, "height": 720}

if __name__ == "__main__":
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        subprocess.run([*DMKD, *BEFORE.split()], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        command = [*DMKD, "browse", "digits.zarr", "--no-open", "--json"]
        with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            address = json.loads(server.stdout.readline())["address"]
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page(viewport=SIZE, color_scheme="light")
            page.goto(address)
            page.get_by_label("Rule").fill("entropy > 0.2")
            page.keyboard.press("Enter")
            page.get_by_label("Sort by").select_option("p_class")
            page.locator(".tile .picture[style*='url']").nth(20).wait_for()
            page.wait_for_timeout(1000)
            page.mouse.move(600, 5)
            page.screenshot(path=str(Path(__file__).with_suffix(".png")))
            browser.close()
            server.terminate()
