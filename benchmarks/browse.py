"""`dmkd browse` on a small and on a large store, looked through in Chromium.

    python benchmarks/browse.py [--json] [--quick] [--keep FOLDER]

- first image: from opening the page's address to the first image on the screen, beside opening a page with one such picture.
- scrolling: frames a second while the grid is scrolled through for five seconds, by a screen and a half a second and by a hundred
  screens a second, beside scrolling an empty page in the same browser; and the requests that it took.
- filter: a rule over all images, in the server and until the page shows the number, beside the same comparison in bare numpy.
- memory of the server, beside what the numbers of the images take.

Stores: 32x32 images of 10 classes, two label sets, one column; 3,000 and 1,000,000 images (--quick: 50,000). Needs
dmkd[browse], playwright and Chromium (its path in $CHROMIUM, or on the path).
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from dmkd.stores import Store, create_store, open_store, parse_codec, store_exists

CLASSES, SIZE = 10, 32
TEACHERS = ("strong", "weak")
RULES = ("entropy < 0.5 and agree", "0.2 <= p_class <= 0.9 and score > 0", "rank(p_class) <= 500")
SECONDS = 5.0
FRAMES = """async ([selector, seconds, screens]) => {
  const box = selector ? document.querySelector(selector) : document.scrollingElement;
  const begin = performance.now(), height = box.clientHeight;
  let frames = 0, longest = 0, last = begin, blank = 0, seen = 0;
  while (last - begin < 1000 * seconds) {
    const now = await new Promise(requestAnimationFrame);
    longest = Math.max(longest, now - last);
    box.scrollTop += height * screens * (now - last) / 1000;
    last = now;
    frames += 1;
    if (selector) { blank += box.querySelectorAll(".blank").length; seen += box.querySelectorAll(".tile").length; }
  }
  return { frames_per_second: 1000 * frames / (last - begin), longest_frame_ms: longest, blank: seen ? blank / seen : 0 };
}"""


def make_store(path: Path, images: int) -> Store:
    """Smooth random images, random opinions."""
    if store_exists(str(path)):
        return open_store(str(path))
    store = create_store(
        str(path),
        recipe={"generator": "benchmark", "seed": 0},
        num_images=images,
        image_shape=(SIZE, SIZE, 3),
        class_names=[str(i) for i in range(CLASSES)],
    )
    description = {"policy": "center", "size": SIZE, "interpolation": "bilinear"}
    store.add_view_set("center", 1, ("top", "left", "height", "width", "flip"), description)
    for name in TEACHERS:
        teacher = {"name": name, "architecture": name}
        store.add_label_set(
            name, teacher=teacher, source=name, view_set="center", codec=parse_codec("float16"), num_classes=CLASSES
        )
    rng = np.random.default_rng(0)
    for block in range(store.num_blocks):
        n = len(store.block_ids(block))
        class_ids = rng.integers(0, CLASSES, n).astype(np.int32)
        small = rng.integers(0, 256, (n, 8, 8, 3), np.uint8)
        labels = {}
        for name in TEACHERS:
            logits = rng.standard_normal((n, 1, CLASSES), np.float32)
            logits[np.arange(n), 0, class_ids] += 3
            p = np.exp(logits[:, 0]) / np.exp(logits[:, 0]).sum(1, keepdims=True)
            quality = np.stack([p.argmax(1), p[np.arange(n), class_ids], -(p * np.log(p)).sum(1)], 1)
            labels[name] = (logits, quality.astype(np.float32))
        store.write_block(
            block,
            images=small.repeat(SIZE // 8, 1).repeat(SIZE // 8, 2),
            class_ids=class_ids,
            views={"center": np.tile(np.array([0, 0, 1, 1, 0], np.float32), (n, 1, 1))},
            labels=labels,
        )
    store.add_column("score", rng.standard_normal(images), "random")
    return store


@contextmanager
def served(path: Path) -> Any:
    """The page's address, and the server's process."""
    command = [sys.executable, "-m", "dmkd.cli.main", "browse", str(path), "--no-open", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["address"], process
    finally:
        process.terminate()
        process.wait()


def megabytes(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    return int(found[1]) / 1000 if found else float("nan")


def bare(store: Store) -> float:
    """Milliseconds of the first rule in numpy alone, on arrays that are in memory: the limit."""
    rng = np.random.default_rng(0)
    entropy, top1, class_ids = rng.random(store.num_images), rng.random(store.num_images), rng.random(store.num_images)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        np.flatnonzero((entropy < 0.5) & (top1 == class_ids))
        times.append(1000 * (time.perf_counter() - start))
    return sorted(times)[2]


def measure(browser: Any, path: Path, images: int) -> dict[str, Any]:
    store = make_store(path, images)
    found: dict[str, Any] = {"images": images, "blocks": store.num_blocks}
    with served(path) as (address, process):
        page = browser.new_page(viewport={"width": 1280, "height": 860}, bypass_csp=True)
        start = time.perf_counter()
        page.goto(address)
        page.wait_for_selector(".tile .picture[style*='url']")
        found["first_image_s"] = time.perf_counter() - start
        page.wait_for_function(
            "document.querySelector('header .state')?.textContent.endsWith(' images')", timeout=600_000
        )
        found["all_read_s"] = time.perf_counter() - start
        found["server_mb"] = megabytes(process.pid)
        found["numbers_mb"] = images * (4 + 12 * len(TEACHERS) + 8) / 1e6
        page.wait_for_timeout(2500)
        for name, screens in (("slow", 1.5), ("fast", 100)):
            requests: list[str] = []
            note = lambda request, requests=requests: requests.append(request.url)  # noqa: E731
            page.on("request", note)
            found[f"scrolling_{name}"] = page.evaluate(FRAMES, [".grid", SECONDS, screens])
            page.remove_listener("request", note)
            asked = sum("/ask/rows" in url or "/ask/thumbs" in url for url in requests)
            found[f"scrolling_{name}"]["requests"] = asked
        found["filter_ms"], found["filter_shown_ms"] = {}, {}
        for rule in RULES:
            before = page.inner_text(".count")
            start = time.perf_counter()
            with page.expect_response(lambda response: "/ask/query" in response.url and response.ok) as response:
                page.fill(".rule-field input", rule)
                page.keyboard.press("Enter")
            page.wait_for_function("before => document.querySelector('.count').innerText !== before", arg=before)
            found["filter_shown_ms"][rule] = 1000 * (time.perf_counter() - start)
            found["filter_ms"][rule] = response.value.json()["milliseconds"]
        found["bare_filter_ms"] = bare(store)
        found["server_mb_after"] = megabytes(process.pid)
        page.close()
    return found


def empty(browser: Any, folder: Path, store: Path) -> dict[str, Any]:
    """What the browser can do here: a page with one picture, and scrolling without anything to draw."""
    from PIL import Image

    Image.fromarray(open_store(str(store)).images[[0]][0]).save(folder / "one.png")
    (folder / "one.html").write_text("<img src=one.png onload='document.title=1'><div style='height:10000000px'></div>")
    page = browser.new_page(viewport={"width": 1280, "height": 860}, bypass_csp=True)
    start = time.perf_counter()
    page.goto(f"file://{folder}/one.html")
    page.wait_for_function("document.title === '1'")
    first = time.perf_counter() - start
    scrolled = page.evaluate(FRAMES, ["", SECONDS, 1.5])
    page.close()
    return {"first_image_s": first, "scrolling": scrolled}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="only the last line, as JSON")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--keep", type=Path, help="folder of the stores, made where they are not there")
    options = parser.parse_args()
    from playwright.sync_api import sync_playwright

    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        folder = options.keep or Path(temporary)
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        sizes = (3000, 50_000 if options.quick else 1_000_000)
        stores = [folder / f"of-{images}.zarr" for images in sizes]
        results = [measure(browser, path, images) for path, images in zip(stores, sizes, strict=True)]
        limit = empty(browser, Path(temporary), stores[0])
        browser.close()
    for one in results:
        one["first_image_ratio"] = one["first_image_s"] / limit["first_image_s"]
        for name in ("slow", "fast"):
            one[f"scrolling_{name}_ratio"] = (
                one[f"scrolling_{name}"]["frames_per_second"] / limit["scrolling"]["frames_per_second"]
            )
        one["filter_ratio"] = one["filter_ms"][RULES[0]] / one["bare_filter_ms"]
    if not options.json:
        show(results, limit)
    print(json.dumps({"stores": results, "empty_page": limit}))


def show(results: list[dict[str, Any]], limit: dict[str, Any]) -> None:
    fps = limit["scrolling"]["frames_per_second"]
    print(f"empty page: first image {limit['first_image_s']:.2f} s, {fps:.0f} frames a second\n")
    for one in results:
        print(f"{one['images']:,} images")
        print(
            f"  first image          {one['first_image_s']:.2f} s ({one['first_image_ratio']:.1f} x a page with one picture)"
        )
        print(f"  all numbers read     {one['all_read_s']:.1f} s")
        print(
            f"  memory of the server {one['server_mb']:.0f} MB, later {one['server_mb_after']:.0f} MB "
            f"(the numbers alone: {one['numbers_mb']:.0f} MB)"
        )
        for name in ("slow", "fast"):
            facts = one[f"scrolling_{name}"]
            print(
                f"  scrolling, {name}      {facts['frames_per_second']:.0f} frames a second "
                f"({one[f'scrolling_{name}_ratio']:.2f} of the empty page), the longest {facts['longest_frame_ms']:.0f} ms, "
                f"{facts['requests']} requests, {facts['blank']:.0%} of tiles waited for"
            )
        for rule, milliseconds in one["filter_ms"].items():
            print(f"  {rule:36} {milliseconds:6.1f} ms, shown after {one['filter_shown_ms'][rule]:.0f} ms")
        print(f"  the first in bare numpy              {one['bare_filter_ms']:6.1f} ms\n")


if __name__ == "__main__":
    main()
