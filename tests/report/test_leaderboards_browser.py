"""The page of leaderboards in a real browser: its width, its filters, and what there is without scripts."""

import os
import shutil

import pytest
from helpers.fabricated_records import records

from latentbench.bench.leaderboard.contributions import Contribution
from latentbench.bench.leaderboard.results import Results
from latentbench.bench.report.page.leaderboards import write_leaderboards

playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright isn't installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no chromium on this machine (apt-get install chromium)")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    groups = [
        Contribution(name, "", Results.of(records(("kl", "none"), ("mar",), guidances=(1.0,), dataset=name)))
        for name in ("digits", "shapes")
    ]
    return write_leaderboards(tmp_path_factory.mktemp("page") / "all.html", groups)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-background-networking"],
            env=os.environ | {"DBUS_SESSION_BUS_ADDRESS": ""},
        )
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser, page):
    contexts, complaints = [], []

    def open_(width=1280, **options):
        contexts.append(browser.new_context(viewport={"width": width, "height": 844}, **options))
        tab = contexts[-1].new_page()
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.goto(page.as_uri())
        return tab

    yield open_
    for context in contexts:
        context.close()
    assert not complaints


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_is_no_wider_than_its_window(opened, width):
    assert opened(width).evaluate("document.documentElement.scrollWidth") <= width


def test_filters_hide_and_show_rows(opened):
    tab = opened()
    rows = tab.locator("#measured section[data-dataset] tbody tr:visible")
    assert rows.count() == 4
    tab.select_option("[data-filter=dataset]", "shapes")
    assert rows.count() == 2
    tab.select_option("[data-filter=latent]", "not recorded")
    assert rows.count() == 2
    tab.click("#clear")
    assert rows.count() == 4 and not tab.locator("#clear").is_visible()
    tab.select_option("[data-filter=judge]", "net")
    assert rows.count() == 4 and tab.locator("thead th:visible", has_text="PSNR").count() == 2


def test_everything_is_shown_without_scripts(opened):
    tab = opened(java_script_enabled=False)
    assert tab.locator("#measured section[data-dataset] tbody tr:visible").count() == 4
    assert not tab.locator(".tools").is_visible()
