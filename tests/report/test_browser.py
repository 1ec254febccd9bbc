"""The page in a real browser: headless Chromium from the system, driven by Playwright."""

import dataclasses
import os
import shutil
from pathlib import Path

import pytest
import torch
from helpers.fabricated_finding import finding
from helpers.fabricated_records import records

from latentbench.bench.records.files import read_records
from latentbench.bench.report import image_grids
from latentbench.bench.report.page import page

playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright isn't installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no chromium on this machine (apt-get install chromium)")
WIDTHS = [1280, 390]
STUDIES = {
    file.parent.name: file for file in sorted(Path(__file__).parents[2].glob("results/studies/*/*.html"))
}
HEIGHT, WORDS = 18_300, 16_134  # of the page of digits when all of it was unfolded
MOST_BYTES, CELLS = 3_000_000, 84  # of the page of so many cells; larger ones in proportion
SCORE = "gFD ↓"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    found = records(regularizers=("none", "kl[weight=0.01]", "repa"), generators=("mar", "tarflow"))
    for one in found:
        if not one.real:
            images = torch.randint(256, (8, 1, 8, 8), dtype=torch.uint8)
            image_grids.write_samples(
                folder / "samples", image_grids.picture_name(one.cell, "@1"), images, torch.arange(8)
            )
            name = image_grids.picture_name(one.cell | {"generator": ""}, "--worst")
            image_grids.write_pixels(folder / "samples", name, images.expand(8, 3, 8, 8)[0].permute(1, 2, 0))
    failed = dataclasses.replace(
        found[1], status="failed", reason="<b>nan</b>", cell=found[1].cell | {"seed": "9"}
    )
    return page.write(folder, [*found, failed], [finding()], "<script>made up", [folder])


@pytest.fixture(scope="module")
def browser():
    arguments = ["--no-sandbox", "--disable-background-networking"]
    # Chromium looks for DBus and a GPU; neither is needed.
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(
            executable_path=CHROMIUM, args=arguments, env=os.environ | {"DBUS_SESSION_BUS_ADDRESS": ""}
        )
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser, file):
    """Opens the page or another; its complaints and whatever it asks for fail the test in the end."""
    complaints, requests, contexts = [], [], []

    pages = {file.as_uri()}

    def open_(width=1280, unfold=True, page=file, **options):
        pages.add(page.as_uri())
        context = browser.new_context(viewport={"width": width, "height": 844}, **options)
        contexts.append(context)
        context.set_default_timeout(5000)
        context.set_default_navigation_timeout(60_000)  # a study's page on a busy machine
        tab = context.new_page()
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("request", lambda request: requests.append(request.url))
        tab.goto(page.as_uri())
        if unfold:
            tab.evaluate("document.querySelectorAll('.fold').forEach(fold => { fold.open = true; })")
        return tab

    yield open_
    for context in contexts:
        context.close()
    assert not complaints
    assert {url for url in requests if not url.startswith("data:")} <= pages


def column(tab, name, table="#generation .sheet"):
    """The texts of one column's cells that are shown, without the real row."""
    headers = tab.locator(f"{table} thead th").all_inner_texts()
    place = next(i for i, text in enumerate(headers) if text.replace("\xa0", " ").startswith(name))
    cells = f"{table} tbody:not(.real) tr:visible > :nth-child({place + 1})"
    return [text.strip() for text in tab.locator(cells).all_inner_texts()]


def scores(tab):
    return [float(text.removeprefix("≈").split()[0]) for text in column(tab, SCORE)]


def header(tab, name):
    return tab.locator("#generation thead th", has=tab.get_by_role("button", name=name, exact=True))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_a_page_is_no_wider_than_its_window_and_follows_the_theme(opened, width, scheme):
    tab = opened(width, color_scheme=scheme)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    red = int(tab.evaluate("getComputedStyle(document.body).backgroundColor").split("(")[1].split(",")[0])
    assert (red < 64) == (scheme == "dark")


def test_every_picture_is_shown(opened):
    tab = opened()
    for button in tab.locator(".picks button").all():
        button.click()
        shown = tab.locator(".samples [data-pick]:visible")
        assert shown.count() == 1 and shown.locator("img").count() == 3
    widths = tab.evaluate(
        "Promise.all([...document.images].map(async (i) => {i.loading = 'eager'; await i.decode(); "
        "return i.naturalWidth}))"
    )
    assert len(widths) == 2 * 3 + 3 and min(widths) > 0


