from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import models
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from prefix_function import prefix_allowed_tokens
from transformers import DynamicCache

from respect_core.acting.decoding import Manner, choose
from respect_core.acting.kv_cache import PrefixCache
from respect_core.acting.policy import Policy
from respect_core.interaction import Interaction, Turn
from respect_core.model import packing
from respect_core.model.base import adapter_hash, attach_lora, inner, save_adapter
from respect_core.model.chat import Chat, chat
from respect_core.scenario import Node
from respect_core.scenarios.multiref import actions
from respect_core.scenarios.multiref.constraint import legal_tokens
from respect_core.scenarios.multiref.scenario import SCENARIO, repaired
from respect_core.variants import LoraConfig
from respect_core.versions import files_hash

STATES = ["", "A", "CFJ", "ABCDEFGHIJ", "BDEHI"]


def policy(**settings: Any) -> Policy:
    return Policy(models.base(), models.random_lora(), models.features(), **settings)


def saved_policy(tmp_path: Any, **settings: Any) -> Policy:
    save_adapter(models.random_lora(), tmp_path / "adapter")
    return Policy(models.base(), tmp_path / "adapter", models.features(), **settings)


def paths(node: Node) -> list[tuple[int, ...]]:
    if not node:
        return [()]
    return [(token, *rest) for token, following in node.items() for rest in paths(following)]


# --- what may be written --------------------------------------------------------------------------------------


@pytest.mark.parametrize("processor", [lambda: models.base().processor, models.sentencepiece_processor])
@pytest.mark.parametrize("state", STATES)
def test_exactly_the_legal_actions_can_be_written(processor: Any, state: str) -> None:
    talk = chat(processor())
    expected = talk.action_tokens(actions.legal_actions(state))
    assert sorted(paths(legal_tokens(talk, state, 10))) == sorted(expected)
    assert len(set(expected)) == 1023


def test_without_word_tokens_the_same_can_be_written() -> None:
    talk = Chat(models.sentencepiece_processor())
    assert talk.words_stand_alone
    by_word = sorted(paths(legal_tokens(talk, "BD", 5)))
    whole = Chat(models.sentencepiece_processor())
    whole.words_stand_alone = False
    assert sorted(paths(legal_tokens(whole, "BD", 5))) == by_word
    assert len(by_word) == 31


def test_generate_with_the_prefix_function_writes_what_the_policy_writes() -> None:
    listener = policy(temperature=0.0)
    model = listener.model
    processor = models.base().processor
    games = [models.game(seed, turns=1 + seed % 4, waiting=True) for seed in range(20, 26)]
    for game, act in zip(games, listener.act(games), strict=True):
        inputs = models.stock_inputs(game, processor, generate=True)
        length = inputs["input_ids"].shape[1]
        allowed = prefix_allowed_tokens(chat(processor), [game], length)
        written = model.generate(**inputs, max_new_tokens=25, do_sample=False, prefix_allowed_tokens_fn=allowed)
        assert processor.tokenizer.decode(written[0, length:], skip_special_tokens=True).strip() == act.action


def test_free_writing_is_what_generate_writes() -> None:
    listener = policy()
    games = [models.game(seed, turns=1 + seed % 4, waiting=True) for seed in range(26, 30)]
    processor = models.base().processor
    for game, written in zip(games, listener.write(games, Manner(False, 0.0)), strict=True):
        inputs = models.stock_inputs(game, processor, generate=True)
        image = [[processor.image_token_id]]
        ids = listener.model.generate(**inputs, max_new_tokens=10, do_sample=False, bad_words_ids=image)
        new = ids[0, inputs["input_ids"].shape[1] :].tolist()
        end = chat(processor).end_id
        assert written.text == processor.tokenizer.decode(new[:-1] if new[-1] == end else new).strip()


# --- probabilities --------------------------------------------------------------------------------------------


def test_probabilities_of_all_legal_actions_sum_to_one() -> None:
    listener = policy()
    game = models.game(30, turns=3, n_images=3)
    state = game.turns[2].state
    every = [
        Interaction(action, game.context, (*game.turns[:2], Turn(state, game.turns[2].utterance, action)))
        for action in actions.legal_actions(state, 3)
    ]
    last = [row[2] for row in listener.probabilities(every)]
    assert math.isclose(sum(p for p in last if p is not None), 1.0, abs_tol=1e-5)
    assert len(last) == 7


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_what_act_logs_is_what_teacher_forcing_gives(temperature: float) -> None:
    listener = policy(temperature=temperature)
    games = [models.game(seed, turns=1 + seed % 4, waiting=True) for seed in range(31, 37)]
    acts = listener.act(games)
    acted = [played(game, act.action) for game, act in zip(games, acts, strict=True)]
    for act, row in zip(acts, listener.probabilities(acted), strict=True):
        assert row[-1] == pytest.approx(act.probability, rel=1e-4, abs=1e-5)


def played(game: Interaction, action: str) -> Interaction:
    last = game.turns[-1]
    turns = (*game.turns[:-1], Turn(last.state, last.utterance, action))
    return Interaction(game.interaction_id, game.context, turns)


