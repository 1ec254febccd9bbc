"""What the page of a leaderboard says, and that nothing in a record can break out of its place."""

import base64
import dataclasses
import hashlib
import io
import re
from html.parser import HTMLParser
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest
import torch
from helpers.fabricated_finding import EVIL, finding
from helpers.fabricated_records import records
from matplotlib.figure import Figure
from PIL import Image

from latentbench.bench.records.record import Record
from latentbench.bench.report import image_grids
from latentbench.bench.report.dataframe import frame
from latentbench.bench.report.page import embed, page
from latentbench.bench.report.page.curves import POINTS, panels, thinned
from latentbench.bench.stages.scores import rendered

HOSTS = ("https://arxiv.org/", "https://doi.org/", "https://github.com/")
VOID = {"meta", "link", "img", "input", "br"}


class Document(HTMLParser):
    """Tags with attributes, and the text below each; what is never closed fails."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.ids = [], [], []
        self.feed(text)
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        node = {"tag": tag, "text": "", **attributes}
        self.tags.append(node)
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if tag not in VOID:
            self.open.append((tag, node))

    def handle_startendtag(self, tag, attributes):
        self.tags.append({"tag": tag, "text": "", **dict(attributes)})

    def handle_endtag(self, tag):
        assert self.open and self.open[-1][0] == tag, f"</{tag}> inside {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        for _, node in self.open:
            node["text"] += data

    def all(self, tag, **attributes):
        return [n for n in self.tags if n["tag"] == tag and attributes.items() <= n.items()]


@pytest.fixture(scope="module")
def text():
    return page.html(records(), [finding(), finding()], "made up")


@pytest.fixture(scope="module")
def document(text):
    return Document(text)


def section(document, id):
    return next(node for node in document.tags if node["tag"] == "section" and node.get("id") == id)


def test_a_page_has_a_row_per_cell_and_guidance_and_the_real_row_apart(document):
    rows = document.all("tr", **{"data-generator": "mar"})
    assert sum("±" in row["text"] for row in rows) == 5 * 3
    assert len(document.all("tbody", **{"class": "real"})) == 1


def test_all_is_in_one_file_and_links_go_to_papers_and_code_alone(text, document):
    links = [n["href"] for n in document.tags if "href" in n and n["tag"] in ("a", "link")]
    assert all(link.startswith((*HOSTS, "#", "data:")) for link in links)
    assert not [n for n in document.tags if "src" in n and not n["src"].startswith("data:")]
    assert "@import" not in text and not re.search(r"url\((?!#)", text)
    policy = document.all("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"]
    assert "default-src 'none'" in policy and "img-src data:" in policy and "http" not in policy


def test_every_link_within_the_page_has_its_place_and_ids_are_unique(document):
    assert len(document.ids) == len(set(document.ids))
    inner = {n["href"][1:] for n in document.all("a") if n.get("href", "").startswith("#")}
    assert inner <= set(document.ids)


def test_nothing_that_comes_with_records_becomes_markup():
    evil = [
        dataclasses.replace(one, cell=one.cell | {"regularizer": EVIL, "tokenizer": EVIL, "generator": EVIL})
        for one in records(regularizers=("kl",), generators=("mar",), seeds=("0", "1"))
    ]
    failed = dataclasses.replace(evil[1], status="failed", reason=EVIL, cell=evil[1].cell | {"seed": EVIL})
    named = {f"{name}<i>": entry | {"about": EVIL, "unit": EVIL} for name, entry in failed.metrics.items()}
    failed = dataclasses.replace(failed, metrics=named, provenance={"machine": EVIL, "budget": {EVIL: 1}})
    document = Document(page.html([*evil, failed], [finding(title=EVIL, answer=EVIL, name="x")], EVIL))
    assert len(document.all("script")) == 1 and not document.all("i")
    assert EVIL in section(document, "failed")["text"]
    assert not any(name.startswith("on") for node in document.tags for name in node)


def test_the_script_is_the_only_one_that_the_policy_lets_run(text):
    script = text[text.index("<script>") + 8 : text.index("</script>")]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text


def test_one_seed_names_no_winner():
    document = Document(page.html(records(seeds=("0",)), [], "made up"))
    verdict = section(document, "verdict")["text"]
    assert verdict.count("There is one seed, so no winner can be named") == 3
    assert not [n for n in document.tags if "best" in (n.get("class") or "").split()]
    assert not document.all("tr", **{"class": "level-sure"})
    assert "80 % power" not in verdict and "95 %" not in verdict and "of 5" not in verdict
    assert verdict.count("sampling noise only:") == 3 and "chosen on these samples" in verdict
    for id in ("generation", "tokenizers"):
        assert "sampling noise only. The training variance is unknown" in section(document, id)["text"]
        assert "bold" not in section(document, id)["text"]


def test_only_one_guidance_of_a_row_is_ranked_and_marked(document):
    part = section(document, "generation")["text"]
    assert "paired differences of logarithms" in part
    marked = [n for n in document.all("tr") if "≈" in n["text"] and n.get("data-generator")]
    assert marked and all(re.search(r"\s1\.5\s", row["text"]) for row in marked)


def test_a_total_without_a_part_is_no_total():
    unknown = [
        dataclasses.replace(r, cost={k: v for k, v in r.cost.items() if "prior" not in k}) for r in records()
    ]
    assert "GFLOP" not in section(Document(page.html(unknown, [], "made up")), "verdict")["text"]


def test_a_clear_winner_is_named_and_a_tie_is_listed():
    clear = Document(page.html(records(noise=0.01, seeds=tuple("01234")), [], "made up"))
    assert len(clear.all("tr", **{"class": "level-sure"})) == 3
    assert [n["text"] for n in clear.all("span", **{"class": "first"})] == ["repa"] * 3
    same = dict.fromkeys(("none", "kl", "repa", "simflow"), 0.0)
    tied = records(regularizers=("none", "repa", "simflow"), quality=same, noise=4.0)
    tied = Document(page.html(tied, [], "made up"))
    levels = tied.all("tr", **{"class": "level-tie"})
    assert levels and all("≈" in level["text"] for level in levels)


def test_cost_is_set_against_the_baseline(document):
    operations = 64 * ((0.03 + 0.01) * 400 + 0.02 * 700)  # repa's
    baseline = 64 * (0.03 * 400 + 0.02 * 700)
    assert f"×{operations / baseline:.2f} GFLOP" in section(document, "verdict")["text"]
    assert "×1.00 seconds" in section(document, "verdict")["text"]


def test_the_download_is_the_csv(document):
    addresses = {n["download"]: n["href"] for n in document.all("a") if "download" in n}
    table = unquote(addresses["leaderboard.csv"].partition(",")[2])
    assert table == frame(records()).to_csv(index=False, lineterminator="\n")
    assert "gap.csv" in addresses


def test_every_protocol_of_a_header_is_described(document):
    ids = {n["href"] for n in document.all("a", **{"class": "id"})}
    described = {f"#{n['id']}" for n in document.all("details") if n.get("id", "").startswith("p-")}
    assert ids and ids == described
    assert "weights_sha256" in section(document, "protocols")["text"]


def test_values_by_class_have_a_table():
    found = records(regularizers=("kl", "repa"), generators=("mar",), seeds=("0", "1"))
    for one in found:
        if "PSNR" in one.metrics:
            one.metrics["PSNR"]["classes"] = {"0": 30.0 + int(one.cell["seed"]), "10": 20.0, "9": 25.0}
    part = section(Document(page.html(found, [], "made up")), "classes")
    assert re.search(r"kl\s+30\.50\s+25\s+20", part["text"])


def test_several_datasets_are_kept_apart():
    both = [*records(), *records(dataset="letters")]
    document = Document(page.html(both, [], "made up"))
    assert {n["text"] for n in document.all("h3")} >= {"digits", "letters"}
    assert (
        len(document.all("tr", **{"class": "level-tie"})) + len(document.all("tr", **{"class": "level-sure"}))
        == 6
    )
    assert [n["text"] for n in document.all("small") if n["text"] == "letters"] == ["letters"] * 3


def test_nothing_finished_is_still_a_page():
    cell = dict.fromkeys(("dataset", "tokenizer", "regularizer", "generator"), "a") | {"seed": "0"}
    text = page.html([Record(cell, "k", "skipped", "it can't")], [], "made up")
    assert "it can't" in section(Document(text), "failed")["text"]


def decoded(image):
    """The bytes of an <img> of the page, which is WebP."""
    kind, _, data = image["src"].partition(";base64,")
    assert kind == "data:image/webp"
    return base64.b64decode(data)


def test_pictures_are_found_by_their_cells_and_embedded_whole(tmp_path):
    found = records(regularizers=("kl[weight=0.01]", "repa"), generators=("mar",), seeds=("0",))
    pixels = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    for record in found:
        if record.real:
            continue
        name = image_grids.picture_name(record.cell, "@1.5")
        image_grids.write_samples(tmp_path / "samples", name, pixels, torch.arange(4))
        trained = record.cell | {"generator": ""}
        worst = torch.zeros(5, 7, 3, dtype=torch.uint8)
        image_grids.write_pixels(
            tmp_path / "samples", image_grids.picture_name(trained, "--worst_cases"), worst
        )
        image_grids.write_pixels(
            tmp_path / "figures", image_grids.picture_name(record.cell, "--curve"), worst
        )
    image_grids.write_pixels(tmp_path / "samples", "digits--reconstructions", worst)
    image_grids.write_pixels(tmp_path / "samples", "elsewhere--reconstructions", worst)
    path = page.write(tmp_path, found, [], "made up", [tmp_path])
    document = Document(path.read_text())
    images = document.all("img")
    assert len(images) == 3 * 2 + 1 + 1  # of the best row's samples a strip, too
    assert {n["text"] for n in document.all("h3")} >= {"Samples", "Reconstructions", "worst cases", "curve"}
    sample = image_grids.picture_name(found[1].cell, "@1.5")
    with Image.open(tmp_path / "samples" / image_grids.file_name(sample)) as stored:
        pixels = {Image.open(io.BytesIO(decoded(n))).convert("RGB").tobytes() for n in images}
        assert stored.convert("RGB").tobytes() in pixels
    assert {(n["width"], n["height"]) for n in images} >= {("7", "5")}


def test_a_figure_takes_the_colours_of_the_page():
    text = embed.svg(finding().figure, "first")
    root = ElementTree.fromstring(text)  # well-formed
    assert "currentColor" in text and "var(--faint)" in text and "#1f2328" not in text
    assert "viewBox" in root.attrib and not {"width", "height"} & set(root.attrib)
    ids = {n.attrib["id"] for n in root.iter() if "id" in n.attrib}
    assert ids and all(id.startswith("first-") for id in ids)
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', text)) <= ids
    assert "<style" not in text and "a &lt; b" in text


def test_a_figure_becomes_its_pixels_always_the_same():
    def drawn():
        figure = Figure(figsize=(2, 1), dpi=50)
        figure.add_axes((0, 0, 1, 1)).set_facecolor("#d1495b")
        return rendered(figure)

    pixels = drawn()
    assert pixels.shape == (50, 100, 3) and pixels.dtype == torch.uint8
    assert pixels[25, 50].tolist() == [0xD1, 0x49, 0x5B] and torch.equal(pixels, drawn())


@pytest.mark.parametrize("length", [1, POINTS, POINTS + 1, 10_000])
def test_thinning_keeps_the_last_step_and_the_mean(length):
    points = [(float(i), float(i % 7)) for i in range(length)]
    few = thinned(points)
    assert len(few) <= POINTS and few[-1][0] == points[-1][0]
    assert min(y for _, y in few) >= 0 and max(y for _, y in few) <= 6


def test_curves_are_means_over_seeds_and_a_tokenizer_counts_once():
    drawn = panels(records(regularizers=("none", "repa"), generators=("mar", "tarflow"), seeds=("0", "1")))
    assert [(p.stage, p.generator) for p in drawn] == [
        ("tokenizer", ""),
        ("generator", "mar"),
        ("generator", "tarflow"),
        ("quality", "mar"),
        ("quality", "tarflow"),
    ]
    assert all([line.regularizer for line in panel.lines] == ["none", "repa"] for panel in drawn)


def test_a_page_without_pictures_says_how_to_make_them(tmp_path):
    (tmp_path / "matrix.lock.yaml").write_text("name: a\n")
    text = page.write(tmp_path, records(seeds=("0",)), [], "made up", [tmp_path]).read_text()
    said = "No samples or reconstructions lie beside these records. Running <code>bench run --matrix"
    assert said in text
