"""Stores as they come: one that is being written, damaged ones, large and small ones, one without labels, one that is gone."""

import re
from pathlib import Path

from chromium import (  # noqa: F401  # one_browser is a fixture
    as_hash,
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
    serving,
    tiles,
)
from stores_to_look_at import VIEWS, damage, new_store, write_blocks

from dmkd.recipes.class_names import class_names_from

REFUSED = ("status of 500",)  # the browser writes down that a damaged picture did not come
GONE = ("ERR_CONNECTION", "status of 403")  # another page may have taken its port


def test_a_store_that_is_being_written_grows_while_it_is_looked_at(browser, tmp_path):
    store = new_store(tmp_path / "growing.zarr", 256)
    with serving(store.path) as address, looking(browser, address, sort="image_id", down=True) as page:
        images_left(page, 0)
        expect(page.get_by_text("No image fits.")).to_be_visible()
        write_blocks(store, [0, 2])
        images_left(page, 128)
        expect(page.get_by_text("No image fits.")).to_have_count(0)
        expect(page.get_by_role("banner").get_by_role("status")).to_have_text("2 of 4 blocks made")
        expect(image_at(page, 0)).to_have_accessible_name(named(191))
        pixels_come(page, ".tile .picture")
        write_blocks(store, [1, 3])
        store.add_column("late", store.class_ids[:].astype(float), "what comes later")
        images_left(page, 256)
        expect(image_at(page, 0)).to_have_accessible_name(named(255))
        expect(page.get_by_role("banner")).to_contain_text("256 images")
        expect(page.get_by_role("group", name="late")).to_be_visible()


def test_what_is_damaged_is_said_and_the_rest_is_shown(browser, tmp_path):
    store = write_blocks(new_store(tmp_path / "damaged.zarr", 320))
    folder = Path(store.path)
    damage(folder / "images/c.1.0.0.0")
    damage(folder / "class_ids/c.2")
    damage(folder / "labels/strong/quality/c.3.0")
    damage(folder / "views" / VIEWS / "c.4.0.0")
    with serving(store.path) as address, looking(browser, address, forgiven=REFUSED) as page:
        images_left(page, 256)  # without those whose class is not known
        page.locator("summary", has_text="2 parts of the store can't be read").click()
        expect(page.locator(".banner")).to_contain_text("class_ids/c.2 is damaged")
        expect(page.locator(".banner")).to_contain_text("dmkd verify --repair")
        for image, sentence in ((70, "images/c.1.0.0.0"), (200, "quality/c.3.0"), (260, f"views/{VIEWS}/c.4.0.0")):
            page.goto(address + as_hash(image=image))
            expect(dialog(page).get_by_role("heading", level=2)).to_contain_text(f"Image {image}, asked for")
            expect(dialog(page).locator(".problem").first).to_contain_text(sentence)
            page.keyboard.press("Escape")
            expect(dialog(page)).to_have_count(0)
        page.locator(".grid").evaluate("grid => grid.scrollTop = grid.scrollHeight")
        expect(image_at(page, 255)).to_have_accessible_name(named(319))
        pixels_come(page, '[data-place="255"]')


def test_a_store_without_labels_has_images_and_classes(browser, tmp_path):
    store = write_blocks(new_store(tmp_path / "plain.zarr", 100, teachers=[]))
    with serving(store.path) as address, looking(browser, address) as page:
        images_left(page, 100)
        pixels_come(page, ".tile .picture")
        expect(page.get_by_role("button", name="Two teachers")).to_have_count(0)
        expect(page.get_by_role("button", name="Stores")).to_have_count(0)
        page.get_by_label("Rule", exact=True).fill("agree")
        page.get_by_label("Rule", exact=True).press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("the store has no labels")
        page.get_by_role("button", name="all again").click()
        image_at(page, 5).click()
        expect(dialog(page)).to_contain_text("No labels yet.")
        expect(dialog(page).locator(".views li")).to_have_count(4)
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Confusion").click()
        expect(page.get_by_text("The store has no labels: run dmkd label first.")).to_be_visible()
        page.get_by_role("button", name="Classes").click()
        expect(page.locator("table.listed tbody tr")).to_have_count(10)


def test_large_images_of_a_thousand_classes_with_many_views(browser, tmp_path):
    names = class_names_from("imagenet")
    options = {"teachers": ["strong"], "side": 256, "num_views": 50, "image_codec": "jpeg:90"}
    store = new_store(tmp_path / "large.zarr", 48, class_names=names, **options)
    write_blocks(store)
    with serving(store.path) as address, looking(browser, address, width=900) as page:
        images_left(page, 48)
        expect(tiles(page).first).to_have_attribute("style", re.compile("size=128"))
        pixels_come(page, ".tile .picture")
        asked = names[int(store.class_ids[:][7])]
        image_at(page, 7).click()
        expect(dialog(page).get_by_role("heading", level=2)).to_contain_text(asked.split(",")[0])
        expect(dialog(page).locator(".views li")).to_have_count(50)
        pixels_come(page, "dialog .seenview")
        page.keyboard.press("Escape")
        page.get_by_label("Find a class").fill("goldfish")
        page.get_by_role("checkbox", name="1 goldfish").check()
        images_left(page, int((store.class_ids[:] == 1).sum()))


def test_a_single_image(browser, tmp_path):
    store = write_blocks(new_store(tmp_path / "one.zarr", 1))
    with serving(store.path) as address, looking(browser, address) as page:
        images_left(page, 1)
        assert ids_shown(page) == [0]
        page.get_by_role("button", name="Classes").click()
        expect(page.locator("table.listed tbody tr")).to_have_count(1)
        page.get_by_role("button", name="Confusion").click()
        expect(page.locator("table.confusion button")).to_have_text("1")
        page.get_by_role("button", name="Two teachers").click()
        expect(page.get_by_role("button", name="see different classes 1")).to_be_visible()


def test_the_page_says_when_its_server_is_gone(browser, tmp_path):
    store = write_blocks(new_store(tmp_path / "gone.zarr", 64))
    with browsing(store.path) as (address, process), looking(browser, address, forgiven=GONE) as page:
        images_left(page, 64)
        image_at(page, 0).click()
        expect(dialog(page)).to_contain_text("1 of 64")
        process.terminate()
        process.wait()
        page.keyboard.press("ArrowRight")
        expect(page.get_by_text("No answer: is dmkd browse still running?")).to_be_visible()
        assert ids_shown(page)[0] == 0  # what there was stays
