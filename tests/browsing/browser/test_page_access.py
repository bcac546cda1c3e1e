"""The page by keyboard, in a narrow window, in the dark, and by axe's rules for whoever reads it otherwise."""

import re
from importlib.resources import files

import numpy as np
import pytest
from chromium import (  # noqa: F401  # one_browser is a fixture
    as_hash,
    dialog,
    expect,
    image_at,
    images_left,
    looking,
    named,
    one_browser,
    pixels_come,
    serving,
    tiles,
)
from stores_to_look_at import two_stores

from dmkd.stores import open_store

# What is in the address, and what shows that the view is there.
VIEWS = {
    ".tile.disagrees .seen": {},
    ".rule-field .problem": {"rule": "entropy < 1 and happy", "classes": [1, 2], "agree": False},
    "table.listed .picture[style*='url']": {"tab": "classes"},
    "table.confusion >> nth=1": {"tab": "confusion", "versus": "weak"},
    ".tile .other": {"tab": "teachers"},
    "table.beside .picture[style*='url']": {"tab": "stores"},
    "dialog .seenview[style*='url']": {"image": 3},
}
AXE = "async () => (await axe.run()).violations.map(one => [one.impact, one.id, one.nodes.map(node => node.html)])"


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    return two_stores(tmp_path_factory.getbasetemp() / "to-look-at")


@pytest.fixture(scope="module")
def address(stores):
    with serving(*stores) as address:
        yield address


@pytest.fixture(scope="module")
def axe():
    pytest.importorskip("axe_playwright_python", reason="needs axe-playwright-python (pip install 'dmkd[dev]')")
    return (files("axe_playwright_python") / "axe.min.js").read_text()


def grievances(page, axe):
    page.evaluate(axe)  # through the debugger: the page itself takes no scripts from elsewhere
    return [one for one in page.evaluate(AXE) if one[0] in ("serious", "critical")]


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (420, True)], ids=["wide and light", "narrow and dark"])
def test_no_view_has_serious_faults_by_axe(browser, address, axe, width, dark):
    with looking(browser, address, width=width, dark=dark) as page:
        images_left(page, 600)
        for mark, state in VIEWS.items():
            page.goto(address + as_hash(**state))
            expect(page.locator(mark).first).to_be_visible()
            assert grievances(page, axe) == [], state
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), state
        page.goto(address + as_hash(classes=[3]))
        page.get_by_role("button", name="Save selection").click()
        assert grievances(page, axe) == []
        expect(dialog(page).get_by_label("Name")).to_be_visible()
        assert grievances(page, axe) == []


def focus(page):
    return page.locator(":focus")


def test_everything_is_reached_by_the_keyboard(browser, address, stores):
    quality = open_store(stores[0]).labels["strong"].quality[:]
    keys = lambda *names: [page.keyboard.press(name) for name in names]  # noqa: E731
    with looking(browser, address) as page:
        images_left(page, 600)
        expect(tiles(page).first).to_be_visible()
        page.locator("body").press("/")
        expect(focus(page)).to_have_accessible_name("Rule")
        page.keyboard.type("/p_class < 0.4")
        expect(focus(page)).to_have_value("/p_class < 0.4")  # here a slash is a slash
        keys("Home", "Delete", "Enter")
        images_left(page, np.count_nonzero(quality[:, 1] < 0.4))
        keys("Control+a", "Delete", "Enter")
        images_left(page, 600)
        expect(image_at(page, 0)).to_have_accessible_name(named(0))
        page.get_by_role("button", name="Live").focus()
        keys("Tab")
        expect(focus(page)).to_have_text("Skip the filters")
        keys("Enter", *["Tab"] * 6)
        expect(focus(page)).to_have_accessible_name(named(0))
        keys("ArrowRight", "ArrowRight")
        expect(focus(page)).to_have_accessible_name(named(2))
        keys("ArrowDown")
        columns = int(focus(page).get_attribute("data-place")) - 2
        expect(focus(page)).to_have_accessible_name(named(2 + columns))
        keys("x", "ArrowUp", " ")
        expect(page.get_by_text("2 picked", exact=True)).to_be_visible()
        keys("End")  # which is not there yet
        expect(focus(page)).to_have_accessible_name(named(599))
        expect(focus(page)).to_be_in_viewport()
        keys("Enter")
        expect(dialog(page)).to_contain_text("600 of 600")
        keys("ArrowLeft")
        expect(dialog(page)).to_contain_text("599 of 600")
        keys("Escape")
        expect(dialog(page)).to_have_count(0)
        expect(focus(page)).to_have_accessible_name(named(599))
        keys("Home")
        expect(focus(page)).to_have_accessible_name(named(0))


def test_the_grid_is_entered_by_tab_after_it_was_scrolled_by_mouse(browser, address):
    with looking(browser, address) as page:
        images_left(page, 600)
        page.locator(".grid").evaluate("grid => grid.scrollTop = 4000")
        expect(image_at(page, 0)).to_have_count(0)
        expect(tiles(page).first).to_be_visible()
        page.get_by_role("button", name="Save selection").focus()
        page.keyboard.press("Tab")
        expect(focus(page)).to_have_attribute("data-place", re.compile("."))
        expect(focus(page)).to_be_in_viewport()


def test_a_narrow_window_shows_filters_and_images(browser, address):
    with looking(browser, address, width=420, height=800) as page:
        images_left(page, 600)
        pixels_come(page, ".tile .picture")
        places = [image_at(page, place).bounding_box() for place in range(3)]
        assert all(box["x"] + box["width"] <= 420 for box in places) and places[0]["y"] == places[2]["y"]
        image_at(page, 1).click()
        box = dialog(page).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 420
        expect(dialog(page).get_by_role("button", name="Close")).to_be_in_viewport()


def test_the_page_is_dark_where_the_system_is(browser, address):
    for dark, paper in ((False, "rgb(255, 255, 255)"), (True, "rgb(22, 24, 28)")):
        with looking(browser, address, dark=dark) as page:
            expect(page.locator(".dmkd")).to_have_css("background-color", paper)
