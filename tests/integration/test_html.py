"""report.html in a real browser: read, filtered, walked through by keyboard, and judged by axe."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from tests.support.browser import chromium
from tests.support.journals import records, write
from tests.unit.test_inert import HOSTILE, hostile
from torch_compat_matrix.reports import html
from torch_compat_matrix.reports.changes import compare
from torch_compat_matrix.reports.site import write_site
from torch_compat_matrix.reports.write import compile_report
from torch_compat_matrix.runner.records import history
from torch_compat_matrix.runner.records.runs import Run

RUNS = 9
NEW = "gpu-image/torchbnn-1.2/autograd"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all."""
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the last of nine runs: one check newly fails in it, and an import takes twice as long as before."""
    home = tmp_path_factory.mktemp("home")
    for number in range(RUNS):
        found = records({NEW: "fail"} if number == RUNS - 1 else {})
        found[0]["run"] = f"2030010{number + 1}T000000-abcd"
        for record in found:
            if record.get("check") == "stand-in/gpytorch-1.14/import":
                record["metrics"] = {"import": {"value": 0.5 if number >= RUNS - 2 else 0.25, "unit": "s"}}
        path = write(home / "runs" / found[0]["run"] / "journal.jsonl", found)
    history.sync(home)
    before = home / "runs" / "20300108T000000-abcd" / "journal.jsonl"
    compile_report(path, home / "out", before)
    return home / "out" / "report.html"


@pytest.fixture
def page(browser: Browser, report: Path) -> Iterator[Page]:
    """The report, open; a word on its console is an error."""
    said: list[str] = []
    with browser.new_page(viewport={"width": 1280, "height": 900}) as page:
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(report.as_uri())
        yield page
    assert said == []


def fragment(page: Page) -> str:
    """What the address says after `#`."""
    return page.url.partition("#")[2]


def rows(page: Page) -> list[str]:
    """The names of the rows that are shown."""
    return page.locator("#grid tbody tr:visible th").all_inner_texts()


@pytest.mark.parametrize("width", [1280, 390])
def test_everybody_can_use_it(page: Page, width: int) -> None:
    """Axe finds nothing, in light and dark, in any view; and nothing but tables is wider than a phone."""
    page.set_viewport_size({"width": width, "height": 900})
    for number, view in enumerate(("v=grid", f"c={NEW}", "v=images", "v=libraries", "v=compare", "v=metrics")):
        page.emulate_media(color_scheme="dark" if number % 2 == (width == 390) else "light")
        page.goto(f"{page.url.partition('#')[0]}#{view}")
        found = Axe().run(page).response["violations"]
        assert [(each["id"], each["nodes"][0]["html"]) for each in found] == [], view
        assert page.evaluate("document.documentElement.scrollWidth") <= width, view


def test_counters_filter(page: Page) -> None:
    """A counter shows the rows of its checks alone, a second press all of them; the address keeps it."""
    everything = rows(page)
    page.get_by_role("button", name="1 newly failing").click()
    assert rows(page) == ["torchbnn 1.2"]
    assert page.locator("#grid tbody [class]:not(.off):visible").all_inner_texts() == ["✗ fail"]
    assert fragment(page) == "s=new"
    page.reload()
    assert rows(page) == ["torchbnn 1.2"]
    page.get_by_role("button", name="1 newly failing").click()
    assert rows(page) == everything


def test_the_keyboard_suffices(page: Page) -> None:
    """To the next new failure, into its details and back, to its neighbours, and to the search."""
    page.keyboard.press("n")
    page.keyboard.press("Enter")
    assert page.get_by_role("dialog").inner_text().startswith(f"Close\n{NEW}")
    page.keyboard.press("Escape")
    assert page.get_by_role("dialog").count() == 0
    assert page.evaluate("document.activeElement.innerText") == "✗ fail"
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.innerText") == "✓ GPU"
    page.keyboard.press("ArrowUp")
    assert page.evaluate("document.activeElement.innerText") == "△ infra"
    page.keyboard.press("/")
    page.keyboard.type("wrong-moments")
    assert rows(page) == ["pyro-ppl 1.9.1", "torchbnn 1.2"]
    assert fragment(page) == "q=wrong-moments"


def test_details_tell_all(page: Page) -> None:
    """Verdict, trail, evidence as it was said, reason, environment, and the command that runs the check again."""
    page.goto(f"{page.url}#c={NEW}")
    said = page.get_by_role("dialog").inner_text()
    assert re.search(r"Last 9 runs:\s*(p\s*){8}f", said)
    assert "RuntimeError: a | pipe, `ticks`, <b>html</b> and" in said
    assert f"compat run --backend docker --seed 0 --rerun {NEW}" in said
    assert "NVIDIA H200" in said
    page.get_by_text("The reason wrong-moments").click()
    assert "How to confirm" in page.get_by_role("dialog").inner_text()


def test_words_in_backticks_are_code(page: Page) -> None:
    """In the registry's texts, as in a remedy."""
    page.goto(f"{page.url}#c=gpu-image/captum-0.8.0/import")
    page.get_by_text("The reason drift").click()
    assert "install: plain" in page.locator("dialog details code").all_inner_texts()
    assert "`" not in page.locator("dialog details").inner_text()


