"""Equation 3 against values worked out by hand, and the similarities of images that it takes."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from respect_core.scenarios.multiref.actions import ActionError
from respect_core.scenarios.multiref.similarity import from_table, from_vectors, similarity

CONTEXT = ("boat", "dog", "cat", "house")  # A, B, C, D
PAIRS = {("boat", "house"): 0.5, ("dog", "cat"): 0.8, ("boat", "dog"): 0.1, ("boat", "cat"): 0.2}


def f(a: str, b: str) -> float:
    return 1.0 if a == b else PAIRS.get((a, b), PAIRS.get((b, a), -0.4))


@pytest.mark.parametrize(
    ("action", "intended", "expected"),
    [
        ("select A", "select A", 1.0),
        ("select A", "select D", 0.5),
        # one selected against two: (f(A,A) + f(A,B)) / 2 = (1 + 0.1) / 2
        ("select A", "select A B", 0.55),
        # equal sets are not 1: all pairs count, (1 + 0.1 + 0.1 + 1) / 4
        ("select A B", "select A B", 0.55),
        # 2 x 2 pairs: (f(A,B) + f(A,C) + f(D,B) + f(D,C)) / 4 = (0.1 + 0.2 - 0.4 - 0.4) / 4
        ("select A D", "select B C", -0.125),
        ("deselect B", "deselect C", 0.8),
        # both parts: (f(A,D) + f(B,C)) / (1 + 1) = (0.5 + 0.8) / 2
        ("deselect B select A", "deselect C select D", 0.65),
        # parts weigh by their pairs: (f(A,A) + f(A,D) + f(C,B)) / (2 + 1) = (1 + 0.5 + 0.8) / 3
        ("deselect C select A", "deselect B select A D", 2.3 / 3),
        # nothing deselected, one to be deselected: (f(A,A) - 1) / (1 + 1)
        ("select A", "deselect B select A", 0.0),
        # two deselected that were not to be: (f(A,A) - 2) / (1 + 2)
        ("deselect B C select A", "select A", -1 / 3),
        # nothing selected on either side: that part is not there, f(B,B) / 1
        ("deselect B", "deselect B", 1.0),
        # one only selects and the other only deselects: (-2 - 1) / (2 + 1)
        ("select A B", "deselect C", -1.0),
        # nothing is done where two were to be selected and one deselected: (-2 - 1) / (2 + 1)
        ("nothing", "deselect C select A B", -1.0),
        ("select A", "nothing", -1.0),
        # 0 / 0, deviation 2: nothing was to be done and nothing was
        ("nothing", "nothing", 1.0),
    ],
)
def test_equation_3_by_hand(action: str, intended: str, expected: float) -> None:
    assert similarity(action, intended, CONTEXT, f) == pytest.approx(expected, abs=1e-12)
    assert similarity(intended, action, CONTEXT, f) == pytest.approx(expected, abs=1e-12)  # f is symmetric


def test_letters_name_images_in_the_listeners_order() -> None:
    assert similarity("select A", "select B", CONTEXT[::-1], f) == f("house", "cat")
    with pytest.raises(ActionError, match="names E, but the context has 4 images"):
        similarity("select E", "select A", CONTEXT, f)


def test_cosines() -> None:
    cosine = from_vectors({"boat": [3, 4], "dog": [4, 3], "cat": [-6, -8]})
    assert cosine("boat", "dog") == pytest.approx(24 / 25)  # (3 * 4 + 4 * 3) / (5 * 5)
    assert cosine("boat", "cat") == pytest.approx(-1)
    with pytest.raises(KeyError, match="no vector of image 'house' among the 3 known"):
        cosine("boat", "house")
    with pytest.raises(ValueError, match="'dog' has no direction"):
        from_vectors({"boat": [1, 0], "dog": [0, 0]})
    with pytest.raises(ValueError, match=r"'dog' is of shape \(3,\)"):
        from_vectors({"boat": [1, 0], "dog": [0, 0, 1]})


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_table(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"similarities.{ending}"
    if ending == "csv":
        path.write_text("similarity,image_a,image_b,by\n0.5,boat,house,me\n1,dog,cat,me\n0.9,dog,dog,me\n")
    else:
        columns = {"image_a": ["boat", "dog", "dog"], "image_b": ["house", "cat", "dog"], "similarity": [0.5, 1.0, 0.9]}
        pq.write_table(pa.table(columns), path)
    found = from_table(path)
    assert (found("boat", "house"), found("house", "boat"), found("cat", "dog")) == (0.5, 0.5, 1.0)
    assert (found("boat", "boat"), found("dog", "dog")) == (1.0, 0.9)  # 1 unless the table says otherwise
    with pytest.raises(KeyError, match="no similarity of 'boat' and 'cat'; add the pair"):
        found("boat", "cat")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image_a,similarity\nboat,1\n", "no column 'image_b' among image_a, similarity"),
        ("image_a,image_b,similarity\nboat,dog,0.1\nboat,cat,\n", "row 2, similarity: None"),
        ("image_a,image_b,similarity\nboat,dog,inf\n", "row 1, similarity: inf"),
        ("image_a,image_b,similarity\nboat,dog,much\n", "columns are not two of image ids and one of numbers"),
        ("image_a,image_b,similarity\nboat,dog,0.1\ndog,boat,0.2\n", "row 2, similarity: 0.2 of 'dog' and 'boat'"),
        ("", "neither CSV nor Parquet"),
    ],
)
def test_a_table_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "similarities.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        from_table(path)
    with pytest.raises(ValueError, match="no such file"):
        from_table(tmp_path / "absent.csv")