def test_log_probabilities_are_those_of_a_plain_pass() -> None:

    listener = policy()
    games = [models.game(37, turns=3), models.game(38, turns=1)]
    for game, row in zip(games, listener.log_probabilities(games), strict=True):
        for turn, value in enumerate(row):
            with torch.no_grad():
                single = models.one_by_one(listener.model, game, models.base().processor, turn).sum()
            assert value == pytest.approx(float(single), abs=1e-4)


def test_an_action_that_cannot_be_written_has_no_probability() -> None:
    game = Interaction("x", tuple(sorted(models.images())[:10]), (Turn("", "what", "nothing"),))
    assert policy().probabilities([game]) == [[None]]


def test_frequencies_of_acts_are_their_probabilities() -> None:
    listener = policy()
    game = models.game(39, turns=1, n_images=2, waiting=True)
    draws = [Interaction(f"draw-{n}", game.context, game.turns) for n in range(200)]
    acts = listener.act(draws)
    frequency = Counter(act.action for act in acts)
    for act in acts:
        spread = math.sqrt(act.probability * (1 - act.probability) / len(acts))
        assert abs(frequency[act.action] / len(acts) - act.probability) < 4 * spread + 1e-6


@settings(max_examples=100)
@given(st.lists(st.floats(-30, 30), min_size=1, max_size=6), st.floats(0, 1, exclude_max=True))
def test_an_impossible_candidate_is_never_chosen(scores: list[float], uniform: float) -> None:
    row = torch.tensor([[-torch.inf, *scores, -torch.inf]])
    chosen, logp = choose(row, torch.tensor([uniform], dtype=torch.float64), 1.0)
    assert 1 <= int(chosen) <= len(scores) and torch.isfinite(logp).all()


# --- play -----------------------------------------------------------------------------------------------------


def play(listener: Policy, games: list[Interaction], turns: int = 3) -> list[list[tuple[str, float]]]:
    """Let the policy play: its own actions lead to the next states."""
    log: list[list[tuple[str, float]]] = [[] for _ in games]
    for number in range(turns):
        for row, act in zip(log, listener.act(games), strict=True):
            row.append((act.action, act.probability))
        for index, (game, row) in enumerate(zip(games, log, strict=True)):
            done = played(game, row[-1][0])
            state = actions.apply(actions.parse(row[-1][0]), game.turns[-1].state)
            games[index] = Interaction(game.interaction_id, game.context, (*done.turns, Turn(state, f"no {number}")))
    return log


def first_turns(seeds: range) -> list[Interaction]:
    return [models.game(seed, turns=1, waiting=True) for seed in seeds]


def test_play_is_the_same_with_and_without_kept_keys_and_in_any_company(tmp_path: Any) -> None:
    kept = play(saved_policy(tmp_path, seed=5), first_turns(range(40, 45)))
    plain = play(policy(seed=5), first_turns(range(40, 45)))
    small = play(saved_policy(tmp_path, seed=5, batch_size=3, cache_bytes=800_000), first_turns(range(40, 45)))
    alone = [play(saved_policy(tmp_path, seed=5), first_turns(range(seed, seed + 1)))[0] for seed in (40, 44)]
    assert [[action for action, _ in row] for row in alone] == [[action for action, _ in kept[n]] for n in (0, 4)]
    for other in (plain, small):
        assert [[action for action, _ in row] for row in other] == [[action for action, _ in row] for row in kept]
        for row, same in zip(other, kept, strict=True):
            assert [p for _, p in row] == pytest.approx([p for _, p in same], rel=1e-4)
    assert play(saved_policy(tmp_path, seed=6), first_turns(range(40, 45))) != kept


def test_kept_keys_belong_to_a_game_and_its_images(tmp_path: Any) -> None:
    listener = saved_policy(tmp_path)
    game = models.game(49, turns=2, waiting=True)
    other = Interaction(game.interaction_id, tuple(reversed(game.context)), game.turns)
    listener.act([game])
    again = listener.act([other, game])
    fresh = policy().act([other, game])
    assert [act.action for act in again] == [act.action for act in fresh]
    assert [act.probability for act in again] == pytest.approx([act.probability for act in fresh], rel=1e-4)


def test_the_cache_forgets_what_was_used_longest_ago() -> None:
    rows = [
        packing.encode(models.game(seed, turns=1, waiting=True), models.base().processor, SCENARIO) for seed in range(3)
    ]
    longer = [replace(row, input_ids=(*row.input_ids, 1)) for row in rows]
    keys = torch.zeros(1, 4, 400, 8)
    one = 2 * keys[:, :, : len(rows[0].input_ids)].nbytes
    cache = PrefixCache(int(2.5 * one))
    for row in rows:
        passed = DynamicCache()
        passed.update(keys, keys, 0)
        cache.store([row], passed, [0])
    assert [cache.kept(row) > 0 for row in longer] == [False, True, True]


