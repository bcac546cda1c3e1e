"""A store from a stranger: whatever its texts hold is shown as text, and nothing of it runs."""

import re

import pytest
from chromium import (  # noqa: F401  # one_browser is a fixture
    as_hash,
    dialog,
    expect,
    image_at,
    images_left,
    looking,
    one_browser,
    serving,
)
from stores_to_look_at import new_store, write_blocks

IMAGE = '<img src=x onerror="document.body.dataset.hacked=1">'
SCRIPT = "</title></script><script>document.body.dataset.hacked=1</script>"
NAMES = [
    IMAGE,
    SCRIPT,
    "javascript:document.body.dataset.hacked=1",
    "x" * 50_000,
    "\u202eback to front\u202c שלום",
    "a\x00\x07b\r\nc\u2028d",
    "&lt;b&gt;&amp;",
    """'"`${document.body.dataset.hacked=1}\\""",
    "",
    "__proto__",
]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile") / "<img src=x onerror=document.body.dataset.hacked=1>"
    folder.mkdir()
    stores = [
        new_store(folder / f"{name}.zarr", 64, class_names=NAMES, teachers=["constructor", "weak"], teacher_name=IMAGE)
        for name in ("<b>one</b>", "'two'")
    ]
    for store in stores:
        write_blocks(store)
        store.add_column("toString", store.class_ids[:] / 7, SCRIPT)
        store.chunks.tree.create_group("selections")
        selections = {IMAGE: f"class_id == {SCRIPT}", "constructor": "agree"}  # as no command would write them
        store.chunks.tree.set_attributes(selections, "selections")
    with serving(*(store.path for store in stores)) as address:
        yield address


def test_every_text_of_a_strangers_store_is_shown_as_text(browser, address):
    with looking(browser, address) as page:
        images_left(page, 64)
        expect(page.locator(".classes")).to_contain_text(IMAGE)
        expect(page.locator(".classes")).to_contain_text(SCRIPT[:40])
        expect(
            page.get_by_role("checkbox", name="8", exact=True)
        ).to_be_visible()  # a class without a name has its number
        expect(page.get_by_label("Sort by")).to_contain_text("toString")
        expect(page.get_by_role("group", name="toString").locator("legend")).to_have_attribute("title", SCRIPT)
        page.get_by_label("Saved").select_option(IMAGE)
        expect(page.get_by_role("alert")).to_contain_text("can't be read")
        page.get_by_label("Saved").select_option("constructor")
        expect(page.get_by_role("alert")).to_have_count(0)
        page.get_by_role("button", name="all again").click()
        for view in ({"tab": name} for name in ("classes", "confusion", "teachers", "stores", "live")):
            page.goto(address + as_hash(**view))
            expect(page.get_by_role("main")).not_to_be_empty()
            page.wait_for_load_state("networkidle")
            nothing_ran(page)
        page.goto(address + as_hash(classes=[0, 1, 2], seen=3))
        expect(page.get_by_role("button", name=f"Remove filter: class 0 {IMAGE}")).to_be_visible()
        page.goto(address)
        for place in range(6):
            image_at(page, place).click()
            expect(dialog(page).locator(".opinions tbody th").first).to_have_attribute(
                "title", re.compile(re.escape(IMAGE))
            )
            nothing_ran(page)
            page.keyboard.press("Escape")
            expect(dialog(page)).to_have_count(0)


@pytest.mark.parametrize("text", [IMAGE, SCRIPT, "javascript:document.body.dataset.hacked=1"])
def test_an_address_from_a_stranger_runs_nothing(browser, address, text):
    state = {
        "rule": text,
        "judge": text,
        "tab": text,
        "sort": text,
        "versus": text,
        "pair": text,
        "ranges": {text: [0, 1]},
    }
    with looking(browser, address, **state) as page:
        expect(page.get_by_role("alert")).to_contain_text(text)
        nothing_ran(page)
        page.goto(address + as_hash(**state | {"pair": None}))
        expect(page.get_by_role("alert")).to_contain_text("can't be read")
        nothing_ran(page)


def nothing_ran(page):
    assert page.evaluate("document.body.dataset.hacked") is None
    markup = page.locator("#dmkd img, #dmkd script, #dmkd b b, #dmkd a")
    assert markup.count() == 0
    assert page.evaluate(
        "document.documentElement.scrollWidth <= innerWidth"
    )  # nor does a long name tear the page apart
