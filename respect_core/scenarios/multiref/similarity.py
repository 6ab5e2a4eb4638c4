"""How alike two actions are (appendix B.4, equation 3), over any similarity of images: FOR MEASURING ONLY.

Deviations from the paper, numbered as they are cited elsewhere:
1. The paper's image similarity comes from a CLIP model fine-tuned on tangrams (Ji et al., 2022), which is not part of
   this project. Give its similarities as a table (`from_table`), or any vectors (`from_vectors`); or let the policy's
   own frozen vision tower look (`from_features`). Figures compare only under one image similarity.
2. Where neither action does anything, equation 3 is 0/0. It is 1 here: nothing asked for was missed, and nothing done
   that was not asked for, which is what its edge cases take from the similarity.
3. `from_features` takes cosines of what distinguishes the images: the mean over all of them is subtracted first.
   Patch averages of one tower share most of their direction, so that without it every two images are alike.

The published notebook averages the part of the selections twice in place of that of the deselections; this follows the
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

if TYPE_CHECKING:  # it imports torch
    from respect_core.model.vision import VisionFeatures

COLUMNS = ("image_a", "image_b", "similarity")


def similarity(action: str, intended: str, context: Sequence[str], f: ImageSimilarity) -> float:
    """Sim of equation 3 between the action taken and the one intended.

    The mean of f over all pairs of a selected image and one that was to be selected, and of a deselected image and one
    that was to be deselected. Where only one of the two actions selects, each of its clicks counts as a pair of
    similarity -1; deselections alike.

    Args:
        context: image ids in the listener's order, which the letters name.

    Raises:
        ActionError: not in the action language, or a letter beyond the context.
        KeyError: an image that f does not know.
    """
    taken, wanted = actions.parse(action), actions.parse(intended)
    total, pairs = 0.0, 0
    for done, due in ((taken.select, wanted.select), (taken.deselect, wanted.deselect)):
        if done and due:
            total += sum(f(p, q) for p in _images(done, context) for q in _images(due, context))
            pairs += len(done) * len(due)
        else:
            missed = max(len(done), len(due))
            total -= missed
            pairs += missed
    return total / pairs if pairs else 1.0  # deviation 2


def from_vectors(vectors: Mapping[str, ArrayLike]) -> ImageSimilarity:
    """Cosines of vectors by image id.

    Raises:
        ValueError: a vector without a direction, or of another length than the first.
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
    """Similarities from a CSV or Parquet file with the columns image_a, image_b and similarity.

    Either order of a pair will do. An image and itself have 1 unless the table says otherwise.

    Raises:
        ValueError: no such file, another format, a column that is absent or of another type, a value that is no finite
            number, or two values for one pair.
    """
    known: dict[tuple[str, str], float] = {}
    for number, row in enumerate(_read(path).to_pylist(), start=1):
        a, b, value = (row[name] for name in COLUMNS)
        if a is None or b is None or value is None or not math.isfinite(value):
            empty = next(n for n in COLUMNS if row[n] is None or (n == COLUMNS[2] and not math.isfinite(row[n])))
            raise ValueError(f"{path}: row {number}, {empty}: {row[empty]!r}; give an image id or a finite number")
        if known.setdefault((a, b), value) != value:
            raise ValueError(
                f"{path}: row {number}, similarity: {value} of {a!r} and {b!r}, which have {known[a, b]} in an earlier "
                "row; keep one"
            )
        known[b, a] = value

    def looked_up(a: str, b: str) -> float:
        if (a, b) not in known and a != b:
            raise KeyError(f"{path}: no similarity of {a!r} and {b!r}; add the pair")
        return known.get((a, b), 1.0)

    return looked_up


def from_features(features: VisionFeatures, images: Iterable[str]) -> ImageSimilarity:
    """Cosines of the frozen vision tower's output for these images, averaged over patches. See deviation 3.

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