def test_runs_and_columns_are_compared(page: Page) -> None:
    """Two runs, then two images."""
    page.goto(f"{page.url}#v=compare")
    assert page.locator("#differences").inner_text().startswith("1 checks differ")
    page.goto(f"{page.url.partition('#')[0]}#v=compare&a=c0&b=c1")
    assert page.locator("#differences tbody, #differences table").first.inner_text().count("torchbnn") == 1


def test_slower_is_a_note(page: Page) -> None:
    """Two runs in a row outside the band are told first, and change no counter."""
    page.goto(f"{page.url}#v=metrics")
    first = page.locator("#plots tr").nth(1).inner_text()
    assert first.split("\t")[0] == "stand-in/gpytorch-1.14/import"
    assert first.split("\t")[3:] == ["250 ms", "500 ms", "slower"]


def test_images_and_libraries(page: Page) -> None:
    """What works in an image, and where a library works."""
    page.goto(f"{page.url}#v=images")
    assert "torch\tinstalled" in page.locator("details[data-name=gpu-image]").inner_text()
    page.goto(f"{page.url.partition('#')[0]}#v=libraries&q=captum")
    assert page.locator("section.on details:visible").inner_text().count("0.8.0 (import: drift)") == 2


def test_without_javascript_it_is_a_table(browser: Browser, report: Path) -> None:
    """Every mark is there, and no control that would do nothing."""
    with browser.new_page(java_script_enabled=False) as page:
        page.goto(report.as_uri())
        assert page.locator("#grid tbody [class]:visible").count() == 56
        assert page.locator("button:visible, input:visible, select:visible").count() == 0
        assert page.get_by_role("heading", name="By library: where does it work?").is_visible()


def test_everybody_can_use_the_site(browser: Browser, report: Path) -> None:
    """Axe finds nothing on a page of each kind, and none is wider than a phone."""
    home = report.parent.parent
    write_site(home, Run.all(home), home / "site")
    with browser.new_page(viewport={"width": 390, "height": 900}) as page:
        for name in ("index", "image/gpu-image", "library/pyro-ppl", "reason/drift", "run/20300109T000000-abcd"):
            page.goto((home / "site" / f"{name}.html").as_uri())
            found = Axe().run(page).response["violations"]
            assert [(each["id"], each["nodes"][0]["html"]) for each in found] == [], name
            assert page.evaluate("document.documentElement.scrollWidth") <= 390, name


def test_old_results_say_so(browser: Browser, report: Path) -> None:
    """The age is that of the moment of reading."""
    with browser.new_page() as page:
        page.clock.set_fixed_time("2030-01-05T00:10:00Z")
        page.goto(report.as_uri())
        assert "(4 days ago: newer results may exist)" in page.locator(".old").inner_text()


def test_printed_it_is_whole(page: Page) -> None:
    """Without controls, with the tables at their full height."""
    page.emulate_media(media="print")
    assert page.locator(".bar:visible").count() == 0
    assert page.evaluate("getComputedStyle(document.querySelector('.wide')).maxHeight") == "none"


def test_hostile_words_stay_words(browser: Browser, tmp_path: Path) -> None:
    """Nothing of what libraries, images and users said becomes an element, in any view and in all details."""
    shapes: list[str] = []
    for words in (HOSTILE, "x"):
        before, after = hostile(tmp_path / words[-1], words)
        path = tmp_path / f"{len(shapes)}.html"
        path.write_text("".join(html.page(after, compare(before, after))), encoding="utf-8", errors="replace")
        with browser.new_page() as page:
            page.on("dialog", lambda dialog: pytest.fail(dialog.message))
            page.goto(path.as_uri())
            shape = []
            for check in list(after.outcomes)[::4]:
                page.evaluate("check => { location.hash = new URLSearchParams({ c: check }) }", check)
                page.wait_for_function("check => document.querySelector('dialog h2')?.textContent === check", arg=check)
                shape.append(page.evaluate("[...document.querySelectorAll('dialog *')].map(each => each.tagName)"))
            for view in ("v=images", "v=compare&a=c0&b=c1", "v=metrics"):
                page.evaluate("hash => { location.hash = hash }", view)
                shape.append(page.evaluate("[...document.querySelectorAll('*')].map(each => each.tagName)"))
            shapes.append(json.dumps(shape))
    assert shapes[0] == shapes[1]
