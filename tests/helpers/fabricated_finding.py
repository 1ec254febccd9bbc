"""An analysis' result whose texts try to break out of a page."""

import dataclasses

from matplotlib.figure import Figure

from latentbench.bench.report.analysis.findings import Finding

EVIL = "<script>alert('x')</script>\"'&"


def finding(**changes):
    import pandas as pd

    figure = Figure(figsize=(2, 1))
    axes = figure.add_subplot()
    axes.plot([0, 1], color="#1f2328")
    axes.set_title("a < b", color="#8c959f")
    table = pd.DataFrame(
        {"regularizer": ["kl", EVIL], "gFD": [96.12345, float("nan")], "best": [True, False]}
    )
    made = Finding(
        "gap", "The gap", "Where is it lost?", "In the noise.", "Differences of means.", table, figure
    )
    return dataclasses.replace(made, **changes)
