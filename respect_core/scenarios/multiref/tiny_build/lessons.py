"""Make token sequences to teach the text model with: short questions about pictures, and games.

A sequence is what the processor makes of a game's messages (held by a test), so nothing is learned that does not occur
at inference. In a game a listener of varying skill acts, and the model has to predict the action the speaker intends,
up to where the action taken departs from it.

Legend: B sequences, T tokens, N images.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from respect_core.scenarios.multiref import actions, dialects
from respect_core.scenarios.multiref.actions import LETTERS, Action
from respect_core.scenarios.multiref.attributes import LEXICON, Values
from respect_core.scenarios.multiref.contexts import GameContext
from respect_core.scenarios.multiref.dialects import VALUES, Dialect
from respect_core.scenarios.multiref.game import Game
from respect_core.scenarios.multiref.speakers import Manners, SimulatedSpeaker
from respect_core.scenarios.multiref.tiny_build import senses, skeleton, vocabulary
from respect_core.scenarios.multiref.tiny_build.pictures import Pictures

IGNORE = -100
PER_IMAGE = skeleton.LATENTS + 3  # tokens per image, including its letter


def letter_position(index: int) -> int:
    """Return the position of an image's letter, after <s>, System: and the images before it."""
    return 2 + (index + 1) * PER_IMAGE - 1


@dataclass
class Lesson:
    """A sequence. `seek`: (row, letters its word means); `words`: row -> rows of the words said so far."""

    images: list[int]
    ids: list[int]
    labels: list[int]
    seek: list[tuple[int, str]] = field(default_factory=list)
    words: list[tuple[int, list[int]]] = field(default_factory=list)


def pretraining_dialect(share: float) -> Dialect:
    """Make the dialect of pretraining, where figurative words have several readings."""
    figurative: dict[dialects.Value, list[tuple[str, float]]] = {value: [] for value in VALUES}
    for word, (indices, weights) in senses.senses().items():
        if len(indices) > 1:
            for index, weight in zip(indices, weights, strict=True):
                figurative[VALUES[index]].append((word, weight))
    technical = {(name, value): LEXICON[name][value].technical for name, value in VALUES}
    return Dialect(technical, {value: tuple(words) for value, words in figurative.items()}, share)