def test_free_acts_are_repaired_and_counted() -> None:
    listener = policy(constrained=False)
    acts = listener.act([models.game(seed, turns=3, waiting=True) for seed in range(50, 56)])
    assert listener.counts["acts"] == 6 and listener.counts["illegal"] > 0
    for seed, act in zip(range(50, 56), acts, strict=True):
        assert SCENARIO.accept(act.action, models.game(seed, turns=3, waiting=True)).legal
        assert 0 < act.probability <= 1


@pytest.mark.parametrize(
    ("text", "state", "expected"),
    [
        ("deselect select", "", "select A"),
        ("deselect select", "A", "deselect A"),
        ("Deselect A select A B", "A", "deselect A select B"),
        ("select B B Z hello C", "C", "select B"),
        ("nothing", "", "select A"),
        ("deselect E select F", "", "select F"),
    ],
)
def test_repair(text: str, state: str, expected: str) -> None:
    waiting = Interaction("g", tuple(map(str, range(10))), (Turn(state, "say"),))
    assert SCENARIO.accept(text, waiting) == (expected, False)
    assert str(repaired(text, state, 10)) == expected


def test_an_interaction_that_waits_for_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="waits for no action"):
        policy().act([models.game(1)])


# --- adapters -------------------------------------------------------------------------------------------------


def test_policies_share_a_base_and_leave_it_as_it_is(tmp_path: Any) -> None:
    games = first_turns(range(56, 60))
    plain = Policy(models.base(), None, models.features()).act(games)
    adapted = saved_policy(tmp_path).act(games)
    assert Policy(models.base(), None, models.features()).act(games) == plain
    assert adapted != plain
    first, second = policy().model, saved_policy(tmp_path).model
    weights = [inner(model).lm_head.weight for model in (first, second)]
    assert weights[0].data_ptr() == weights[1].data_ptr() == models.base().model.lm_head.weight.data_ptr()


def test_an_adapter_is_identified_by_its_content(tmp_path: Any) -> None:
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        save_adapter(attach_lora(models.base(), LoraConfig(), seed=seed), tmp_path / name)
    assert adapter_hash(tmp_path / "one") == adapter_hash(tmp_path / "same") != adapter_hash(tmp_path / "other")
    (tmp_path / "one" / "README.md").write_text("a card")
    assert adapter_hash(tmp_path / "one") == adapter_hash(tmp_path / "same")
    save_adapter(attach_lora(models.base(), LoraConfig(), seed=2), tmp_path / "one")
    assert adapter_hash(tmp_path / "one") == adapter_hash(tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "other", "same"]
    with pytest.raises(FileNotFoundError, match="no adapter"):
        adapter_hash(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"adapter_config\.json is missing"):
        Policy(models.base(), tmp_path, models.features())


@pytest.mark.parametrize("name", ["profile.json", "tokenizer.json", "chat_template.jinja", "deeper/README.md"])
def test_whatever_is_loaded_beside_the_weights_counts(tmp_path: Path, name: str) -> None:
    """A hash that an earlier release recorded is still that of the weights."""
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    bare = adapter_hash(tmp_path)
    old = adapter_hash(tmp_path, like="0" * 64)
    (tmp_path / name).write_text("ours")
    ours = adapter_hash(tmp_path)
    (tmp_path / name).write_text("theirs")
    assert len({bare, ours, adapter_hash(tmp_path)}) == 3 and ours.startswith("2-")
    assert adapter_hash(tmp_path, like=old) == old == files_hash([tmp_path / "adapter_config.json"])


def test_states_of_all_sizes_are_covered() -> None:
    talk = chat(models.base().processor)
    for size in range(4):
        for letters in combinations("ABC", size):
            tokens = talk.action_tokens(actions.legal_actions("".join(letters), 3))
            assert sorted(paths(legal_tokens(talk, "".join(letters), 3))) == sorted(tokens)


# --- one long game --------------------------------------------------------------------------------------------


def _wordy(game: Interaction, words: int) -> Interaction:
    """The game with so many words in its first turn."""
    turns = (replace(game.turns[0], utterance="bird " * words), *game.turns[1:])
    return replace(game, interaction_id=f"{game.interaction_id}-wordy", turns=turns)


def _shapes(listener: Policy, work: Callable[[], Any]) -> list[tuple[int, int]]:
    """Rows and tokens of every pass with more than one token, as the model gets them."""
    shapes: list[tuple[int, int]] = []

    def note(_: Any, __: Any, inputs: dict[str, Any]) -> None:
        if inputs["input_ids"].shape[1] > 1:
            shapes.append(tuple(inputs["input_ids"].shape))

    hook = inner(listener.model).model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        work()
    finally:
        hook.remove()
    return shapes


@pytest.mark.parametrize("way", ["act", "log_probabilities"])
def test_one_long_game_does_not_pad_the_others(way: str) -> None:
    listener = policy()
    games = [models.game(seed, turns=3, waiting=way == "act") for seed in range(30, 38)]
    alone = _shapes(listener, lambda: getattr(listener, way)(games))
    beside = _shapes(listener, lambda: getattr(listener, way)([*games, _wordy(games[0], 1500)]))
    long = [shape for shape in beside if shape[1] > 1500]
    assert [rows for rows, _ in long] == [1]
    assert sorted(shape for shape in beside if shape not in long) == sorted(alone)
