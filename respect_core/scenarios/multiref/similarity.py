"""Compute how similar two actions are (appendix B.4, equation 3), given any similarity of images: FOR MEASURING ONLY.

Deviations from the paper, numbered as they are cited elsewhere:
1. The paper's image similarity comes from a CLIP model fine-tuned on tangrams (Ji et al., 2022), which is not part of
   this project. Give its similarities as a table (`from_table`), or any vectors (`from_vectors`), or use the policy's
   own frozen vision tower (`from_features`). Figures are comparable only under the same image similarity.
2. Where neither action does anything, equation 3 is 0/0. It is 1 here: no click was missing and none was superfluous,
   and those are what its edge cases subtract for.
3. `from_features` takes cosines of what distinguishes the images: the mean over all of them is subtracted first.
   Patch averages of one tower share most of their direction, so that without this every two images are alike.

The published notebook averages the selections' part twice and leaves out the deselections'; this module follows the
equation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import ArrayLike

from respect_core.measuring.judge import ImageSimilarity
from respect_core.scenarios.multiref import actions

if TYPE_CHECKING:  # imports torch
    from respect_core.model.vision import VisionFeatures

COLUMNS = ("image_a", "image_b", "similarity")


def similarity(action: str, intended: str, context: Sequence[str], f: ImageSimilarity) -> float:
    """Compute Sim of equation 3 between the action taken and the one intended.

    The mean of f over all pairs of a selected and an intended selected image, and of a deselected and an intended
    deselected image. Where only one of the two actions selects, each of its clicks counts as a pair of similarity -1;
    deselections alike.

    Args:
        context: image ids in the listener's order, which the letters name.

    Raises:
        ActionError: not in the action language, or a letter beyond the context.
        KeyError: an image that f does not know.
    """
    action_taken, action_intended = actions.parse(action), actions.parse(intended)
    total, pairs = 0.0, 0
    for letters, intended_letters in (
        (action_taken.select, action_intended.select),
        (action_taken.deselect, action_intended.deselect),
    ):
        if letters and intended_letters:
            total += sum(f(p, q) for p in _images(letters, context) for q in _images(intended_letters, context))
            pairs += len(letters) * len(intended_letters)
        else:
            unpaired = max(len(letters), len(intended_letters))
            total -= unpaired
            pairs += unpaired
    return total / pairs if pairs else 1.0  # deviation 2


def from_vectors(vectors: Mapping[str, ArrayLike]) -> ImageSimilarity:
    """Make a similarity from the cosines of vectors by image id.

    Raises:
        ValueError: a vector without a direction, or whose length differs from the first one's.
    """
    units: dict[str, np.ndarray[Any, np.dtype[np.float64]]] = {}
    for image, values in vectors.items():
        vector = np.asarray(values, float)
        length = float(np.linalg.norm(vector))
        if not (length and math.isfinite(length)):
            raise ValueError(f"the vector of image {image!r} has no direction (length {length}); leave the image out")
        if units and vector.shape != next(iter(units.values())).shape:
            raise ValueError(f"the vector of image {image!r} is of shape {vector.shape}, unlike those before it")
        units[image] = vector / length

    def cosine(a: str, b: str) -> float:
        for image in (a, b):
            if image not in units:
                raise KeyError(f"no vector of image {image!r} among the {len(units)} known; add it")
        return float(units[a] @ units[b])

    return cosine


def from_table(path: Path) -> ImageSimilarity:
    """Read similarities from a CSV or Parquet file with the columns image_a, image_b and similarity.

    A pair may be in either order. An image has similarity 1 with itself unless the table says otherwise.

    Raises:
        ValueError: no such file, another format, a column that is absent or of another type, a value that is not a
            finite number, or two values for one pair.
    """
    table: dict[tuple[str, str], float] = {}
    for number, row in enumerate(_read(path).to_pylist(), start=1):
        a, b, value = (row[name] for name in COLUMNS)
        if a is None or b is None or value is None or not math.isfinite(value):
            empty = next(n for n in COLUMNS if row[n] is None or (n == COLUMNS[2] and not math.isfinite(row[n])))
            raise ValueError(f"{path}: row {number}, {empty}: {row[empty]!r}; give an image id or a finite number")
        if table.setdefault((a, b), value) != value:
            raise ValueError(
                f"{path}: row {number}, similarity: {value} of {a!r} and {b!r}, which have {table[a, b]} in an earlier "
                "row; keep one"
            )
        table[b, a] = value

    def look_up(a: str, b: str) -> float:
        if (a, b) not in table and a != b:
            raise KeyError(f"{path}: no similarity of {a!r} and {b!r}; add the pair")
        return table.get((a, b), 1.0)

    return look_up


def from_features(features: VisionFeatures, images: Iterable[str]) -> ImageSimilarity:
    """Make a similarity from the cosines of the frozen vision tower's output, averaged over patches. See deviation 3.

    Raises:
        KeyError: an unknown image id.
        ValueError: fewer than two images, or two that the tower cannot tell from all others.
    """
    pooled = {image: vector.numpy().astype(float) for image, vector in features.pooled(images).items()}
    if len(pooled) < 2:
        raise ValueError(f"{len(pooled)} images; there must be two or more to tell apart")
    mean = np.mean(list(pooled.values()), axis=0)
    return from_vectors({image: vector - mean for image, vector in pooled.items()})


def _images(letters: str, context: Sequence[str]) -> list[str]:
    names = dict(zip(actions.LETTERS, context, strict=False))
    if beyond := [letter for letter in letters if letter not in names]:
        raise actions.ActionError(f"an action names {' '.join(beyond)}, but the context has {len(context)} images")
    return [names[letter] for letter in letters]


def _read(path: Path) -> pa.Table:
    if not path.is_file():
        raise ValueError(f"{path}: no such file; give a CSV or Parquet file with the columns {', '.join(COLUMNS)}")
    try:
        table = pq.read_table(path) if path.suffix == ".parquet" else pyarrow.csv.read_csv(path)
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: neither CSV nor Parquet ({error}); the ending .parquet tells the latter") from None
    if absent := [name for name in COLUMNS if name not in table.column_names]:
        raise ValueError(f"{path}: no column {absent[0]!r} among {', '.join(table.column_names)}; add it")
    try:
        return table.select(COLUMNS).cast(
            pa.schema(zip(COLUMNS, (pa.string(), pa.string(), pa.float64()), strict=True))
        )
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ValueError(f"{path}: columns are not two of image ids and one of numbers ({error})") from None