class Teacher:
    """A maker of lessons from pictures of the training pool."""

    def __init__(self, pictures: Pictures, tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
        self.labels = pictures.labels
        self.tokenizer = tokenizer
        self.rng = random.Random(f"lessons-{seed}")
        token = tokenizer.get_vocab()
        self.system, self.user, self.assistant = (token[role] for role in vocabulary.ROLES)
        self.end, self.around, self.image = (
            token[vocabulary.END],
            token[vocabulary.AROUND_IMAGE],
            token[vocabulary.IMAGE],
        )
        self.letters = {letter: token[letter] for letter in LETTERS}
        self.lexicon = {token[word] for word in senses.senses()}
        self.base = pretraining_dialect(1.0)

    def _values(self, picture: int) -> Values:
        return {name: value for (name, value), has in zip(VALUES, self.labels[picture], strict=True) if has == 1}

    def _start(self, images: list[int]) -> Lesson:
        ids = [self.tokenizer.bos_token_id, self.system]
        for letter in LETTERS[: len(images)]:
            ids += [self.around, *[self.image] * skeleton.LATENTS, self.around, self.letters[letter]]
        return Lesson(images, ids, [IGNORE] * len(ids))

    def _encode(self, text: str) -> list[int]:
        encoded: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return encoded

    def _turn(self, lesson: Lesson, state: str, utterance: str, taken: Action, intended: Action, seeks: str) -> None:
        """Append a turn. `seeks`: the letters that the description means; empty if nothing was described."""
        utterance_ids = self._encode(utterance.lower())
        start = len(lesson.ids) + 1
        prompt_ids = [
            self.system,
            *self._encode(actions.describe_state(state)),
            self.user,
            *utterance_ids,
            self.assistant,
        ]
        words_at = [
            start + len(prompt_ids) - 2 - len(utterance_ids) + i
            for i, token in enumerate(utterance_ids)
            if token in self.lexicon
        ]
        lesson.ids += prompt_ids
        lesson.labels += [IGNORE] * len(prompt_ids)
        row = len(lesson.ids) - 1
        if seeks and words_at:
            for number, at in enumerate(words_at):
                lesson.words.append((at, words_at[: number + 1]))
                lesson.seek.append((at, seeks))
            lesson.words.append((row, words_at))
        taken_ids = [*self._encode(str(taken)), self.end]
        intended_ids = [*self._encode(str(intended)), self.end]
        lesson.ids += taken_ids
        lesson.labels += [IGNORE] * len(taken_ids)
        for token, intended_id in zip(taken_ids, intended_ids, strict=False):
            lesson.labels[row] = intended_id
            letter = next((x for x in seeks if self.letters[x] == intended_id), None)
            if letter and words_at:
                lesson.words.append((row, words_at))
                lesson.seek.append((row, letter))
            if token != intended_id:
                break
            row += 1

    # --- questions ------------------------------------------------------------------------------------------------

    def questions(self, n_images: int, n_turns: int) -> Lesson:
        """Make descriptions of one image each, of one to four words, in random states; some ask to deselect."""
        rng = self.rng
        lesson = self._start(rng.sample(range(len(self.labels)), n_images))
        letters = LETTERS[:n_images]
        ids = tuple(str(picture) for picture in lesson.images)
        values = {image: self._values(int(image)) for image in ids}
        context = GameContext("questions", ids, ids, ())
        dialect = Dialect(self.base.technical, self.base.figurative, rng.choice((0.0, 0.0, 0.3, 0.7)))
        for _ in range(n_turns):
            state = "".join(sorted(rng.sample(letters, rng.choice((0, 0, 1, 2, 3)) % n_images)))
            letter = rng.choice(letters)
            manners = Manners(most_words=rng.choice((2, 3, 4, 4)))
            speaker = SimulatedSpeaker(context, values, dialect, rng, manners)
            phrase = speaker._describe(letter)
            if letter in state:
                utterance, action = rng.choice(dialects.DESELECT).format(phrase), Action(deselect=letter)
            else:
                utterance, action = rng.choice(dialects.NEXT).format(phrase), Action(select=letter)
            self._turn(lesson, state, utterance, action, action, letter)
        return lesson

    def drill(self, n_images: int, n_turns: int) -> Lesson:
        """Make bare questions: words and the letter, without states."""
        rng = self.rng
        lesson = self._start(rng.sample(range(len(self.labels)), n_images))
        ids = tuple(str(picture) for picture in lesson.images)
        values = {image: self._values(int(image)) for image in ids}
        context = GameContext("drill", ids, ids, ())
        dialect = Dialect(self.base.technical, self.base.figurative, rng.choice((0.0, 0.0, 0.3, 0.7)))
        for _ in range(n_turns):
            letter = rng.choice(LETTERS[:n_images])
            speaker = SimulatedSpeaker(context, values, dialect, rng, Manners(most_words=rng.choice((1, 2, 3, 4))))
            words = " ".join(dialect.word(value, rng)[0] for value in speaker._distinguishing_values(letter))
            word_ids = self._encode(words)
            start = len(lesson.ids) + 1
            lesson.ids += [self.user, *word_ids, self.assistant, *self._encode(str(Action(select=letter))), self.end]
            places = list(range(start, start + len(word_ids)))
            row = start + len(word_ids) + 1  # that of "select"
            for number, at in enumerate(places):
                lesson.words.append((at, places[: number + 1]))
                lesson.seek.append((at, letter))
            lesson.words += [(row - 1, places), (row, places)]
            lesson.seek.append((row, letter))
            lesson.labels += [IGNORE] * (len(lesson.ids) - len(lesson.labels))
            lesson.labels[row] = self.letters[letter]
        return lesson

    # --- games ----------------------------------------------------------------------------------------------------

    def _sample_action(self, intended: Action, state: str, letters: str, skill: float) -> Action:
        """Sample what a listener of this skill does when `intended` is meant."""
        rng = self.rng
        if rng.random() < skill:
            return intended
        free = [x for x in letters if x not in state]
        slip = rng.random()
        if intended.select and slip < 0.75:
            return Action(intended.deselect, rng.choice(free))
        if intended.select and intended.deselect and slip < 0.85:
            return Action(intended.deselect)
        if state and slip < 0.9:
            return Action(deselect=rng.choice(state))
        return Action(select=rng.choice(free)) if free else Action(deselect=rng.choice(state))

    def game(self, n_images: int, most_turns: int) -> Lesson:
        """Make a game with a listener of random skill."""
        rng = self.rng
        lesson = self._start(rng.sample(range(len(self.labels)), n_images))
        letters = LETTERS[:n_images]
        ids = tuple(str(picture) for picture in lesson.images)
        targets = rng.sample(ids, min(rng.choice((3, 4, 5)), n_images // 2))
        context = GameContext("lesson", ids, ids, tuple(targets))
        values: Mapping[str, Values] = {image: self._values(int(image)) for image in ids}
        dialect = Dialect(self.base.technical, self.base.figurative, rng.choice((0.0, 0.3, 0.6, 0.9)))
        speaker = SimulatedSpeaker(context, values, dialect, rng)
        game, skill = Game(context), rng.choice((0.35, 0.55, 0.75))
        while not game.over and len(game.turns) < most_turns:
            state = game.state
            saying = speaker.speak(state, game.last_action)
            taken = self._sample_action(saying.intended, state, letters, skill)
            # A description is of the image to select, or else of the one to deselect.
            seeks = saying.intended.select or saying.intended.deselect
            game.say(saying.utterance)
            game.act(str(taken))
            self._turn(lesson, state, saying.utterance, taken, saying.intended, seeks)
        return lesson


def collate(lessons: list[Lesson], pad: int) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Pad lessons: ids [B, T], labels [B, T] shifted so that row t already predicts ids[t + 1], images [B, N]."""
    length = max(len(lesson.ids) for lesson in lessons)
    ids = torch.full((len(lessons), length), pad)
    labels = torch.full((len(lessons), length), IGNORE)
    for i, lesson in enumerate(lessons):
        ids[i, : len(lesson.ids)] = torch.tensor(lesson.ids)
        labels[i, : len(lesson.labels)] = torch.tensor(lesson.labels)
    return ids, labels, np.array([lesson.images for lesson in lessons])
