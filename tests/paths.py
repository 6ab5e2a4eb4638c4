"""Folders of the repository, wherever a test lies."""

from pathlib import Path

TESTS = Path(__file__).parent
REPOSITORY = TESTS.parent
