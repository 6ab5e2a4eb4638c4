"""Read KILOGRAM's drawings, SVG files of seven polygons, as our tangrams.

A polygon is a list of points and, where its author moved it, a transform `matrix(a, b, c, d, e, f)`. The files number
the tans 1 to 7 in the order of `tangrams.TANS`. The `viewBox`, scaled to fit and centred, is the picture's frame, as in
the study's.
"""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from respect_core.errors import ExpectedError
from respect_core.scenarios.multiref.tangrams import TANS, Tangram

LONGEST = 1 << 16  # bytes of a file; KILOGRAM's have about 2,000

_NUMBER = r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*"
_MATRIX = re.compile(r"\s*matrix\(" + ",".join([_NUMBER] * 6) + r"\)\s*")


class DrawingError(ExpectedError, ValueError):
    """An unreadable drawing. The message names the file, the element and what is wrong with it."""


def read_svg(path: Path) -> Tangram:
    """Read the tangram in a file; its id is the file's name without suffix.

    Raises:
        DrawingError: not well-formed SVG, a document type (which could expand without end), no viewBox, not seven
            polygons numbered 1 to 7, or points that are not numbers.
        FileNotFoundError: there is no such file.
    """
    with path.open("rb") as file:
        data = file.read(LONGEST + 1)
    if len(data) > LONGEST:
        raise DrawingError(f"{path}: more than {LONGEST} bytes; export it as plain SVG")
    parser = ElementTree.XMLParser(target=_Plain(path), encoding="utf-8")  # whatever encoding the file declares
    try:
        root: ElementTree.Element = ElementTree.fromstring(data, parser)
    except ElementTree.ParseError as error:
        raise DrawingError(f"{path}: not well-formed SVG ({error}); export it again") from None
    polygons = {element.get("id"): element for element in root.iter() if element.tag.rpartition("}")[2] == "polygon"}
    expected = [str(number) for number in range(1, len(TANS) + 1)]
    if sorted(polygons, key=str) != expected:
        raise DrawingError(f"{path}: polygons {sorted(polygons, key=str)}; a tangram has seven, with ids 1 to 7")
    low, size = _frame(path, root)
    outlines = [(_outline(path, number, polygons[number]) - low - size / 2) / size.max() + 0.5 for number in expected]
    return Tangram(path.stem, tuple(tuple((float(x), float(y)) for x, y in outline) for outline in outlines))


class _Plain(ElementTree.TreeBuilder):
    """A tree builder that refuses a document type, before anything that it declares could expand."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def doctype(self, *_: str | None) -> None:
        raise DrawingError(f"{self._path}: has a document type; export it as plain SVG")


def _frame(path: Path, root: ElementTree.Element) -> tuple[np.ndarray, np.ndarray]:
    """Return corner and size of the viewBox, [2] each, in the drawing's units."""
    try:
        x, y, width, height = (float(number) for number in re.split(r"[\s,]+", root.get("viewBox", "").strip()))
    except ValueError:
        raise DrawingError(f"{path}: viewBox {root.get('viewBox')!r} is not four numbers; export it again") from None
    if not (0 < width < np.inf and 0 < height < np.inf):
        raise DrawingError(f"{path}: viewBox {root.get('viewBox')!r} has no size; export it again")
    return np.array([x, y]), np.array([width, height])


def _outline(path: Path, number: str, polygon: ElementTree.Element) -> np.ndarray:
    """Return the corners [3 or 4, 2] in the drawing's units, transform applied."""
    where = f"{path}: polygon {number}"
    try:
        numbers = [float(number) for number in re.split(r"[\s,]+", polygon.get("points", "").strip())]
        points = np.array(numbers).reshape(-1, 2)
    except ValueError:
        raise DrawingError(f"{where}: points {polygon.get('points')!r} are not pairs of numbers") from None
    if len(points) not in (3, 4) or not np.isfinite(points).all():
        raise DrawingError(f"{where}: {len(points)} corners; a tan has three or four, at finite places")
    transform = polygon.get("transform")
    if transform is None:
        return points
    match = _MATRIX.fullmatch(transform)
    if match is None:
        raise DrawingError(f"{where}: transform {transform!r}; only matrix(a, b, c, d, e, f) is read")
    a, b, c, d, e, f = (float(number) for number in match.groups())
    return points @ np.array([[a, b], [c, d]]) + np.array([e, f])
