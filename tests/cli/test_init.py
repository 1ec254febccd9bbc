"""`bench init`: a first matrix for anybody's images and tokenizers runs as it is, and comments are true."""

import json
import math
import os
import re
import shutil

import pytest
import yaml
from helpers.diffusers_models import saved
from helpers.image_folders import class_folders, picture
from helpers.parquet_files import as_parquet
from helpers.plugins import HALVED
from helpers.run import bench, bench_inline, results

from latentbench.bench.matrix.load import load_matrix
from latentbench.bench.plan.make import make_plan
from latentbench.bench.registry import FOLDERS


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Pictures in class folders with and without splits, in one folder and in parquet, and a model."""
    place = tmp_path_factory.mktemp("place")
    class_folders(place / "png", sizes=(24, 8))
    as_parquet(place / "png", place / "tables", rows=24)
    for number in range(40):
        for name in (f"flat/{number}.jpg", f"kinds/{('cat', 'dog')[number % 2]}/{number}.jpg"):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            picture(number, 40, 30).save(place / name)
    saved(place / "models/vae")
    saved(place / "above/vae")
    (place / "halved.py").write_text(HALVED)
    return place


def init(place, *words, code=0):
    """The end of `bench init WORDS`."""
    done = bench_inline("init", *words, cwd=place)
    assert done.returncode == code, done.stderr
    return done


def written(place, *words):
    """The text of a new matrix, and its plain data as any reader of YAML sees them."""
    text = init(place, *words, "-o", "-").stdout
    return text, yaml.safe_load(text)


def with_all_choices(text):
    return re.sub(r"^(\s*)#(?=\S)", r"\1", text, flags=re.MULTILINE)


KINDS = {
    "digits": ([], "1,437 train + 360 val images of 1 x 8 x 8; 10 classes", {"use": "digits"}),
    "a dataset's name": (["shapes"], "4,096 train + 1,024 val images", {"use": "shapes"}),
    "splits with classes": (
        ["png"],
        "48 train + 16 val images; 2 classes: cat 50 %",
        {"root": "png", "size": 8},
    ),
    "classes": (["kinds"], "2 classes: ", {"use": "imagefolder", "size": 32, "label": "kinds"}),
    "one folder": (["flat"], "no classes", {"use": "imagefolder", "size": 32, "label": "flat"}),
    "a size": (["flat", "--size", "16"], "no classes", {"size": 16}),
    "parquet": (["tables"], "48 train", {"use": "parquet", "root": "tables", "size": 8}),
    "a model beside vit": (["kinds", "--tokenizer", "vit", "--tokenizer", "models/vae"], "2 classes", {}),
    "a model alone": (["kinds", "--tokenizer", "models/vae"], "2 classes", {}),
    "a model beside vit without losses": (
        ["kinds", "--tokenizer", "models/vae", "--tokenizer", "vit", "--regularizer", "kl"],
        "2 classes",
        {},
    ),
    "conv": (["kinds", "--tokenizer", "conv", "--generator", "tarflow"], "2 classes", {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_matrix_and_all_of_its_choices_can_be_planned(place, kind, monkeypatch):
    words, described, dataset = KINDS[kind]
    text, data = written(place, *words)
    assert described in " ".join(line.lstrip("# ") for line in text.splitlines())
    assert dataset.items() <= data["dataset"].items()
    monkeypatch.chdir(place)
    for name, content in (("plain.yaml", text), ("full.yaml", with_all_choices(text))):
        (place / name).write_text(content, encoding="utf-8")
        for profile in yaml.safe_load(content)["profiles"]:
            load_matrix(name, profile=profile)
        every_row_runs_somewhere(make_plan(load_matrix(name), fetch=True))
    assert load_matrix("full.yaml").warnings == () == load_matrix("plain.yaml").warnings


def every_row_runs_somewhere(plan):
    for axis in ("tokenizer", "regularizer", "generator"):
        rows = {getattr(cell, axis) for cell in plan.cells}
        assert rows == {getattr(cell, axis) for cell in plan.cells if not cell.skipped}


def test_a_matrix_shows_choices_in_every_section(place):
    text, data = written(place, "kinds")
    full = yaml.safe_load(with_all_choices(text))
    for section in ("tokenizers", "regularizers", "generators", "evaluators", "profiles"):
        assert len(full[section]) > len(data[section])
    assert "sweep" in full["generators"]["lightningdit-guided"]["guidance"]
    assert full["profiles"]["three-seeds"] == {"seeds": [0, 1, 2]}


def test_without_classes_there_are_no_choices_that_need_them(place):
    text, data = written(place, "flat")
    assert "guidance" not in text and "class_accuracy" not in text
    assert "linear_probe" not in data["evaluators"]


def test_commands_that_comments_name_exist(place):
    text, _ = written(place, "kinds")
    lines = " ".join(line.lstrip("# ") for line in text.splitlines())
    kinds = set(re.findall(r"bench list (\w+)", lines))
    assert kinds == {"tokenizers", "regularizers", "generators", "features", "evaluators"}
    assert kinds <= set(FOLDERS)
    assert bench_inline("info", "tokenizer", "vit", cwd=place).returncode == 0
    assert bench_inline("plan", "--help", cwd=place).returncode == 0


def test_the_estimate_is_that_of_bench_plan(place):
    done = init(place, "kinds", "--generator", "lightningdit", "-o", "estimated.yaml")
    number, unit = re.search(r"about ([\d.]+) (h|min|s) on one CPU core", done.stdout).groups()
    hours = float(number) / {"h": 1, "min": 60, "s": 3600}[unit]
    planned = json.loads(bench_inline("plan", "-m", "estimated.yaml", "--json", cwd=place).stdout)
    assert hours == pytest.approx(planned["totals"]["shared"]["accelerator_hours"], rel=0.02)
    assert hours <= 0.75 and "about" in (place / "estimated.yaml").read_text(encoding="utf-8")


def test_small_sets_get_few_updates_and_batches_that_they_fill(place):
    _, data = written(place, "flat")
    budget = data["budget"]
    assert budget["batch"] <= 40 and budget["tokenizer_steps"] * budget["batch"] <= 300 * 40
    assert data["profiles"]["smoke"]["budget"]["batch"] <= budget["batch"]


def test_few_held_out_images_are_mentioned_with_the_option_that_holds_out_more(place, monkeypatch):
    text, data = written(place, "flat", "--generator", "none", "--regularizer", "none")
    assert re.search(r"# \d+ held-out images tell little", text) and "`held_out: 0.3`" in text
    monkeypatch.chdir(place)
    few = make_plan(load_matrix(data)).descriptions["flat"][0]
    data["dataset"]["held_out"] = 0.3
    more = make_plan(load_matrix(data)).descriptions["flat"][0]
    count = re.compile(r"(\d+) val")
    assert int(count.search(more)[1]) > int(count.search(few)[1])
    assert "tell little" not in written(place, "shapes", "--generator", "none")[0]


def test_a_set_in_memory_is_cut_down_for_the_first_try(place):
    _, data = written(place, "shapes")
    assert data["profiles"]["smoke"]["dataset"] == {"use": "shapes", "count": {"train": 512, "val": 128}}


def test_a_tokenizer_with_weights_is_scored_as_it_is_and_its_losses_are_left_out(place):
    text, data = written(place, "kinds", "--tokenizer", "vit", "--tokenizer", "models/vae")
    vae = {"use": "diffusers", "path": "models/vae", "budget": {"tokenizer_steps": 0}}
    assert vae.items() <= data["tokenizers"]["vae"].items() and "budget" not in data["tokenizers"]["vit"]
    (skip,) = data["skip"]
    assert skip["tokenizer"] == "vae" and {"fixed_variance", "repa"} <= set(skip["regularizer"].split("|"))
    done = init(place, "kinds", "--tokenizer", "vit", "--tokenizer", "models/vae", "-o", "mixed.yaml")
    assert "skipped: kinds · vae · fixed_variance · gaussian" in done.stdout
    assert done.stdout.count("skipped: ") == 2 and "10 cells" in done.stdout


def test_of_tokenizers_with_weights_alone_nothing_is_trained(place):
    text, data = written(place, "kinds", "--tokenizer", "models/vae")
    assert set(data["regularizers"]) == {"none", "kl"}
    assert "tokenizer_steps" not in data["budget"] and "reconstruction" not in data
    assert "vae-trained" in yaml.safe_load(with_all_choices(text))["tokenizers"]


def test_two_folders_of_the_same_name_have_labels_that_tell_them_apart(place):
    for name in ("a b", "c"):
        shutil.copytree(place / "models/vae", place / name / "vae", dirs_exist_ok=True)
    words = [
        "--tokenizer",
        "a b/vae",
        "--tokenizer",
        "c/vae",
        "--regularizer",
        "none",
        "--generator",
        "gaussian",
    ]
    _, data = written(place, "kinds", *words)
    assert list(data["tokenizers"]) == ["a b-vae", "c-vae"]


def test_parts_of_a_plugin_are_rows(place):
    words = ["--tokenizer", "halved", "--plugin", "halved.py", "--generator", "none", "--regularizer", "none"]
    _, data = written(place, "kinds", *words)
    assert data["plugins"] == ["halved.py"] and data["tokenizers"]["halved"] == {}
    init(place, "kinds", *words, "-o", "own.yaml", "--overwrite")
    assert bench("plan", "-m", "own.yaml", cwd=place).returncode == 0


NAMES = [
    'my pics: "x" #1',
    "-dash",
    "it's",
    "größe 猫",
    "new\nline",
    "next\u2028line",
    "a|b*[c]",
    "{x}",
    "null",
    "1e3",
    "# no comment",
    "real",
    "a" * 200,
]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_any_kind_survive(place, name, monkeypatch):
    for folder, source in ((f"odd/{name}", "flat"), (f"models/{name}", "models/vae")):
        shutil.copytree(place / source, place / folder, dirs_exist_ok=True)
    words = ["--tokenizer", f"models/{name}", "--tokenizer", "vit", "--generator", "none"]
    data, file = f"odd/{name}", f"{name[:50]}.yaml"
    done = init(place, data, *words, "--regularizer", "none", f"--output={file}")
    plain = yaml.safe_load((place / file).read_text(encoding="utf-8"))
    assert plain["dataset"]["root"] == data
    assert [row.get("path") for row in plain["tokenizers"].values()] == [f"models/{name}", None]
    monkeypatch.chdir(place)
    assert "bench plan -m " in done.stdout
    assert load_matrix(file).datasets[0].options["root"] == data
    every_row_runs_somewhere(make_plan(load_matrix(file), fetch=True))


def test_a_name_that_is_no_text_is_refused(place):
    folder = os.fsencode(place) + b"/b\xffd"
    shutil.copytree(os.fsencode(place / "flat"), folder, dirs_exist_ok=True)
    done = init(place, os.fsdecode(b"b\xffd"), "-o", "bad.yaml", code=2)
    assert "is no UTF-8" in done.stderr and not (place / "bad.yaml").exists()


def test_next_commands_work_in_a_shell_as_they_are_printed(place):
    file = "-two words.yaml"
    done = init(place, "kinds", "--generator", "none", "--regularizer", "none", f"--output={file}")
    assert "wrote -two words.yaml; next:" in done.stdout
    assert "bench plan -m './-two words.yaml'" in done.stdout
    assert bench_inline("plan", "-m", "./-two words.yaml", cwd=place).returncode == 0


WRONG = {
    "a misspelt tokenizer": (["--tokenizer", "vti"], "tokenizers.vti: unknown tokenizer 'vti'; did you mean"),
    "a misspelt regularizer": (["--regularizer", "kll"], "regularizers.kll: unknown regularizer"),
    "a misspelt generator": (["--generator", "gausian"], "generators.gausian: unknown generator"),
    "a folder without a model": (["--tokenizer", "flat"], "tokenizers.flat: flat has no config.json"),
    "the folder above": (["--tokenizer", "above"], "`subfolder` may be vae"),
    "a size that fits no model": (["--tokenizer", "models/vae", "--size", "15"], "must be multiples of 2"),
    "no such data": (["kind"], "unknown dataset 'kind'"),
    "a picture": (["flat/0.jpg"], "flat/0.jpg is a file"),
    "too few images": (["few"], "in few; 0.1 of 1 is none"),
    "splits in doubt": (["doubt"], "`splits: {train: train, val: test}`"),
    "points": (["moons"], "is for points"),
    "a set that isn't here": (["mnist"], "dataset: MNIST is not in"),
    "an option that a set lacks": (["digits", "--size", "16"], "dataset.size: unknown option 'size'"),
    "twice the same": (["--tokenizer", "models/vae", "--tokenizer", "models/vae"], "is named twice"),
    "a loss of what isn't trained": (
        ["--tokenizer", "models/vae", "--regularizer", "repa"],
        "regularizers.repa: a loss changes nothing of a tokenizer that is not trained",
    ),
    "a generator of none": (["--generator", "joint"], "generators.joint: none has no generator of its own"),
    "a missing plugin": (["--plugin", "nowhere.py"], "no plugin file 'nowhere.py'"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_what_a_run_would_refuse_is_refused_with_its_reason_and_nothing_is_written(place, fault):
    words, message = WRONG[fault]
    words = ["kinds", *words] if words[0].startswith("-") else words
    for name in ("few/0.png", "doubt/train/cat/0.png", "doubt/test/cat/1.png"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        picture(1).save(place / name)
    done = init(place, *words, "-o", "wrong.yaml", code=2)
    assert message in done.stderr and "Traceback" not in done.stderr
    assert not (place / "wrong.yaml").exists()


def test_an_id_at_hugging_face_needs_the_network(place, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(place / "hub"))
    done = init(place, "kinds", "--tokenizer", "org/vae", "--offline", "-o", "wrong.yaml", code=4)
    assert "tokenizers.vae: offline" in done.stderr and not (place / "wrong.yaml").exists()


def test_a_file_that_is_there_is_replaced_only_if_told(place):
    (place / "matrix.yaml").write_text("mine")
    done = init(place, "kinds", code=2)
    assert "matrix.yaml is there already: -o FILE" in done.stderr and "--overwrite" in done.stderr
    assert (place / "matrix.yaml").read_text() == "mine"
    init(place, "kinds", "--overwrite", "--generator", "none", "--regularizer", "none")
    assert yaml.safe_load((place / "matrix.yaml").read_text())["name"] == "kinds"


@pytest.mark.parametrize(
    "output, message", [("no/such.yaml", "there is no folder no"), ("flat", "flat is a folder")]
)
def test_a_file_that_cannot_be_written_is_refused_before_any_work(place, output, message):
    assert message in init(place, "nowhere", "-o", output, code=2).stderr


def test_a_printed_matrix_is_all_of_the_standard_output(place):
    done = init(place, "kinds", "-o", "-")
    assert done.stdout.startswith("# A first matrix") and "cells on" not in done.stdout
    assert "cells on" in done.stderr and not (place / "-").exists()


def test_the_first_try_runs_from_jpegs_to_a_leaderboard(place):
    """What a newcomer does: three commands."""
    words = ["--tokenizer", "vit", "--tokenizer", "models/vae", "--regularizer", "fixed_variance"]
    init(place, "kinds", *words, "--regularizer", "kl", "-o", "try.yaml")
    done = bench_inline("run", "-m", "try.yaml", "--profile", "smoke", cwd=place)
    assert done.returncode == 0, done.stdout + done.stderr
    records = [r for r in results(place / "results/try-smoke").values() if r["cell"]["tokenizer"] != "real"]
    assert {record["status"] for record in records} == {"done", "skipped"}
    made = [record for record in records if record["status"] == "done"]
    assert len(made) == 6 and all(math.isfinite(record["metrics"]["PSNR"]["value"]) for record in made)
    assert (place / "results/try-smoke/leaderboard.html").is_file()


@pytest.mark.nightly
@pytest.mark.parametrize("data", ["flat", "tables", "digits", "png"])
def test_the_first_try_runs_on_data_of_every_kind(place, data):
    file = f"{data}-try.yaml"
    init(place, data, "-o", file)
    done = bench("run", "-m", file, "--profile", "smoke", cwd=place, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
