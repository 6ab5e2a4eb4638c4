"""KILOGRAM's drawings against the study's own pictures, and bad drawings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from respect_core.scenarios.multiref.importers.kilogram import DrawingError, read_svg
from respect_core.scenarios.multiref.tangrams import render

SQUARES = "".join(f'<polygon id="{n}" points="{n} 0 {n + 1} 0 {n + 1} 1 {n} 1"/>' for n in range(1, 8))


def _svg(path: Path, inside: str, head: str = "") -> Path:
    path.write_text(f'{head}<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9">{inside}</svg>')
    return path


def test_every_drawing_reads(shared: Path) -> None:
    files = sorted((shared / "data/kilogram/svg").glob("*.svg"))
    assert len(files) == 1013
    for file in files:
        polygons = read_svg(file).polygons
        assert [len(polygon) for polygon in polygons] == [4, 4, 3, 3, 3, 3, 3]
        # A few drawings stand out of their own frame by a stroke.
        assert all(-0.1 <= value <= 1.1 for polygon in polygons for point in polygon for value in point)


def test_pictures_look_as_the_study_showed_them(shared: Path) -> None:
    overlaps = {}
    for picture in sorted((shared / "data/tangram_pngs").glob("*.png")):
        theirs = np.asarray(Image.open(picture).convert("RGBA"), dtype=float)
        ink_theirs = (theirs[..., :3].mean(-1) < 128) & (theirs[..., 3] > 128)
        ours = np.asarray(render(read_svg(shared / f"data/kilogram/svg/{picture.stem}.svg"), 224), dtype=float)
        ink_ours = ours.mean(-1) < 128
        overlaps[picture.stem] = (ink_ours & ink_theirs).sum() / (ink_ours | ink_theirs).sum()
    assert len(overlaps) == 24
    # Ink over ink; what is lost are seams a pixel wider than theirs.
    assert min(overlaps.values()) > 0.9, overlaps
    assert np.mean(list(overlaps.values())) > 0.93, overlaps


def test_a_matrix_moves_a_polygon(tmp_path: Path) -> None:
    moved = SQUARES.replace(
        'id="1" points="1 0 2 0 2 1 1 1"', 'id="1" points="0 0 1 0 1 1 0 1" transform="matrix(1,0,0,1,1,0)"'
    )
    assert read_svg(_svg(tmp_path / "a.svg", moved)).polygons == read_svg(_svg(tmp_path / "b.svg", SQUARES)).polygons


@pytest.mark.parametrize(
    ("inside", "said"),
    [
        (SQUARES.replace('id="7"', 'id="8"'), "seven, with ids 1 to 7"),
        (SQUARES.replace("7 0 8 0 8 1 7 1", "7 0 8 0 8 one"), "polygon 7: points"),
        (SQUARES.replace("7 0 8 0 8 1 7 1", "7 0 8 0"), "polygon 7: 2 corners"),
        (SQUARES.replace('id="7"', 'id="7" transform="rotate(45)"'), "polygon 7: transform"),
        ("<polygon", "not well-formed"),
    ],
)
def test_a_bad_drawing_is_refused_by_file_and_element(tmp_path: Path, inside: str, said: str) -> None:
    with pytest.raises(DrawingError, match=said) as refused:
        read_svg(_svg(tmp_path / "bad.svg", inside))
    assert "bad.svg" in str(refused.value)


@pytest.mark.parametrize("frame", ["", 'viewBox="0 0 9"', 'viewBox="0 0 0 9"', 'viewBox="0 0 nan 9"'])
def test_a_drawing_needs_a_frame(tmp_path: Path, frame: str) -> None:
    (tmp_path / "bad.svg").write_text(f'<svg xmlns="http://www.w3.org/2000/svg" {frame}>{SQUARES}</svg>')
    with pytest.raises(DrawingError, match=r"bad\.svg: viewBox"):
        read_svg(tmp_path / "bad.svg")


def test_entities_are_not_expanded(tmp_path: Path) -> None:
    head = '<!DOCTYPE svg [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    with pytest.raises(DrawingError, match="document type"):
        read_svg(_svg(tmp_path / "bomb.svg", f"{SQUARES}<text>&b;</text>", head))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("head", ['<!DOCTYPE svg [<!ENTITY a "b">]>', "<!DOCTYPE svg>"])
def test_a_document_type_is_refused_in_every_encoding(tmp_path: Path, encoding: str, head: str) -> None:
    declared = '<?xml version="1.0" encoding="utf-16"?>' if encoding == "utf-16-be" else ""
    path = _svg(tmp_path / "a.svg", SQUARES, declared + head)
    path.write_bytes(path.read_text().encode(encoding))
    with pytest.raises(DrawingError, match=r"document type|not well-formed"):
        read_svg(path)


def test_a_comment_is_no_document_type(tmp_path: Path) -> None:
    assert read_svg(_svg(tmp_path / "a.svg", "<!-- <!DOCTYPE svg> -->" + SQUARES)).polygons


def test_a_file_too_large_is_not_read_whole(tmp_path: Path) -> None:
    with (tmp_path / "a.svg").open("wb") as file:
        file.truncate(1 << 34)  # of holes
    with pytest.raises(DrawingError, match="more than 65536 bytes"):
        read_svg(tmp_path / "a.svg")
