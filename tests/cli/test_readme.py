"""The README's own text works, and links in texts lead to files."""

import re
from pathlib import Path

import pandas as pd
import pytest
from helpers.run import TINY, bench_inline

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def test_the_plugin_of_the_readme_runs_and_appears_in_the_table(tmp_path):
    plugin = re.search(r"<!-- plugin -->\n```python\n(.*?)```", README, re.DOTALL).group(1)
    assert len(plugin.splitlines()) <= 25
    row = re.search(r"`regularizers: \{none: \{\}, (sphere: \{.*?\})\}`", README).group(1)
    (tmp_path / "sphere.py").write_text(plugin)
    text = TINY.replace("  none: {}\n  kl: {weight: 1.0e-3}", f"  {row}")
    text = text.replace("  lightningdit", "  # lightningdit")
    (tmp_path / "my.yaml").write_text(text)
    done = bench_inline("run", "--matrix", "my.yaml", "--plugin", "sphere.py", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    table = pd.read_csv(tmp_path / "results/tiny/leaderboard.csv")
    assert {"sphere[weight=0.1]", "sphere[weight=1]"} <= set(table.regularizer)
    assert "sphere[weight=0.1]" in (tmp_path / "results/tiny/leaderboard.md").read_text()


def test_the_matrix_of_the_readme_is_one(tmp_path):
    sections = re.search(r"```yaml\n(.*?)```", README, re.DOTALL).group(1)
    head = "dataset: {use: digits}\nfeatures: effnet_lite0\nevaluators: [reconstruction]\n"
    (tmp_path / "matrix.yaml").write_text(head + sections)
    done = bench_inline("plan", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "kl[weight=0.01]" in done.stdout and "skipped: " in done.stdout


def test_the_python_of_the_readme_names_what_is_there():
    import latentbench.bench as lb

    code = re.search(r"## From Python\n\n```python\n(.*?)```", README, re.DOTALL).group(1)
    for module, name in re.findall(r"\b(lb|results|tokenizer)\.(\w+)", code):
        found = {"lb": lb, "results": lb.Results, "tokenizer": lb.TrainedTokenizer}[module]
        assert hasattr(found, name), name
    compile(code, "README.md", "exec")


@pytest.mark.parametrize("name", ["README.md", "results/README.md", "CONTRIBUTING.md"])
def test_every_file_that_a_text_links_to_is_there(name):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / name).read_text())
    files = [link for link in links if not link.startswith("http")]
    assert files and not [file for file in files if not ((ROOT / name).parent / file).exists()]


def test_every_study_is_linked_to_from_the_text_that_reads_it_and_every_table_that_it_names_is_there():
    text, studies = (ROOT / "results/README.md").read_text(), ROOT / "results/studies"
    for study in filter(Path.is_dir, studies.iterdir()):
        assert f"](studies/{study.name}/leaderboard.md)" in text
    named = re.findall(r"`([\w/@*.-]+/[\w@*.-]+\.(?:csv|md|html|png))`", text)
    assert named
    for file in named:  # as seen from results/, or from the study that is read
        assert [*(ROOT / "results").glob(file), *studies.glob(f"*/{file}")], file
