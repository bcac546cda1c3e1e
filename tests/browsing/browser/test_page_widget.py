"""The page as a widget: bundled into one module, its questions carried by messages to the widget's own handler."""

import base64
import json

import pytest
from chromium import (  # noqa: F401  # one_browser is a fixture
    SECONDS,
    dialog,
    expect,
    image_at,
    images_left,
    named,
    one_browser,
    pixels_come,
    tiles,
)
from stores_to_look_at import new_store, write_blocks

from dmkd.stores import open_store

pytest.importorskip("anywidget", reason="needs anywidget (pip install 'dmkd[browse]')")

NOTEBOOK = "http://notebook.test/"
PAGE = """<!doctype html><html lang="en"><body>
<textarea id="cell"></textarea><div id="output"></div>
<script type="module">
  import widget from "./widget.js";
  const heard = [];
  const model = {
    on: (name, call) => name === "msg:custom" && heard.push(call),
    off: (name, call) => heard.splice(heard.indexOf(call), 1),
    async send(message) {
      const [answer, content] = await window.kernel(message);
      const bytes = Uint8Array.from(atob(content), (one) => one.charCodeAt(0));
      for (const call of heard) call(answer, [new DataView(bytes.buffer)]);
    },
  };
  document.addEventListener("keydown", (event) => { document.body.dataset.keys = event.key; });
  window.closeWidget = widget.render({ model, el: document.getElementById("output") });
  window.heard = heard;
</script></body></html>"""


@pytest.fixture
def store(tmp_path):
    return write_blocks(new_store(tmp_path / "in-a-notebook.zarr", 128))


@pytest.fixture
def notebook(browser, store):
    """A page that is none of ours and holds the widget."""
    widget, sent = store.browse(), []
    widget.send = lambda content, buffers: sent.append([content, base64.b64encode(buffers[0]).decode()])

    def kernel(message):
        widget._handle_custom_msg(json.loads(json.dumps(message)), [])  # as the notebook's comm calls it
        return sent.pop()

    files = {"": ("text/html", PAGE), "widget.js": ("text/javascript", widget._esm)}
    context = browser.new_context(viewport={"width": 1100, "height": 800})
    context.set_default_timeout(1000 * SECONDS)
    page, complaints = context.new_page(), []
    page.on("console", lambda said: said.type in ("error", "warning") and complaints.append(said.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.expose_function("kernel", kernel)

    def fulfil(route):
        name = route.request.url.removeprefix(NOTEBOOK)
        if name not in files:
            route.fulfill(status=204)
            return
        route.fulfill(content_type=files[name][0] + ";charset=utf-8", body=files[name][1])

    page.route("**/*", fulfil)
    page.goto(NOTEBOOK)
    page.add_style_tag(content=widget._css)
    yield page
    context.close()
    assert not complaints, complaints


def test_images_come_and_open_and_are_saved_by_messages(notebook, store):
    images_left(notebook, 128)
    expect(tiles(notebook).first).to_be_visible()
    pixels_come(notebook, ".tile .picture")
    image_at(notebook, 3).click()
    expect(dialog(notebook).locator(".views li")).to_have_count(4)
    pixels_come(notebook, "dialog .seenview")
    pixels_come(notebook, "dialog .outlined")
    notebook.keyboard.press("ArrowRight")
    expect(dialog(notebook)).to_contain_text("5 of 128")
    notebook.keyboard.press("Escape")
    field = notebook.get_by_label("Rule", exact=True)
    field.fill("happy")
    field.press("Enter")
    expect(notebook.get_by_role("alert")).to_contain_text("happy")
    field.fill("entropy < 1")
    field.press("Enter")
    images_left(notebook, int((store.labels["strong"].quality[:][:, 2] < 1).sum()))
    notebook.get_by_role("button", name="Save selection").click()
    dialog(notebook).get_by_label("Name").fill("not a name")
    dialog(notebook).get_by_role("button", name="Save", exact=True).click()
    expect(dialog(notebook).get_by_role("alert")).to_contain_text("not a name")
    dialog(notebook).get_by_label("Name").fill("sure")
    dialog(notebook).get_by_role("button", name="Save", exact=True).click()
    expect(dialog(notebook).get_by_role("status")).to_contain_text("saved as @sure")
    assert open_store(store.path).selections == {"sure": "entropy < 1"}
    assert notebook.url == NOTEBOOK  # the notebook's address is its own


def test_keys_belong_to_whom_they_are_typed_to(notebook):
    expect(tiles(notebook).first).to_be_visible()
    image_at(notebook, 0).focus()
    notebook.keyboard.press("ArrowRight")
    expect(notebook.locator(":focus")).to_have_accessible_name(named(1))
    notebook.keyboard.press("/")
    expect(notebook.locator(":focus")).to_have_accessible_name("Rule")
    notebook.keyboard.type("dd")  # which would delete a cell
    assert notebook.evaluate("document.body.dataset.keys") is None
    notebook.locator("#cell").focus()
    notebook.keyboard.type("a/b")
    expect(notebook.locator("#cell")).to_have_value("a/b")
    notebook.locator("#cell").blur()
    notebook.keyboard.press("/")
    expect(notebook.get_by_label("Rule", exact=True)).not_to_be_focused()


def test_a_widget_that_is_closed_lets_go(notebook):
    images_left(notebook, 128)
    notebook.evaluate("window.closeWidget()")
    expect(notebook.locator("#output .app")).to_have_count(0)
    assert notebook.evaluate("window.heard.length") == 0


def test_it_follows_the_notebooks_theme_and_its_own_width(notebook):
    expect(tiles(notebook).first).to_be_visible()
    paper = notebook.locator(".dmkd")
    for light, colour in (("true", "rgb(255, 255, 255)"), ("false", "rgb(22, 24, 28)")):
        notebook.evaluate("light => { document.body.dataset.jpThemeLight = light }", light)
        expect(paper).to_have_css("background-color", colour)
    for width, is_beside in ((1000, True), (500, False)):
        notebook.locator("#output").evaluate("(box, width) => { box.style.width = `${width}px` }", width)
        filters, grid = (notebook.locator(name).bounding_box() for name in (".filters", ".grid"))
        assert (grid["x"] >= filters["x"] + filters["width"]) == is_beside
