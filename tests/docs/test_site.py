"""The site of the docs: it builds without a warning, and nothing in it comes from elsewhere."""

import functools
import http.server
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from helpers.pages import ROOT

pytest.importorskip("material", reason="the site's theme isn't installed: pip install -e '.[docs]'")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SCREENS = [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    variables = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(words, cwd=ROOT, env=variables, capture_output=True, encoding="utf-8")
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stdout + done.stderr
    return folder


class Page(HTMLParser):
    """What a page loads, what it links to, and its anchors."""

    LOADED = {
        "script": ("src",),
        "img": ("src", "srcset"),
        "source": ("src", "srcset"),
        "iframe": ("src",),
        "video": ("src", "poster"),
        "audio": ("src",),
        "embed": ("src",),
        "object": ("data",),
        "use": ("href", "xlink:href"),
    }

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        named = {name: value or "" for name, value in attrs}
        self.anchors |= {named[name] for name in ("id", "name") if name in named}
        if tag == "link" and named.get("rel") not in ("canonical", "next", "prev", "alternate"):
            self.loaded.append(named.get("href", ""))
        if tag == "a" and "href" in named:
            self.links.append(named["href"])
        self.loaded += [named[name] for name in self.LOADED.get(tag, ()) if name in named]
        self.loaded += re.findall(r"url\(([^)]+)\)", named.get("style", ""))


def built(site):
    return {file: Page(file) for file in sorted(site.rglob("*.html")) if file.name != "404.html"}


def test_no_page_and_no_style_loads_anything_from_elsewhere(site):
    pages = built(site)
    assert len(pages) > 10
    loaded = {url for page in pages.values() for url in page.loaded}
    assert loaded and not [
        url for url in loaded if re.match(r"[a-z]+:|//", url) and not url.startswith("data:")
    ]
    for style in site.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        assert not re.search(r"@import|url\([\"']?(?:https?:)?//", text), style


def test_every_link_of_the_site_leads_to_a_file_of_it_and_to_an_anchor_of_that_file(site):
    pages, broken = built(site), []
    for file, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            target = target / "index.html" if target.is_dir() else target
            anchors = pages[target].anchors | {""} if target in pages else {"", parts.fragment}
            if not target.is_file() or unquote(parts.fragment) not in anchors:
                broken.append(f"{file.relative_to(site)}: {link}")
    assert not broken


def test_links_that_leave_docs_lead_to_copies_within_the_site(site):
    index = Page(site / "index.html")
    assert "repository/results/index.html" in index.links
    assert any(picture.startswith("repository/results/studies/") for picture in index.loaded)
    assert (site / "repository/results/index.html").is_file()


def test_search_finds_options_and_leaves_out_what_is_beside_the_docs(site):
    found = json.loads((site / "search/search_index.json").read_text(encoding="utf-8"))["docs"]
    places = {entry["location"].partition("#")[0] for entry in found}
    assert {"reference/regularizers.html", "index.html"} <= places
    assert not [place for place in places if place.startswith("repository/")]
    assert any("flow_prior" in entry["title"] for entry in found)


@pytest.fixture(scope="module")
def hook():
    spec = importlib.util.spec_from_file_location("site_links", ROOT / "docs/site_links.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_only_relative_links_of_text_are_changed(hook):
    text = (
        "[a](../a.md#x) ![b](b.png 'title') `[c](c.md)` [d](https://x.org/d.md) [e](#e) [f](mailto:f@x.org)\n"
        '<img src="g.png" width="3">\n\n```md\n[h](h.md)\n```\n'
    )
    seen = []
    changed = hook.replaced_links(text, lambda target: seen.append(target) or f"<{target}>")
    assert seen == ["../a.md", "b.png", "g.png"]
    assert "(<../a.md>#x)" in changed and "(<b.png> 'title')" in changed and 'src="<g.png>"' in changed
    assert hook.replaced_links(text, lambda target: target) == text


def test_a_link_is_to_a_file_to_the_text_of_a_folder_or_to_nothing(hook):
    page = Path("docs/index.md")
    assert hook.found(page, "../matrix.yaml") == Path("matrix.yaml")
    assert (
        hook.found(page, "../results")
        == hook.found(page, "../results/README.md")
        == Path("results/README.md")
    )
    assert hook.found(page, "reference/kinds.md") is None and hook.found(page, "../tests/") is None
    assert hook.found(page, "../../elsewhere.md") is None and hook.found(page, "/etc/hostname") is None
    assert hook.site_uri(Path("matrix.yaml")) == "repository/matrix.yaml"
    assert hook.repository_path("repository/matrix.yaml") == Path("matrix.yaml")
    assert hook.repository_path(hook.site_uri(Path("docs/a/b.md"))) == Path("docs/a/b.md")


def test_a_link_to_a_folder_without_a_text_is_plain_text_where_no_code_host_is_known(hook):
    text = "[tests](../tests/) [results](../results/README.md) [x](https://x.org)"
    plain = "tests [results](../results/README.md) [x](https://x.org)"
    assert hook.without_folder_links(text, Path("docs/index.md")) == plain


@pytest.fixture(scope="module")
def served(site):
    """The address of the site on this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM:
        pytest.skip("no chromium on this machine (apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        variables = os.environ | {"DBUS_SESSION_BUS_ADDRESS": ""}
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], env=variables)
        yield chromium
        chromium.close()


@pytest.mark.nightly
@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_no_page_scrolls_sideways_complains_or_asks_elsewhere(site, served, browser, width, scheme, tmp_path):
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page, complaints, requests = context.new_page(), [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    for file in built(site):
        name = file.relative_to(site).as_posix()
        page.goto(served + name)
        wide = page.evaluate("document.scrollingElement.scrollWidth - window.innerWidth")
        assert wide <= 0, f"{name} is {wide} pixels wider than {width}"
        shown = page.evaluate("document.body.getAttribute('data-md-color-scheme')")
        assert shown == {"light": "default", "dark": "slate"}[scheme]
        page.screenshot(path=tmp_path / f"{name.replace('/', '-')}-{width}-{scheme}.png")  # to look at
    context.close()
    assert not complaints
    assert requests and not [url for url in requests if not url.startswith((served, "data:", "blob:"))]


@pytest.mark.nightly
@pytest.mark.parametrize("width", [1280, 390])
def test_a_reader_searches_and_changes_the_theme(served, browser, width):
    page = browser.new_context(viewport={"width": width, "height": 844}, color_scheme="light").new_page()
    page.set_default_timeout(10_000)
    page.goto(served + "index.html")
    if width < 1000:
        page.click("label[for=__search].md-icon")
    page.fill(".md-search__input", "flow_prior")
    page.wait_for_selector(".md-search-result__link[href*='regularizers.html']")
    page.goto(served + "index.html")
    page.click("label[title='Take the light theme']")
    page.click("label[title='Take the dark theme']")
    page.wait_for_function("document.body.getAttribute('data-md-color-scheme') == 'slate'")
