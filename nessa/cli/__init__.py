"""The command line."""

from nessa.cli.main import main

__all__ = ["main"]
