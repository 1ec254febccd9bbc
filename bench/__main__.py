"""`python -m latentbench.bench`, which is `bench`."""

from .cli import main

main()
