"""Images in the store."""

from __future__ import annotations

import pytest
from PIL import Image
from samples import contents

from respect_core.store.base import MissingKeyError, Store, StoreError
from respect_core.store.images import known_images, load_images, put_images


def test_put_once_and_load(store: Store) -> None:
    red = Image.new("RGB", (5, 7), "red")
    assert put_images(store, {"page-J": red, "page1-2": red}) == 2
    before = contents(store)
    assert put_images(store, {"page-J": Image.new("RGB", (5, 7), "blue")}) == 0, "what exists stays"
    assert contents(store) == before
    assert before["images/page-J.png"] == before["images/page1-2.png"], "same pixels, same bytes"
    assert known_images(store) == {"page-J", "page1-2"}
    loaded = load_images(store, ["page-J", "page-J"])
    assert list(loaded) == ["page-J"] and loaded["page-J"].getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("image_id", ["", "a/b", "../a", ".hidden", "a b", "a\\b"])
def test_ids_that_are_no_file_names(store: Store, image_id: str) -> None:
    with pytest.raises(StoreError, match="not a plain name; use letters"):
        put_images(store, {"good": Image.new("1", (1, 1)), image_id: Image.new("1", (1, 1))})
    with pytest.raises(StoreError, match="not a plain name"):
        load_images(store, [image_id])
    assert store.keys() == []


def test_absent_and_damaged(store: Store) -> None:
    with pytest.raises(MissingKeyError, match=r"image 'boat' has no file images/boat\.png; import the tangrams"):
        load_images(store, ["boat"])
    store.put("images/boat.png", b"no image")
    with pytest.raises(StoreError, match="not a readable PNG"):
        load_images(store, ["boat"])
