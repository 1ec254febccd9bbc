"""The frame of latentbench: it knows the interfaces and no particular part."""

__version__ = "0.1.0"
