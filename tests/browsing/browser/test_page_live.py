"""The page while runs go on: what is made, labelled and learnt, as the logs tell it, without a reload."""

import json
import re

from chromium import (  # noqa: F401  # one_browser is a fixture
    dialog,
    expect,
    looking,
    named,
    one_browser,
    pixels_come,
    serving,
)
from playwright.sync_api import Page
from run_notes import DEAD, HERE, note, written
from stores_to_look_at import DIGITS, new_store, write_blocks

from dmkd.stores import run_log


def badge(part):
    return part.locator(".badge").first


def fact(part, name):
    """What is said under a name: of a run's short facts."""
    return part.locator("dl.facts div", has=part.page.get_by_text(name, exact=True)).locator("dd")


def cells(table: Page, row: str):
    return table.get_by_role("row", name=re.compile(row)).get_by_role("cell")


def test_a_run_is_followed_from_its_first_block_to_its_end(browser, tmp_path, monkeypatch):
    monkeypatch.setattr(run_log, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(run_log, "SHARE_OF_TIME", 1e9)
    store = new_store(tmp_path / "growing.zarr", 256)
    with store.log_run(command="label", driver=DEAD) as killed:
        killed.plan(9)
        killed.add_block(3, killed.add_worker({"host": "elsewhere"}), 1.0, 0.1)
        monkeypatch.setattr(killed, "save", lambda: None)  # it was killed, so its end was not written
    with serving(store.path) as address, looking(browser, address, tab="live") as page:
        earlier = page.get_by_role("region", name=re.compile("^label, begun"))
        expect(badge(earlier)).to_have_text("stopped")
        expect(fact(earlier, "Blocks")).to_have_text("1 of 9")
        with store.log_run(command="generate", driver=HERE) as log:
            log.plan(4)
            first, second = (log.add_worker({"host": f"node-{n}", "hardware": "a GPU"}) for n in range(2))
            write_blocks(store, [0])
            log.add_block(0, first, 2.0, 0.1)
            log.add_failure("a cosmic <b>ray</b>", block=1, worker=second)
            run = page.get_by_role("region", name=re.compile("^generate, begun"))
            expect(badge(run)).to_have_text("running")
            expect(fact(run, "Blocks")).to_have_text("1 of 4")
            expect(run.get_by_role("progressbar", name="Blocks of generate")).to_have_js_property("value", 1)
            expect(fact(run, "Images")).to_have_text("64")
            expect(fact(run, "Images, last minute")).to_have_text(re.compile(r"^\d.*/s$"))
            expect(fact(run, "To go")).to_have_text(re.compile(r"^about \d+ s$"))
            expect(fact(run, "Failures")).to_have_text("1")
            expect(run.get_by_role("region", name="Failures")).to_contain_text("Block 1 on w1: a cosmic <b>ray</b>")
            pixels_come(page, ".strip .picture")
            expect(run.locator(".strip .picture").first).to_have_accessible_name(named(0))

            write_blocks(store, [1, 2])
            log.add_block(1, second, 2.0, 0.1)
            log.add_block(2, first, 1.0, 0.1)
            expect(fact(run, "Blocks")).to_have_text("3 of 4")
            workers = run.get_by_role("region", name="Workers")
            expect(cells(workers, "^w0").nth(0)).to_have_text("2")
            expect(cells(workers, "^w1").nth(0)).to_have_text("1")
            expect(cells(workers, "^w1").last).to_have_text("node-1 · a GPU")
            expect(
                run.get_by_role("img", name=re.compile("^Images a second by .*: all from .* w0 from .* w1"))
            ).to_be_visible()
            write_blocks(store, [3])
            log.add_block(3, second, 1.0, 0.1)
        expect(badge(run)).to_have_text("done")
        expect(fact(run, "Blocks")).to_have_text("4 of 4")
        expect(fact(run, "To go")).to_have_count(0)
        expect(run.locator(".strip .picture").first).to_have_accessible_name(named(192))
        run.locator(".strip .picture").first.click()
        expect(dialog(page).get_by_role("heading", level=2)).to_contain_text("Image 192, asked for")
        page.keyboard.press("Escape")

        # The one before is only summed up now, until somebody opens it.
        before = page.locator("details.run", has_text="label")
        expect(before.locator("summary")).to_contain_text("stopped")
        expect(fact(before, "Blocks")).to_have_count(0)
        before.locator("summary").first.click()
        expect(fact(before, "Blocks")).to_have_text("1 of 9")


def epochs(count):
    return [
        {"epoch": n, "loss": 2.0 / n, "top1": 0.5 + 0.1 * n, "images_per_second": 50.0} for n in range(1, count + 1)
    ]


def test_training_runs_are_followed_and_laid_over_each_other(browser, tmp_path):
    store = write_blocks(new_store(tmp_path / "digits.zarr", 64))
    students = tmp_path / "students"  # beside the store: they are found without --run
    at_work = note(student="resnet20", epochs=4, epoch=2, images=128, total_images=256, images_per_second=64.0)
    at_work["store"] = {"path": store.path, "identity": store.identity}
    points = {"images": [64, 128], "loss": [2.5, 1.25], "lr": [0.1, 0.05], "images_per_second": [60.0, 64.0]}
    written(students / "killed", epochs(1), {**at_work, "driver": DEAD, "points": points})
    first = written(students / "first", epochs(2), {**at_work, "points": points})
    with serving(store.path) as address, looking(browser, address, tab="live") as page:
        table = page.get_by_role("region", name="Training runs")
        row = table.get_by_role("row", name="students/first")
        expect(badge(row)).to_have_text("running")
        expect(row).to_contain_text("2 of 4")
        expect(row.get_by_role("progressbar")).to_have_js_property("value", 128)
        expect(row).to_contain_text("70.0 %")
        expect(row).to_contain_text("2 s")
        expect(row).to_contain_text("this one")
        expect(badge(table.get_by_role("row", name="students/killed"))).to_have_text("stopped")
        accuracy = page.get_by_role("img", name=re.compile("^Top-1 on real images by epoch"))
        expect(accuracy).to_have_accessible_name(
            re.compile("students/first from 60 % at 1 to 70 % at 2.*students/killed")
        )
        steps = page.get_by_role("img", name=re.compile("^Loss, step by step by images"))
        expect(steps).to_have_accessible_name(re.compile("students/first from 2.5 at 64 to 1.25 at 128"))

        row.get_by_role("checkbox").uncheck()
        expect(accuracy).not_to_have_accessible_name(re.compile("students/first"))
        row.get_by_role("checkbox").check()

        # It goes on, and ends.
        written(
            first,
            epochs(4),
            {**at_work, "outcome": "done", "ended": at_work["saved"], "epoch": 4, "images": 256, "points": points},
        )
        expect(badge(row)).to_have_text("done")
        expect(row).to_contain_text("4 of 4")
        expect(accuracy).to_have_accessible_name(re.compile("students/first from 60 % at 1 to 90 % at 4"))
        figure = page.locator("figure.chart", has_text="Top-1 on real images")
        figure.locator("summary").click()
        expect(cells(figure, "^4").first).to_have_text("90 %")


def test_without_runs_it_says_so_and_how_others_are_shown(browser, tmp_path):
    store = write_blocks(new_store(tmp_path / "quiet.zarr", 64))
    with serving(store.path) as address, looking(browser, address, tab="live") as page:
        expect(page.get_by_role("main")).to_contain_text("The log names no run")
        expect(page.get_by_role("main")).to_contain_text("dmkd browse --run FOLDER")


def test_a_strangers_log_shows_as_text(browser, tmp_path):
    store = write_blocks(new_store(tmp_path / "strange.zarr", 64))
    markup = "<img src=x onerror=alert(1)>"
    with store.log_run(command=markup, driver=HERE) as log:
        log.add_block(0, log.add_worker({"host": markup, "hardware": markup}), 1.0, 0.1)
        log.add_failure(markup, block=0, worker="w0")
    bad = note(student=markup, outcome=markup, images=1, total_images=2)
    written(tmp_path / "students" / "odd", [{"epoch": 1, "loss": "NaN", "top1": markup}, {"loss": 1e999}], bad)
    (tmp_path / "students" / "odd" / "summary.json").write_text(
        json.dumps({"training": {"student": [markup]}, "store": DIGITS})
    )
    with serving(store.path) as address, looking(browser, address, tab="live") as page:
        expect(page.get_by_role("main")).to_contain_text(markup)
        expect(page.get_by_role("region", name="Training runs")).to_contain_text(markup)
        expect(page.locator("main img")).to_have_count(0)
