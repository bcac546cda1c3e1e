"""Every view of the page, once, in Chromium: what it shows is what the store says."""

import re

import numpy as np
import pytest
from chromium import (  # noqa: F401  # one_browser is a fixture
    browsing,
    dialog,
    expect,
    ids_shown,
    image_at,
    images_left,
    looking,
    named,
    one_browser,
    pixels_come,
    tiles,
)
from stores_to_look_at import VIEWS, two_stores

from dmkd.stores import open_store

STRONG, WEAK = "strong", "weak"


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    return two_stores(tmp_path_factory.getbasetemp() / "to-look-at")


@pytest.fixture(scope="module")
def address(stores):
    with browsing(*stores) as (address, _):
        yield address


@pytest.fixture(scope="module")
def facts(stores):
    """Of the first store's 600 images the class asked for, and what two teachers see, as a table."""
    store = open_store(stores[0])
    columns = {"asked": store.class_ids[:], "score": store.columns["score"][:]}
    for name in (STRONG, WEAK):
        seen, p, entropy = store.labels[name].quality[:].T
        columns |= {name: seen, f"{name} p": p, f"{name} entropy": entropy}
    return columns


def try_rule(page, rule):
    field = page.get_by_label("Rule", exact=True)
    field.fill(rule)
    field.press("Enter")


def go_to(page, view):
    page.get_by_role("navigation").get_by_role("button", name=view, exact=True).click()


def test_the_grid_shows_every_image_as_it_is_scrolled(browser, address):
    with looking(browser, address) as page:
        images_left(page, 600)
        assert ids_shown(page)[:3] == [0, 1, 2]
        pixels_come(page, ".tile .picture")
        page.locator(".grid").evaluate("grid => grid.scrollTop = grid.scrollHeight")
        expect(image_at(page, 599)).to_be_in_viewport()
        expect(image_at(page, 599)).to_have_attribute("style", re.compile("url"))
        assert page.locator(".tile").count() < 150  # what is in sight, and little more


def test_pictures_grow_by_the_slider(browser, address):
    with looking(browser, address) as page:
        expect(tiles(page).first).to_have_css("width", "96px")
        page.get_by_role("slider", name="Size").fill("200")
        expect(tiles(page).first).to_have_css("width", "200px")


def test_images_are_sorted_by_a_teachers_opinion_and_by_a_column(browser, address, facts):
    with looking(browser, address) as page:
        images_left(page, 600)
        page.get_by_label("Sort by").select_option("p_class")
        expect(image_at(page, 0)).to_have_accessible_name(named(np.argmin(facts[f"{STRONG} p"])))
        page.get_by_role("button", name="Largest first").click()
        expect(image_at(page, 0)).to_have_accessible_name(named(np.argmax(facts[f"{STRONG} p"])))
        page.get_by_label("Sort by").select_option("score")
        expect(image_at(page, 0)).to_have_accessible_name(named(np.argmax(facts["score"])))
        page.get_by_role("combobox", name="Teacher", exact=True).select_option(WEAK)
        page.get_by_label("Sort by").select_option("entropy")
        expect(image_at(page, 0)).to_have_accessible_name(named(np.argmax(facts[f"{WEAK} entropy"])))


def test_a_rule_leaves_its_images_and_one_that_cant_be_read_leaves_what_there_was(browser, address, facts):
    fit = np.flatnonzero((facts[f"{STRONG} entropy"] < 0.5) & (facts[STRONG] == facts["asked"]))
    with looking(browser, address) as page:
        try_rule(page, "entropy < 0.5 and agree")
        images_left(page, len(fit))
        expect(image_at(page, 0)).to_have_accessible_name(named(fit[0]))
        assert ids_shown(page)[:20] == fit[:20].tolist()
        try_rule(page, "entropy < 0.5 and happy")
        expect(page.get_by_role("alert")).to_contain_text("happy")
        images_left(page, len(fit))
        expect(image_at(page, 0)).to_have_accessible_name(named(fit[0]))
        expect(page.get_by_role("button", name="Save selection")).to_be_disabled()
        page.get_by_role("button", name="all again").click()
        images_left(page, 600)
        page.get_by_label("Saved").select_option("sure")
        images_left(page, np.count_nonzero(facts[f"{STRONG} entropy"] < 0.1))


def test_a_histogram_filters_where_it_is_brushed_and_by_limits_that_are_typed(browser, address, facts):
    p = facts[f"{STRONG} p"]
    with looking(browser, address) as page:
        images_left(page, 600)
        box = page.locator(".histogram svg").first.bounding_box()
        y = box["y"] + box["height"] / 2
        page.mouse.move(box["x"] + box["width"] / 4, y)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] / 2, y, steps=4)
        page.mouse.up()
        low, high = page.get_by_label("p(class) from"), page.get_by_label("p(class) to")
        expect(high).to_have_value(re.compile("0.50?"))
        images_left(page, np.count_nonzero((p >= float(low.input_value())) & (p <= float(high.input_value()))))
        high.fill("")
        high.press("Tab")
        low.fill("0.9")
        page.wait_for_event("response", lambda answer: "ask/status" in answer.url)
        page.wait_for_timeout(200)
        expect(low).to_have_value("0.9")  # while it is being typed, the page goes on looking at the store
        low.press("Enter")
        images_left(page, np.count_nonzero(p >= 0.9))
        page.locator("summary", has_text="The whole rule").click()
        expect(page.locator("code.rule")).to_have_text("p_class >= 0.9")
        low.fill("no number")
        low.press("Tab")
        images_left(page, 600)


