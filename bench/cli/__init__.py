"""The command line: it parses, prints and exits; what is done is done in other rooms."""

from .app import app, main

__all__ = ["app", "main"]
