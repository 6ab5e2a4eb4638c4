"""What the base is trained on is, token for token, what the processor makes of the same game."""

from __future__ import annotations

import numpy as np
from PIL import Image

from respect_core.scenarios.multiref import attributes, tangrams
from respect_core.scenarios.multiref.actions import LETTERS
from respect_core.scenarios.multiref.tiny_build import lessons, pictures, senses, skeleton, vocabulary
from respect_core.scenarios.multiref.tiny_build.lessons import IGNORE, Lesson, Teacher


def teacher() -> Teacher:
    rng = np.random.default_rng(0)
    made = pictures.make(6, "test-of-lessons")
    assert len(made) == 48
    return Teacher(pictures.Pictures(made.pixels, made.labels), skeleton.processor().tokenizer, int(rng.integers(99)))


def through_the_processor(lesson: Lesson) -> list[int]:
    """The lesson's tokens read back as messages, rendered and tokenised by the stock processor."""
    processor = skeleton.processor()
    content = [
        part
        for letter in LETTERS[: len(lesson.images)]
        for part in ({"type": "image"}, {"type": "text", "text": letter})
    ]
    messages: list[dict[str, object]] = [{"role": "system", "content": content}]
    rest = processor.tokenizer.convert_ids_to_tokens(lesson.ids[2 + lessons.PER_IMAGE * len(lesson.images) :])
    said: list[str] = []
    for token in [*rest, vocabulary.ROLES[0]]:
        if token in vocabulary.ROLES:
            if len(messages) > 1:
                messages[-1]["content"] = [{"type": "text", "text": " ".join(said).replace(" ##", "")}]
            messages.append({"role": token[:-1].lower(), "content": []})
            said = []
        elif token != vocabulary.END:
            said.append(token)
    blank = Image.new("RGB", (9, 9))
    rendered = processor.apply_chat_template(messages[:-1], tokenize=False)
    ids: list[int] = processor(text=rendered, images=[blank] * len(lesson.images))["input_ids"][0]
    return ids


def test_lessons_are_what_the_processor_makes() -> None:
    school = teacher()
    for lesson in [school.questions(4, 5), school.game(10, 6), school.game(6, 4)]:
        assert through_the_processor(lesson) == lesson.ids
        for index in range(len(lesson.images)):
            at = lessons.letter_position(index)
            assert lesson.ids[at] == school.letters[LETTERS[index]]
            assert lesson.ids[at - 2] == school.image
        assert len(lesson.ids) == len(lesson.labels)
        assert any(label == school.end for label in lesson.labels)
        rows = [row for row, _ in lesson.seek if lesson.labels[row] != IGNORE]
        assert all(lesson.labels[row] in school.letters.values() for row in rows)


def test_labels_fit_the_turned_pictures() -> None:
    shape = tangrams.procedural_pool(0).tangrams["tan-0000"]
    views = pictures._tangram_views(shape)
    drawn = pictures.processed([tangrams.render(view) for view in views])
    turned = pictures._views(drawn[0])
    assert all(np.abs(a - b).mean() < 0.02 for a, b in zip(drawn, turned, strict=True))
    for view in views:
        row = pictures.labels(view)
        found = attributes.values(view)
        assert {pictures.VALUES[i] for i in np.flatnonzero(row == 1)} == set(found.items())


def test_senses_add_up_and_repeat() -> None:
    table = senses.senses()
    assert table == senses.senses()
    for indices, weights in table.values():
        assert abs(sum(weights) - 1) < 1e-9 and len(set(indices)) == len(indices)