def test_agreement_and_classes_filter_and_a_filter_is_removed_by_its_chip(browser, address, facts):
    right = facts[STRONG] == facts["asked"]
    with looking(browser, address) as page:
        page.get_by_role("radio", name="disagrees").check()
        images_left(page, np.count_nonzero(~right))
        page.get_by_role("radio", name="agrees", exact=True).check()
        images_left(page, np.count_nonzero(right))
        for digit in ("3", "4", "7"):
            page.get_by_role("checkbox", name=digit, exact=True).check()
        images_left(page, np.count_nonzero(right & np.isin(facts["asked"], (3, 4, 7))))
        page.get_by_role("button", name="Remove filter: class 7").click()
        images_left(page, np.count_nonzero(right & np.isin(facts["asked"], (3, 4))))
        page.get_by_role("button", name="all again").click()
        images_left(page, 600)
        expect(page.get_by_role("radio", name="all", exact=True)).to_be_checked()


def test_an_image_shows_its_views_and_what_teachers_see_in_them_at_a_temperature(browser, address, stores, facts):
    store = open_store(stores[0])
    with looking(browser, address) as page:
        images_left(page, 600)
        image_at(page, 3).click()
        shown = dialog(page)
        expect(shown.get_by_role("heading", level=2)).to_have_text(f"Image 3, asked for {facts['asked'][3]}")
        expect(shown.locator(".views li")).to_have_count(4)
        assert shown.locator("rect.box").count() == np.count_nonzero(
            store.views[VIEWS][[3]][0, :, 2:4].prod(-1) < 0.999
        )
        expect(shown.locator(".seenview").last).to_have_attribute("style", re.compile("url"))
        expect(shown.locator("image")).to_have_attribute("href", re.compile("ask/pixels"))
        top = shown.locator(".views li").first.locator(".top").first  # view 0 by the first teacher
        expect(top.locator("tr")).to_have_count(5)
        for key, temperature in ((None, "1"), ("End", "32"), ("Home", "0.250")):
            if key:
                shown.get_by_label("Temperature").press(key)
            expect(shown.get_by_role("status")).to_have_text(temperature)
            best = store.labels[STRONG].softmax(3, temperature=float(temperature))[0].max()
            expect(top.locator("td").first).to_have_text(f"{100 * best:.1f} %")
        pixels_come(page, "dialog .seenview")
        pixels_come(page, "dialog .outlined")
        shown.get_by_role("button", name="Next image").click()
        expect(shown.get_by_role("heading", level=2)).to_contain_text("Image 4,")
        shown.get_by_role("button", name="Previous image").click()
        expect(shown.get_by_role("heading", level=2)).to_contain_text("Image 3,")
        page.keyboard.press("Escape")
        expect(shown).to_have_count(0)


def test_two_teachers_are_compared_image_by_image(browser, address, facts):
    asked, strong, weak = facts["asked"], facts[STRONG], facts[WEAK]
    counts = {
        "see different classes": strong != weak,
        "both right": (strong == asked) & (weak == asked),
        "only the first right": (strong == asked) & (weak != asked),
        "only the second right": (strong != asked) & (weak == asked),
        "neither right": (strong != asked) & (weak != asked),
    }
    with looking(browser, address) as page:
        go_to(page, "Two teachers")
        expect(page.get_by_label("Sort by")).to_have_value("gap")
        expect(page.locator(".tile .other").first).to_be_visible()
        for words, fit in counts.items():
            button = page.locator(".twoteachers .choices").get_by_role("button", name=words)
            expect(button.locator("b")).to_have_text(str(np.count_nonzero(fit)))
            button.click()
            images_left(page, np.count_nonzero(fit))
        page.get_by_role("button", name="Remove filter: neither right").click()
        images_left(page, 600)
        page.get_by_role("combobox", name="Teacher", exact=True).select_option(WEAK)  # the two change places
        expect(page.get_by_label("Second teacher")).to_have_value(STRONG)
        first = page.locator(".twoteachers .choices").get_by_role("button", name="only the first right")
        expect(first.locator("b")).to_have_text(str(np.count_nonzero(counts["only the second right"])))