def test_a_click_and_a_key_sort_and_say_so(opened):
    tab = opened()
    button = header(tab, SCORE).get_by_role("button")
    button.click()
    assert header(tab, SCORE).get_attribute("aria-sort") == "ascending"
    assert scores(tab) == sorted(scores(tab)) and len(scores(tab)) == 3 * 2 * 3
    button.focus()
    tab.keyboard.press("Enter")
    assert header(tab, SCORE).get_attribute("aria-sort") == "descending"
    assert scores(tab) == sorted(scores(tab), reverse=True)
    header(tab, "regularizer").get_by_role("button").click()
    assert column(tab, "regularizer") == sorted(column(tab, "regularizer"))
    assert tab.locator("#generation [aria-sort]").count() == 1
    assert tab.locator("#generation tbody").first.get_attribute("class") == "real"


def test_what_is_better_higher_is_sorted_so_first(opened):
    tab = opened()
    header(tab, "recall ↑").get_by_role("button").click()
    assert header(tab, "recall ↑").get_attribute("aria-sort") == "descending"


def test_text_and_chips_filter_all_that_is_of_a_row(opened):
    tab = opened()
    tab.get_by_role("searchbox").fill("REPA tarflow")
    assert set(column(tab, "regularizer")) == {"repa"} and set(column(tab, "generator")) == {"tarflow"}
    tab.get_by_role("button", name="Clear filter").click()
    assert len(column(tab, "regularizer")) == 18
    tab.locator(".chips").get_by_role("button", name="mar", exact=True).click()
    tab.locator(".chips").get_by_role("button", name="none", exact=True).click()
    assert set(column(tab, "generator")) == {"mar"} and set(column(tab, "regularizer")) == {"none"}
    assert set(
        tab.locator(".gallery figure:visible").evaluate_all("a => a.map(f => f.dataset.regularizer)")
    ) == {"none"}
    assert tab.locator(".panels .line:visible").count() < tab.locator(".panels .line").count()
    assert tab.locator(".panels figure:visible[data-generator=tarflow]").count() == 0


@pytest.mark.parametrize("scripts", [True, False])
def test_all_columns_are_shown_on_demand_by_the_keyboard_and_without_scripts(opened, scripts):
    tab = opened(java_script_enabled=scripts, unfold=scripts)
    if not scripts:
        tab.locator(".fold > summary").first.click()
        tab.locator("#tokenizers .fold > summary").click()
    assert not tab.locator("#generation th.more").first.is_visible()
    switch = tab.locator("#generation").get_by_label("all columns")
    switch.focus()
    tab.keyboard.press("Space")
    assert switch.is_checked() and tab.locator("#generation th.more").first.is_visible()
    assert not tab.locator("#tokenizers th.more").first.is_visible()


@pytest.mark.parametrize("way", ["hover", "focus", "tap"])
def test_a_tooltip_says_what_a_metric_is(opened, way):
    tab = opened(390, has_touch=True) if way == "tap" else opened()
    at, tip = header(tab, SCORE), tab.get_by_role("tooltip")
    at.scroll_into_view_if_needed()
    tab.wait_for_timeout(100)  # scrolling hides tooltips
    {"hover": at.hover, "focus": at.get_by_role("button").focus, "tap": at.get_by_role("button").tap}[way]()
    said = tip.inner_text()
    assert "gFD[net]" in said and "Lower is better." in said and "n = 1,437" in said and "Protocol" in said
    box = tip.bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= tab.viewport_size["width"]
    tab.keyboard.press("Escape")
    assert tip.is_hidden()


def test_arrows_move_between_cells_and_tell_their_intervals(opened):
    tab = opened()
    tab.locator("#generation tbody [tabindex='0']").first.focus()
    tab.keyboard.press("ArrowDown")
    assert tab.evaluate("document.activeElement.closest('tr').rowIndex") >= 2
    assert "over 3 seeds" in tab.get_by_role("tooltip").inner_text()


def test_the_theme_can_be_chosen_and_stays(opened):
    tab = opened(color_scheme="light")
    tab.get_by_role("button", name="Light or dark").click()
    assert tab.evaluate("document.documentElement.dataset.theme") == "dark"
    tab.reload()
    assert tab.evaluate("document.documentElement.dataset.theme") == "dark"


def test_the_header_and_the_first_column_stay_in_view(opened):
    tab = opened(390)
    box = tab.locator("#generation .box")
    box.evaluate("b => b.scrollTo(120, 200)")
    frame, corner = box.bounding_box(), tab.locator("#generation thead th").first.bounding_box()
    assert abs(corner["x"] - frame["x"]) < 2 and abs(corner["y"] - frame["y"]) < 2


def test_a_protocol_of_a_header_opens(opened):
    tab = opened()
    tab.evaluate("document.querySelector('#protocols details').open = false")
    link = tab.locator("#generation a.id").first
    target = link.get_attribute("href")
    link.click()
    tab.wait_for_function("target => document.querySelector(target).open", arg=target)


