"""The notebooks of docs/ run as they are, and a notebook's run has the records of the command line's."""

import os
import shutil
import textwrap
from pathlib import Path
from unittest import mock

import nbclient
import nbformat
import pytest
from helpers.run import TINY, bench, environment, results

ROOT = Path(__file__).resolve().parents[2]


def executed(notebook, folder):
    """A notebook with its outputs, run in a folder with a cache of its own."""
    client = nbclient.NotebookClient(
        notebook, timeout=1800, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    with mock.patch.dict(os.environ, environment(folder / "notebook-home"), clear=True):
        return client.execute()


def notebook_of(*cells):
    return nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(textwrap.dedent(cell)) for cell in cells]
    )


def read(name):
    return nbformat.read(ROOT / "docs" / name, as_version=4)


def outputs(cell):
    """The kinds of a cell's outputs, and all of its text."""
    texts = [output.get("text") or output.data["text/plain"] for output in cell.outputs]
    return [output.output_type for output in cell.outputs], "\n".join(texts)


def test_three_regularizers_are_compared_with_one_line_of_progress_and_the_command_lines_numbers(tmp_path):
    notebook = read("compare-three-regularizers.ipynb")
    assert not any(cell.get("outputs") for cell in notebook.cells)
    dump = "import yaml\nwith open('matrix.yaml', 'w') as file:\n    yaml.safe_dump(matrix, file)"
    notebook.cells.append(nbformat.v4.new_code_cell(dump))
    done = executed(notebook, tmp_path)
    (run,) = [cell for cell in done.cells if "lb.run(matrix)" in cell.source and cell.cell_type == "code"]
    kinds, text = outputs(run)
    assert kinds == ["display_data", "execute_result"]  # progress in one place, and the results
    assert "stages" in text and "gFD" in text and "12 done cells" in text
    found = bench("run", "--matrix", "matrix.yaml", "-o", "cli", cwd=tmp_path, home=tmp_path / "home")
    assert found.returncode == 0, found.stdout + found.stderr
    assert results(tmp_path / "results/three-regularizers") == results(tmp_path / "cli")


@pytest.mark.nightly
def test_a_regularizer_of_a_cell_is_changed_and_run_again(tmp_path):
    done = executed(read("a-regularizer-from-a-cell.ipynb"), tmp_path)
    code = [cell for cell in done.cells if cell.cell_type == "code"]
    assert all("stderr" not in str(cell.outputs) for cell in code)
    compared = next(outputs(cell)[1] for cell in code if "changed.compare" in cell.source)
    assert "shell[weight=1]" in compared and "identical" in compared  # `none`, which wasn't trained again
    assert "TrainedTokenizer" in outputs(code[-1])[1]


@pytest.mark.nightly
def test_a_cell_that_fails_interrupts_and_workers_leave_the_kernel_usable(tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY)
    done = executed(
        notebook_of(
            "import torch, latentbench.bench as lb\ntorch.set_num_threads(2)",
            """
            try:
                lb.run("tiny.yaml", filter="regularizer=zzz")
            except lb.UserError as error:
                print(error)
            """,
            """
            import _thread, threading
            threading.Timer(4, _thread.interrupt_main).start()
            try:
                lb.run("tiny.yaml", rerun=True, jobs=1, output="interrupted")
            except KeyboardInterrupt:
                print("interrupted")
            """,
            "print(len(lb.run('tiny.yaml', jobs=2).records), torch.get_num_threads())",
        ),
        tmp_path,
    )
    said = [outputs(cell)[1] for cell in done.cells]
    assert "no cell fits filter='regularizer=zzz'" in said[1]
    assert "interrupted" in said[2] and said[3].endswith("5 2\n")


@pytest.mark.nightly
@pytest.mark.parametrize("jobs", [0, 2])
def test_a_smoke_run_of_the_root_matrix_has_the_command_lines_records(tmp_path, jobs):
    shutil.copy(ROOT / "matrix.yaml", tmp_path)
    options = f"profile='smoke', output='made', jobs={jobs}"
    executed(notebook_of(f"import latentbench.bench as lb\nlb.run('matrix.yaml', {options})"), tmp_path)
    words = ("--profile", "smoke", "-o", "cli")
    done = bench("run", *words, cwd=tmp_path, home=tmp_path / "home", timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(results(tmp_path / "made")) > 1
    assert results(tmp_path / "made") == results(tmp_path / "cli")
