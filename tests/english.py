"""Look for words that the glossary says to avoid, in names, docstrings and comments: `python -m tests.english`.

The glossary is the table in CONTRIBUTING.md; its last column is the list. A package that has yet to be cleaned is in
EXEMPT: its places are counted, not failed. The list only shrinks, since a package with no place left must leave it.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).parents[1]
PACKAGES = ("respect_core", "tasks", "flows", "deployments")
EXEMPT: frozenset[str] = frozenset()
"""Packages that may still use words to avoid. Add none; `python -m tests.english --exempt` lists their places."""


class Place(NamedTuple):
    """A word to avoid, where it stands."""

    path: str
    line: int
    word: str
    term: str  # the glossary's, to use in its place


def glossary(text: str) -> dict[str, str]:
    """Read the table: from each word to avoid to the term that says it."""
    rows = re.findall(r"^\| (.+?) \| .+? \| (.+?) \|$", text.partition("## Glossary")[2], re.MULTILINE)
    return {word: term for term, words in rows for word in re.findall(r"`([^`]+)`", words)}


def places(path: str, source: str, avoid: dict[str, str]) -> Iterator[Place]:
    """Yield each word to avoid in the names that a module has or defines, its docstrings and its comments."""
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, sorted(avoid, key=len, reverse=True)))})\b")
    for line, text in [(1, words(Path(path).stem)), *texts(ast.parse(source)), *comments(source)]:
        for match in pattern.finditer(text):
            yield Place(path, line, match[0], avoid[match[0]])


def texts(module: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield docstrings, those of variables too, and defined names as words in lower case, each with its line."""
    for node in ast.walk(module):
        match node:
            case ast.Expr(value=ast.Constant(value=str(docstring))):
                yield node.lineno, " ".join(docstring.lower().split())
            case (
                ast.ClassDef(name=str(name))
                | ast.FunctionDef(name=str(name))
                | ast.AsyncFunctionDef(name=str(name))
                | ast.arg(arg=str(name))
                | ast.Name(id=str(name), ctx=ast.Store())
                | ast.Attribute(attr=str(name), ctx=ast.Store())
                | ast.alias(asname=str(name))
                | ast.ExceptHandler(name=str(name))
                | ast.MatchAs(name=str(name))
                | ast.MatchStar(name=str(name))
            ):
                yield node.lineno, words(name)


def comments(source: str) -> Iterator[tuple[int, str]]:
    """Yield comments in lower case, those on consecutive lines together, each with its first line."""
    first, text, previous = 0, "", -1
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            if token.start[0] != previous + 1:
                yield first, text
                first, text = token.start[0], ""
            text, previous = f"{text} {token.string.lower().lstrip('# ')}", token.start[0]
    yield first, text


def words(name: str) -> str:
    """Split a name at underscores and capitals: `SeedPolicy` and `seed_policy` are both "seed policy"."""
    return " ".join(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().replace("_", " ").split())


def package(path: str) -> str:
    """Name a module's package, of respect_core the one below it: `respect_core/log/export.py` is respect_core.log."""
    *folders, _ = path.split("/")
    return ".".join(folders[:2])


def verdict(found: Iterable[Place], exempt: frozenset[str]) -> list[str]:
    """Say what is wrong: a word to avoid in a package that is not exempt, or an exemption that nothing needs."""
    by_package: dict[str, list[Place]] = {}
    for place in found:
        by_package.setdefault(package(place.path), []).append(place)
    wrong = [
        f'{place.path}:{place.line}: "{place.word}"; say "{place.term}"'
        for name, listed in by_package.items()
        if name not in exempt
        for place in listed
    ]
    return wrong + [f"{name} is clean: take it out of EXEMPT" for name in sorted(exempt - by_package.keys())]


def main(arguments: list[str]) -> int:
    """Print what is wrong and return 1, or count what is exempt; with --exempt, list that too."""
    avoid = glossary((REPOSITORY / "CONTRIBUTING.md").read_text())
    found = [
        place
        for top in PACKAGES
        for file in sorted((REPOSITORY / top).rglob("*.py"))
        for place in places(file.relative_to(REPOSITORY).as_posix(), file.read_text(), avoid)
    ]
    wrong = verdict(found, EXEMPT)
    exempt = [place for place in found if package(place.path) in EXEMPT]
    if "--exempt" in arguments:
        print(*(f'{each.path}:{each.line}: "{each.word}"' for each in exempt), sep="\n")
    print(*wrong, f"{len(wrong)} to mend, {len(exempt)} in {len(EXEMPT)} exempt packages", sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
