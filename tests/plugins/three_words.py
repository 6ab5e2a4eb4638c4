"""A trivial scenario, as another package would add one: text in, one of three words out."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from respect_core.interaction import Interaction, Turn
from respect_core.measuring.judge import Judge
from respect_core.model.chat import Chat
from respect_core.scenario import Accepted, Message, Node, Scenario, ScenarioError

WORDS = ("yes", "no", "all")


class ThreeWords(Scenario):
    name = "three-words"
    most_turns = 8

    def states(self, context: Sequence[str], actions: Sequence[str], logged: Sequence[str | None] = ()) -> list[str]:
        for number, action in enumerate(actions):
            if action not in WORDS:
                raise ScenarioError(f"turns[{number}].action: {action[:20]!r} is not one of {', '.join(WORDS)}")
        return [""] * (len(actions) + 1)

    def messages(self, interaction: Interaction) -> list[Message]:
        messages = []
        for turn in interaction.turns:
            messages.append(_message("user", turn.utterance))
            if turn.action is not None:
                messages.append(_message("assistant", turn.action))
        return messages

    def longest_turn(self) -> Turn:
        return Turn("", "", "all")

    def constraint(self, chat: Chat, interaction: Interaction) -> Node:
        root: Node = {}
        for tokens in chat.action_tokens(WORDS):
            node = root
            for token in tokens:
                node = node.setdefault(token, {})
        return root

    def accept(self, text: str, interaction: Interaction) -> Accepted:
        return Accepted(text, True) if text in WORDS else Accepted(WORDS[0], False)

    def alternative(self, interaction: Interaction, turn: int) -> str | None:
        return next(word for word in WORDS if word != interaction.turns[turn].action)


class ThreeWordsJudge(Judge):
    def label(self, action: str, context: Sequence[str], targets: Collection[str]) -> int:
        return 1 if action in targets else -1


def _message(role: str, text: str) -> Message:
    return {"role": role, "content": [{"type": "text", "text": text}]}


SCENARIO, JUDGE = ThreeWords(), ThreeWordsJudge()
