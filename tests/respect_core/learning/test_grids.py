"""Search spaces against Table 1 as the paper prints it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from respect_core.learning import grids
from respect_core.profiles import profile
from respect_core.variants import Objective, TrainingConfig, fft, kto


@pytest.mark.parametrize("recipe", [fft(), kto()])
def test_table_1_tries_each_value_once_and_one_setting_at_a_time(recipe: TrainingConfig) -> None:
    points = grids.points("table-1", recipe)
    assert points[0] == recipe and len(set(points)) == len(points)
    changed = [grids.changes(recipe, point) for point in points[1:]]
    assert all(len(each) == 1 for each in changed)
    rows = 8 if recipe.objective is Objective.KTO else 7
    values = sum(len(row) for row in list(grids.TABLE_1.values())[:rows])
    assert len(points) == 1 + values - rows  # of every row, one value is the recipe's own
    rates = {getattr(point, "learning_rate") for point in points}  # noqa: B009  # by the name in the table
    assert rates == {1e-6, 1e-5, 1e-4, 2e-4}


def test_the_product_has_every_combination() -> None:
    assert len(grids.points("table-1-product", fft())) == 4 * 3 * 4 * 3 * 3 * 5 * 4
    assert len(grids.points("table-1-product", kto())) == 3 * 4 * 3 * 4 * 3 * 3 * 5 * 4


def test_a_limit_keeps_the_recipe_and_a_larger_one_adds() -> None:
    few, more = (grids.points("table-1", fft(), limit) for limit in (4, 9))
    assert (len(few), len(more)) == (4, 9) and few == more[:4] and few[0] == fft()
    assert set(grids.points("table-1", fft(), 1000)) == set(grids.points("table-1", fft()))


def test_a_recipe_in_steps_has_no_epochs_to_search() -> None:
    own = profile("tiny").settings("b-rl", 0)
    changed = [grids.changes(own, point) for point in grids.points("table-1", own)]
    assert not any({"epochs", "kto_beta"} & each.keys() for each in changed)


def test_points_have_no_terms_that_the_engine_lacks() -> None:
    own = profile("chat").on("trl").settings("b-fft", 0)
    points = [point for grid in ("table-1", "near") for point in grids.points(grid, own)]
    assert len(points) > 10 and all(point == point.on("trl") for point in points)


def test_the_grid_near_a_recipe_is_around_it() -> None:
    own = profile("tiny").settings("b-kto", 0)
    rates = sorted({point.learning_rate / own.learning_rate for point in grids.points("near", own)})
    assert rates == [0.25, 0.5, 1, 2, 4]


def test_points_are_named_by_what_they_change() -> None:
    assert grids.label(fft(), fft()) == "as in the profile"
    changed = replace(fft(), learning_rate=1e-5, schedule="linear")
    assert grids.label(fft(), changed) == "learning_rate 1e-05, schedule linear"


def test_an_unknown_grid_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="no grid 'tabel-1'; there are: table-1, table-1-product, near"):
        grids.points("tabel-1", fft())
