"""The README's tree is that of the packages' docstrings."""

from __future__ import annotations

import tree


def test_the_readme_has_the_tree_of_the_packages() -> None:
    assert tree.main(["--check"]) is None


def test_every_package_says_what_it_does() -> None:
    silent = [
        path.relative_to(tree.REPOSITORY).as_posix()
        for root in tree.DEPTHS
        for path in (tree.REPOSITORY / root).rglob("__init__.py")
        if not path.read_text().startswith('"""')
    ]
    assert silent == []
