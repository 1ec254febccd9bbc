"""A plugin's text, and an installed distribution with entry points."""

PLUGIN = '''"""A plugin."""
from latentbench.bench.api import Regularizer
from latentbench.bench.registry import register


@register("{name}")
class Mine(Regularizer):
    """Does {name}."""
'''


def package(folder, module, text, *points):
    """An installed distribution with entry points, as pip leaves it on sys.path."""
    (folder / f"{module}.py").write_text(text)
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("\n".join(["[latentbench.plugins]", *points]))