def test_without_scripts_all_can_be_read(opened):
    tab = opened(java_script_enabled=False, unfold=False)
    tab.locator("#pictures .fold > summary").click()
    assert tab.locator("#generation tbody tr").count() == 18 + 1
    assert (
        tab.locator(".samples [data-pick]").count()
        == tab.locator(".samples [data-pick]:visible").count()
        == 2
    )
    assert not tab.locator(".tools").is_visible() and not tab.locator("#theme").is_visible()
    assert "Lower is better" in tab.locator("#generation th", has_text="gFD").first.get_attribute("title")


OUTSIDE = """width => {
  const outside = (box) => box.width && (box.left < -1 || box.right > width + 1);
  const seen = "figure, figure svg, img, .box, .verdict td, .strips, .plot, .lines";
  return [...document.querySelectorAll(seen)]
    .filter((one) => outside(one.getBoundingClientRect()))
    .map((one) => one.outerHTML.slice(0, 90));
}"""
CUT = """() => [...document.querySelectorAll(".verdict :is(th, td), .answer, .note, .lines li, dd, summary")]
  .filter((one) => one.clientWidth && one.scrollWidth > one.clientWidth + 1)
  .map((one) => one.outerHTML.slice(0, 90))"""
UNFOLD = "document.querySelectorAll('details').forEach(fold => { fold.open = true; })"


@pytest.mark.parametrize("name", [None, *STUDIES])
def test_on_a_phone_no_number_and_no_figure_is_cut(opened, file, name):
    tab = opened(390, page=STUDIES.get(name, file))
    tab.evaluate(UNFOLD)
    for every_column in (False, True):
        tab.evaluate(
            "on => document.querySelectorAll('.wide').forEach(w => { w.checked = on; })", every_column
        )
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
        assert tab.evaluate(OUTSIDE, 390) == [] and tab.evaluate(CUT) == []


def test_on_a_phone_the_name_of_a_row_with_many_options_is_broken(opened, tmp_path):
    long = "auxiliary_decoders[probabilities=0.55x0.25x0.1x0.1,interpolate=false]"
    found = records(regularizers=("none", long), generators=("mar",), seeds=("0",))
    tab = opened(390, page=page.write(tmp_path, found, [], "long names", [tmp_path]))
    tab.evaluate(UNFOLD)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    assert tab.evaluate(OUTSIDE, 390) == [] and tab.evaluate(CUT) == []


def test_on_a_phone_a_wide_table_scrolls_in_its_box_and_its_first_number_is_in_view(opened):
    tab = opened(390)
    box, first = tab.locator("#generation .box"), tab.locator("#generation tbody:not(.real) tr").first
    assert box.evaluate("b => b.scrollWidth > b.clientWidth")
    number = first.locator("td").filter(has_text="±").first.bounding_box()
    assert number["x"] + number["width"] <= 390
    label = first.locator("th")
    before = label.bounding_box()["x"]
    box.evaluate("b => b.scrollTo(400, 0)")
    assert label.bounding_box()["x"] == pytest.approx(before, abs=1)


@pytest.mark.parametrize("name", sorted({"digits", "fashion-mnist"} & STUDIES.keys()))
def test_the_first_screen_of_a_study_has_the_answer_a_figure_and_samples(opened, name):
    tab = opened(1280, unfold=False, page=STUDIES[name])
    for part in (
        ".made",
        ".trained img",
        ".answer-first",
        ".verdict",
        ".leading svg",
        ".strips .strip >> nth=-1",
    ):
        box = tab.locator(part).bounding_box()
        assert box["y"] + box["height"] <= 900, part
    assert "bench run --matrix" in tab.locator(".made").inner_text()
    generators = tab.locator(".verdict tbody th").all_inner_texts()
    assert generators[-1].startswith("gaussian") and "baseline" in generators[-1]
    assert not any("gaussian" in caption for caption in tab.locator(".strips figcaption").all_inner_texts())


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_is_a_third_as_long_as_it_was_and_within_three_megabytes(opened, name):
    cells = sum(r.status == "done" for r in read_records(STUDIES[name].parent / "records"))
    assert STUDIES[name].stat().st_size <= MOST_BYTES * max(cells / CELLS, 1)
    tab = opened(1280, unfold=False, page=STUDIES[name])
    assert tab.evaluate("document.documentElement.scrollHeight") <= HEIGHT / 3
    assert len(tab.evaluate("document.body.innerText").split()) <= WORDS / 3
    assert tab.locator("#published table").count() == 0


def test_a_link_opens_the_section_that_it_leads_to(opened):
    tab = opened(unfold=False)
    assert not tab.locator("#generation .sheet").is_visible()
    tab.get_by_role("navigation").get_by_role("link", name="Generation").click()
    tab.locator("#generation .sheet").wait_for(state="visible")
    assert not tab.locator("#tokenizers .sheet").is_visible()
