"""Make the table of environment variables from their declaration, and keep it in the documentation.

`python -m tests.variables [--check]`
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from pydantic import SecretStr

from respect_core.settings import VARIABLES

PAGE = Path(__file__).parents[1] / "docs" / "operations.md"
MARKED = re.compile(r"(<!-- variables -->\n).*?(<!-- /variables -->)", re.DOTALL)


def table() -> str:
    """Make the table: each variable with its default and its meaning."""
    lines = ["| variable | default | |", "|---|---|---|"]
    for name, field in VARIABLES.items():
        default = "" if field.default is None or isinstance(field.default, SecretStr) else f"`{field.default}`"
        lines.append(f"| `{name}` | {default} | {field.description} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> str | None:
    """Write the table into the page, or with --check return what is wrong with the one there."""
    before = PAGE.read_text()
    after = MARKED.sub(lambda match: match[1] + table() + match[2], before)
    if "--check" not in arguments:
        PAGE.write_text(after)
    elif after != before or not MARKED.search(before):
        return f"the table in {PAGE.name} is not that of respect_core/settings.py: python -m tests.variables"
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
