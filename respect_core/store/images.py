"""Read and write images of contexts in the store: ``images/<image id>.png``, written once."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from PIL import Image, UnidentifiedImageError

from respect_core.store.base import MissingKeyError, Store, StoreError

_PREFIX = "images/"
_IMAGE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def image_key(image_id: str) -> str:
    """Return the key of an image. Raises StoreError for an id that is not a plain file name."""
    if not _IMAGE_ID.fullmatch(image_id):
        raise StoreError(f"image id {image_id!r} is not a plain name; use letters, digits, '.', '_' and '-'")
    return f"{_PREFIX}{image_id}.png"


def known_images(store: Store) -> set[str]:
    """List the ids of the images in the store."""
    return {key.removeprefix(_PREFIX)[:-4] for key in store.keys(_PREFIX) if key.endswith(".png")}


def put_images(store: Store, images: Mapping[str, Image.Image]) -> int:
    """Store images under their ids where absent; return how many are new.

    The same pixels give the same bytes. Raises StoreError for an id that is not a plain file name.
    """
    keys = {image_id: image_key(image_id) for image_id in sorted(images)}
    existing = known_images(store)
    new = [image_id for image_id in keys if image_id not in existing]

    def put(image_id: str) -> None:
        buffer = io.BytesIO()
        images[image_id].save(buffer, format="PNG")
        store.put(keys[image_id], buffer.getvalue())

    with ThreadPoolExecutor(8) as pool:  # each waits for a disk or a server
        list(pool.map(put, new))
    return len(new)


def load_images(store: Store, image_ids: Iterable[str]) -> dict[str, Image.Image]:
    """Decode images, by id, in the mode in which they were stored.

    Raises:
        StoreError: an id that is not a plain name, no such image, or a file that is not a PNG.
    """
    loaded: dict[str, Image.Image] = {}
    for image_id in dict.fromkeys(image_ids):
        key = image_key(image_id)
        try:
            image = Image.open(io.BytesIO(store.read(key)), formats=["PNG"])
            image.load()
        except MissingKeyError:
            raise MissingKeyError(
                f"{store.uri}: image {image_id!r} has no file {key}; import the tangrams, or put the image there"
            ) from None
        except (UnidentifiedImageError, OSError, SyntaxError) as error:
            raise StoreError(f"{store.uri}/{key}: not a readable PNG ({error}); delete it and put it again") from error
        loaded[image_id] = image
    return loaded
