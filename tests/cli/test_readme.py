"""The README's own text works."""

import re
from pathlib import Path

import pandas as pd
from helpers.run import TINY, bench_inline

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()


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


def test_every_file_that_the_readme_links_to_is_there():
    root = Path(__file__).resolve().parents[2]
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("http")]
    assert links and all((root / link).exists() for link in links)
