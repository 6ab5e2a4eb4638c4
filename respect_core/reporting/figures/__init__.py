"""Draw the paper's figures, without pyplot, so that any thread may draw them.

- `curves.py`: figures 4, 5, 7, 14 and 15, by round
- `confusions.py`: figure 6
- `style.py`: colours, panels, files, and SVG for a page
"""

from respect_core.errors import extra

with extra("report"):
    import matplotlib  # noqa: F401
