"""Puts the root's matrix.yaml into built packages, as the preset `digits`; all else is in pyproject.toml."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithRootMatrix(build_py):
    """Copies matrix.yaml beside `bench`, where it lies in a checkout too."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            self.copy_file("matrix.yaml", str(self._copy))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        copy = [] if self.editable_mode else [str(self._copy)]
        return [*super().get_outputs(include_bytecode), *copy]

    @property
    def _copy(self) -> Path:
        return Path(self.build_lib) / "latentbench" / "matrix.yaml"


setup(cmdclass={"build_py": BuildWithRootMatrix})
