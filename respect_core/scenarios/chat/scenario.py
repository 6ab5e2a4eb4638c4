"""Plug in any conversation of users with an assistant as a scenario.

An action is everything that the assistant wrote between two messages of the user. What tools answered in between is
context, and has no loss. The state of a turn holds the system prompt and the tools, where they are given.

Deviations from the paper, numbered as they are cited elsewhere:
1. Actions are free text: p is kept as its logarithm, and equation 2's ratio is taken per token (`objectives`,
   deviation 8). KTO's log-ratios are divided by the number of tokens.
2. KTO's KL term is 0: there is no alternative reply. Mismatched replies of a batch, as in the textbook, were not tried.
3. A checkpoint is chosen by the mean log-likelihood per token of the curated replies (`validation`, deviation 4): no
   reply is the only right one, so that exact match means nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from respect_core.interaction import Interaction, Turn
from respect_core.scenario import PER_TOKEN, Accepted, Message, Scenario, ScenarioError
from respect_core.scenarios.chat import reply


class ChatScenario(Scenario):
    """Conversations in text."""

    name = "chat"
    free_text = True
    criterion = PER_TOKEN
    max_new_tokens = 512
    longest_utterance = 32_000
    utterance_tokens = 1024
    game_tokens = 1024

    def states(self, context: Sequence[str], actions: Sequence[str], logged: Sequence[str | None] = ()) -> list[str]:
        if context:
            raise ScenarioError("context: a chat has no images; leave it empty")
        for number, action in enumerate(actions):
            try:
                if not any(part.content.strip() or part.calls for part in reply.read(action)):
                    raise ScenarioError("the reply is blank; drop the turn, or restore its text")
            except ScenarioError as error:
                raise ScenarioError(f"turns[{number}].action: {error}") from None
        states = [state or "" for state in logged] or [""] * len(actions)
        for number, state in enumerate(states):
            try:
                reply.before(state)
            except ScenarioError as error:
                raise ScenarioError(f"turns[{number}].state: {error}") from None
        return [*states, ""]

    def messages(self, interaction: Interaction) -> list[Message]:
        messages: list[Message] = []
        for turn in interaction.turns:
            messages += [*reply.before(turn.state), reply.text_message("user", turn.utterance)]
            if turn.action is not None:
                messages += reply.messages(turn.action)
        return messages

    def longest_turn(self) -> Turn:
        return Turn("", "", "")

    def accept(self, text: str, interaction: Interaction) -> Accepted:
        action = reply.written([reply.Part("assistant", text)])
        return Accepted(action, bool(text.strip()))


SCENARIO = ChatScenario()
