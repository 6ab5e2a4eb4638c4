"""Print the tree of packages from their docstrings, and keep it in the README: `python -m tests.tree [--check]`."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
README = REPOSITORY / "README.md"
DEPTHS = {"deployments": 2, "flows": 1, "tasks": 1, "respect_core": 2}
"""Top-level packages, each of which imports only those after it, and how many levels of each the tree shows."""
WIDTH = 118
MARKED = re.compile(r"(<!-- tree -->\n```\n).*?(```\n<!-- /tree -->)", re.DOTALL)


def tree() -> str:
    """Draw the packages, each with the first sentence of its docstring."""
    packages = [
        path.parent.relative_to(REPOSITORY)
        for root, depth in DEPTHS.items()
        for path in sorted((REPOSITORY / root).rglob("__init__.py"))
        if len(path.parent.relative_to(REPOSITORY).parts) <= depth
    ]
    names = ["  " * (len(package.parts) - 1) + package.name + "/" for package in packages]
    column = max(map(len, names)) + 2
    return "".join(
        f"{name:{column}}{_summary(package, WIDTH - column)}\n" for name, package in zip(names, packages, strict=True)
    )


def _summary(package: Path, width: int) -> str:
    """Return the start of a package's docstring that fits: its first sentence, or the part before its colon.

    Raises:
        ValueError: there is no docstring, or even its start is too long for one line.
    """
    line = (ast.get_docstring(ast.parse((REPOSITORY / package / "__init__.py").read_text())) or "").partition("\n")[0]
    sentence = re.split(r"\. |\.$| \(", line)[0]
    for text in (sentence, sentence.partition(":")[0]):
        if 0 < len(text) <= width:
            return text
    raise ValueError(f"{package}/__init__.py needs a docstring whose first sentence has at most {width} characters")


def main(arguments: list[str]) -> str | None:
    """Write the tree into the README, or with --check return what is wrong with the one there."""
    before = README.read_text()
    if not MARKED.search(before):
        return "README.md has no place for the tree: <!-- tree --> and <!-- /tree --> around a code block"
    after = MARKED.sub(lambda match: match[1] + tree() + match[2], before)
    if "--check" not in arguments:
        README.write_text(after)
    elif after != before:
        return "the tree in README.md is not that of the packages' docstrings: python -m tests.tree"
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