def test_a_cell_of_the_confusion_table_opens_the_images_behind_it(browser, address, facts):
    table = np.zeros((10, 10), int)
    np.add.at(table, (facts["asked"], facts[STRONG].astype(int)), 1)
    asked, seen = np.unravel_index(np.argmax(table * (1 - np.eye(10, dtype=int))), table.shape)
    with looking(browser, address) as page:
        go_to(page, "Confusion")
        cell = page.get_by_role("button", name=f"{table[asked, seen]} images of {asked} seen as {seen}")
        cell.wait_for()
        cells = page.locator("table.confusion tbody td").all_inner_texts()
        assert [int(text or 0) for text in cells] == table.ravel().tolist()
        cell.click()
        images_left(page, table[asked, seen])
        behind = np.flatnonzero((facts["asked"] == asked) & (facts[STRONG] == seen))
        expect(image_at(page, 0)).to_have_accessible_name(named(behind[0]))
        assert ids_shown(page) == behind.tolist()
        page.go_back()
        expect(cell).to_be_visible()
        page.get_by_label("beside").select_option(WEAK)
        expect(page.locator("table.confusion")).to_have_count(2)


def test_classes_are_rows_sorted_by_any_column_with_images_that_open(browser, address, facts):
    right = [np.mean((facts[STRONG] == facts["asked"])[facts["asked"] == one]) for one in range(10)]
    with looking(browser, address) as page:
        go_to(page, "Classes")
        heads = page.locator("table.listed tbody th")
        expect(heads).to_have_text([str(one) for one in range(10)])
        page.get_by_role("button", name="Teacher agrees").click()
        expect(page.get_by_role("columnheader", name="Teacher agrees")).to_have_attribute("aria-sort", "ascending")
        order = [int(text) for text in heads.all_inner_texts()]
        assert [right[one] for one in order] == sorted(right)
        of_first = np.flatnonzero(facts["asked"] == order[0])
        typical = of_first[np.argmax(facts[f"{STRONG} p"][of_first])]
        page.get_by_role("button", name=f"Image {typical}, typical of").click()
        expect(dialog(page).get_by_role("heading", level=2)).to_have_text(f"Image {typical}, asked for {order[0]}")
        page.keyboard.press("Escape")
        heads.first.get_by_role("button").click()
        images_left(page, len(of_first))
        expect(page.get_by_role("button", name=f"Remove filter: class {order[0]}")).to_be_visible()


def test_stores_are_shown_side_by_side_and_their_images_open(browser, address):
    with looking(browser, address, classes=[7]) as page:
        go_to(page, "Stores")
        expect(page.get_by_text("One seed: a row is the same noise.")).to_be_visible()
        rows = page.locator("table.beside tbody tr")
        expect(rows).to_have_count(40)  # of 60 sevens
        expect(rows.first.locator("th")).to_have_text("7")
        expect(rows.first.get_by_role("button")).to_have_count(2)
        pixels_come(page, "table.beside .picture >> nth=1")
        page.get_by_role("button", name="Show 20 more of 20").click()
        expect(rows).to_have_count(60)
        expect(rows.last).to_contain_text("none")  # the second store has fewer
        rows.first.get_by_role("button").last.click()
        expect(dialog(page).locator(".opinions")).to_contain_text("other")
        page.keyboard.press("Escape")
        expect(page.get_by_label("Store", exact=True)).to_have_value("1")
        page.get_by_label("Store", exact=True).select_option("0")
        images_left(page, 600)


def test_the_address_keeps_what_is_looked_at(browser, address, facts):
    wrong = np.count_nonzero((facts[WEAK] != facts["asked"]) & (facts["asked"] == 5))
    with looking(browser, address, judge=WEAK, classes=[5]) as page:
        page.get_by_role("radio", name="disagrees").check()
        images_left(page, wrong)
        for size in ("104", "112", "120"):
            page.get_by_role("slider", name="Size").fill(size)
        image_at(page, 0).click()
        expect(dialog(page)).to_contain_text(f"1 of {wrong}")
        page.keyboard.press("ArrowRight")
        expect(dialog(page)).to_contain_text(f"2 of {wrong}")
        expect(dialog(page).get_by_role("heading", level=2)).to_contain_text("asked for 5")
        second = dialog(page).get_by_role("heading", level=2).inner_text()
        page.reload()
        expect(dialog(page).get_by_role("heading", level=2)).to_have_text(second)
        expect(page.get_by_role("slider", name="Size")).to_have_value("120")
        images_left(page, wrong)
        page.go_back()  # the slider and the next image are no steps of their own
        expect(dialog(page)).to_have_count(0)
        images_left(page, wrong)
        page.go_back()
        images_left(page, np.count_nonzero(facts["asked"] == 5))
        page.go_forward()
        images_left(page, wrong)


def test_an_address_that_fits_nothing_opens_what_there_is(browser, address):
    odd = {"tab": "nothing", "judge": "nobody", "store": 9, "sort": "beauty", "ranges": {"p_class": "all"}, "size": 1e9}
    with looking(browser, address, **odd) as page:
        images_left(page, 600)
        assert ids_shown(page)[:2] == [0, 1]
        page.goto(address + "#%7B%22rule")  # half an address
        images_left(page, 600)
