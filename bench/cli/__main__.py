"""`python -m latentbench.bench.cli`, which is `bench`."""

from .app import main

main()
