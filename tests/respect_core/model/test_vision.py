from __future__ import annotations

from pathlib import Path
from typing import Any

import models
import pytest
import torch
from PIL import Image, ImageDraw

from respect_core.model import packing
from respect_core.model.base import inner
from respect_core.model.lora import merged
from respect_core.model.vision import VisionFeatures
from respect_core.scenarios.multiref.scenario import SCENARIO
from respect_core.scenarios.multiref.similarity import from_features
from respect_core.variants import LoraConfig, enhanced


def connector_output(model: object, features: VisionFeatures, *rows: tuple[str, ...]) -> torch.Tensor:
    (given,) = features.arguments(model, rows).values()
    return given if isinstance(given, torch.Tensor) else given["image"].pooler_output


def stock_output(model: Any, encoded: Any) -> torch.Tensor:
    """In one tensor, as transformers 5.17 returns it, or in one for each conversation."""
    found = model.get_image_features(**encoded).pooler_output
    return found if isinstance(found, torch.Tensor) else torch.cat(found)


def pixel_output(model: object, *rows: tuple[str, ...]) -> torch.Tensor:
    pictures = [[models.images()[image] for image in row] for row in rows]
    encoded = models.base().processor.image_processor(pictures, return_tensors="pt")
    return stock_output(inner(model), encoded)


ROWS = (("image-1", "image-2", "image-3"), ("image-3", "image-0"))


def test_cached_features_are_those_of_the_pixels() -> None:
    model = models.random_lora()
    cached = connector_output(model, models.features(), *ROWS)
    torch.testing.assert_close(cached, pixel_output(model, *ROWS), atol=1e-5, rtol=1e-5)


def test_connected_features_are_the_same_without_the_connector(monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.random_lora()
    expected = connector_output(model, models.features(), *ROWS)
    connected = models.features().connected(model, (image for row in ROWS for image in row))
    monkeypatch.setattr(inner(model).model, "connector", None)
    torch.testing.assert_close(connector_output(model, connected, *ROWS), expected, atol=1e-5, rtol=1e-5)


def test_gradients_reach_the_connector() -> None:
    model = models.random_lora()
    outputs = []
    for output in (connector_output(model, models.features(), *ROWS), pixel_output(model, *ROWS)):
        output.square().sum().backward()
        outputs.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
        model.zero_grad(set_to_none=True)
    assert outputs[0].keys() == outputs[1].keys() and outputs[0]
    for name, gradient in outputs[0].items():
        torch.testing.assert_close(gradient, outputs[1][name], atol=1e-4, rtol=1e-4)


def test_a_trained_tower_runs_every_time() -> None:
    targets = enhanced(LoraConfig()).targets
    model = models.random_lora(targets=targets)
    live = connector_output(model, models.features(), *ROWS)
    torch.testing.assert_close(live, pixel_output(model, *ROWS), atol=1e-5, rtol=1e-5)
    live.sum().backward()
    assert any("vision_model" in name and p.grad is not None for name, p in model.named_parameters())
    game = models.game(80)
    batch = packing.collate([packing.encode(game, models.base().processor, SCENARIO)], 0)
    assert not torch.equal(
        packing.score(model, batch, models.features()).logp,
        packing.score(models.random_lora(), batch, models.features()).logp,
    )


def test_a_tower_with_its_adapters_folded_in_is_the_policys_own() -> None:
    """What is validated and served on a CPU is a merged model: it sees with the vision adapters, not past them."""
    model = models.random_lora(targets=enhanced(LoraConfig()).targets)
    whole, plain = merged(model), merged(models.random_lora())
    features = VisionFeatures(models.base(), models.images())
    seen = connector_output(whole, features, *ROWS)
    torch.testing.assert_close(seen, pixel_output(model, *ROWS), atol=1e-4, rtol=1e-4)
    assert not features._tower  # nothing was taken from the frozen tower
    connected = features.connected(whole, [image for row in ROWS for image in row])
    torch.testing.assert_close(
        connector_output(whole, connected, *ROWS), pixel_output(model, *ROWS), atol=1e-4, rtol=1e-4
    )
    connector_output(plain, features, *ROWS)
    assert features._tower  # a merged model with the base's tower goes by what is kept


def test_the_cache_on_disk_is_used_and_keyed_by_content(tmp_path: Path) -> None:
    first = VisionFeatures(models.base(), models.images(), cache_dir=tmp_path)
    expected = connector_output(models.base().model, first, *ROWS)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 4 and all(file.suffix == ".safetensors" for file in files)
    stamps = [file.stat().st_mtime_ns for file in files]
    renamed = {f"other-{name}": picture for name, picture in models.images().items()}
    second = VisionFeatures(models.base(), renamed, cache_dir=tmp_path)
    rows = tuple(tuple(f"other-{image}" for image in row) for row in ROWS)
    assert torch.equal(connector_output(models.base().model, second, *rows), expected)
    assert [file.stat().st_mtime_ns for file in sorted(tmp_path.iterdir())] == stamps
    second.prepare(["other-image-9"])
    assert len(list(tmp_path.iterdir())) == 5


def test_pictures_of_several_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    image_processor = models.base().processor.image_processor
    monkeypatch.setattr(image_processor, "do_resize", False)
    pictures = {"wide": Image.new("RGB", (48, 24), (9, 99, 199)), "square": models.images()["image-1"]}
    features = VisionFeatures(models.base(), pictures)
    together = connector_output(models.base().model, features, ("wide", "square"))
    encoded = image_processor([list(pictures.values())], return_tensors="pt")
    pixels = stock_output(models.base().model, encoded)
    torch.testing.assert_close(together, pixels, atol=1e-5, rtol=1e-5)


def test_an_image_that_passes_for_padding_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models.base().processor.image_processor, "do_normalize", False)
    features = VisionFeatures(models.base(), {"black": Image.new("RGB", (48, 48))})
    with pytest.raises(ValueError, match="'black' is all zero"):
        features.prepare(["black"])


def test_an_unknown_image_is_named() -> None:
    with pytest.raises(KeyError, match="no image 'nowhere' among the 40"):
        models.features().prepare(["nowhere"])


def test_pooled_features_are_the_frozen_towers_whatever_the_adapter() -> None:
    pooled = models.features().pooled(["image-1", "image-0", "image-1"])
    assert list(pooled) == ["image-1", "image-0"]
    pixels = models.base().processor.image_processor([[models.images()["image-0"]]], return_tensors="pt")
    tower = inner(models.base().model).model.vision_model
    with torch.no_grad():
        expected = tower(pixel_values=pixels["pixel_values"][0]).last_hidden_state[0].mean(0)
    torch.testing.assert_close(pooled["image-0"], expected, atol=1e-5, rtol=1e-5)


def test_similarity_of_images_by_the_frozen_tower() -> None:
    """A drawing moved by a pixel is more like itself than another one is."""

    def drawn(box: tuple[int, int, int, int]) -> Image.Image:
        image = Image.new("RGB", (64, 64), "white")
        ImageDraw.Draw(image).rectangle(box, fill="black")
        return image

    boxes = {"square": (16, 16, 48, 48), "again": (16, 16, 48, 48), "near": (17, 16, 49, 48), "line": (2, 30, 62, 33)}
    alike = from_features(VisionFeatures(models.base(), {name: drawn(box) for name, box in boxes.items()}), boxes)
    assert alike("square", "again") == pytest.approx(1)
    assert alike("square", "near") > alike("square", "line")
    with pytest.raises(ValueError, match="1 images"):
        from_features(models.features(), ["image-0"])
