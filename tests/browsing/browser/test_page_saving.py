"""What is saved on the page is what training takes: rules, and images that were picked."""

import numpy as np
import pytest
from chromium import (  # noqa: F401  # one_browser is a fixture
    dialog,
    expect,
    ids_shown,
    image_at,
    images_left,
    looking,
    one_browser,
    serving,
)
from stores_to_look_at import new_store, write_blocks

import dmkd
from dmkd.stores import open_store


@pytest.fixture
def store(tmp_path):
    return write_blocks(new_store(tmp_path / "saved here.zarr", 200))


def ids_trained_on(path, select, labels):
    loader = dmkd.loader(path, labels=labels, select=select, batch_size=8, device="cpu")
    return sorted(image for batch in loader for image in batch.ids.tolist())


def save_as(page, name):
    page.get_by_role("button", name="Save selection").click()
    dialog(page).get_by_label("Name").fill(name)
    dialog(page).get_by_role("button", name="Save", exact=True).click()


def test_a_rule_is_saved_and_taken_by_training(browser, store):
    class_ids, quality = store.class_ids[:], store.labels["weak"].quality[:]
    fit = np.flatnonzero((quality[:, 0] == class_ids) & np.isin(class_ids, (3, 4, 5)) & (quality[:, 2] < 1.5))
    refused = ("400",)  # the browser writes down that a request was refused
    with serving(store.path) as address, looking(browser, address, forgiven=refused, judge="weak") as page:
        page.get_by_label("Rule", exact=True).fill("entropy < 1.5")
        page.get_by_label("Rule", exact=True).press("Enter")
        page.get_by_role("radio", name="agrees", exact=True).check()
        for digit in ("3", "4", "5"):
            page.get_by_role("checkbox", name=digit, exact=True).check()
        images_left(page, len(fit))
        save_as(page, "good ones")
        expect(dialog(page).get_by_role("alert")).to_contain_text("good ones")
        dialog(page).get_by_label("Name").fill("good")
        dialog(page).get_by_label("Name").press("Enter")
        expect(dialog(page).get_by_role("status")).to_have_text(f"{len(fit)} images saved as @good. To train on them:")
        command = f"dmkd train-student --store '{store.path}' --labels weak --select @good"
        expect(dialog(page).locator("code")).to_have_text(command)
        dialog(page).get_by_role("button", name="Done").click()
        page.get_by_label("Saved").select_option("good")  # and it can be looked at by its name
    assert ids_trained_on(store.path, "@good", "weak") == fit.tolist()


def test_images_are_picked_looked_at_and_saved(browser, store):
    with serving(store.path) as address, looking(browser, address) as page:
        images_left(page, 200)
        for image in (7, 3):
            page.get_by_role("button", name=f"Pick image {image}", exact=True).click()
        image_at(page, 11).click()
        dialog(page).get_by_role("button", name="Pick").click()
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Show the 3 picked").click()
        images_left(page, 3)
        assert ids_shown(page) == [3, 7, 11]
        page.get_by_role("button", name="Remove filter: 3 picked").click()
        images_left(page, 200)
        save_as(page, "handmade")
        expect(dialog(page).get_by_role("status")).to_contain_text("3 images saved as @handmade")
        dialog(page).get_by_role("button", name="Done").click()
        expect(page.get_by_role("group", name="handmade")).to_be_visible()  # the column has a histogram
        page.get_by_role("button", name="Clear").click()
        expect(page.get_by_text("3 picked")).to_have_count(0)
    assert ids_trained_on(store.path, "@handmade", "strong") == [3, 7, 11]
    assert open_store(store.path).columns["handmade"][:].sum() == 3


def test_images_that_two_teachers_see_differently_are_saved(browser, store):
    strong, weak = (store.labels[name].quality[:][:, 0] for name in ("strong", "weak"))
    with serving(store.path) as address, looking(browser, address, tab="teachers", pair="differ") as page:
        images_left(page, np.count_nonzero(strong != weak))
        save_as(page, "disputed")
        expect(dialog(page).get_by_role("status")).to_contain_text("saved as @disputed")
    assert ids_trained_on(store.path, "@disputed", "strong") == np.flatnonzero(strong != weak).tolist()
