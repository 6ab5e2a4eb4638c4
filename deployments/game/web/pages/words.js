// What the game says in words: names of pictures, whose move it is, how it ended. Pure.

const SECONDS = { writing: 25, acting: 45 };

/** Seconds of a whole turn, for the clock's bar. */
export const turnSeconds = (phase) => SECONDS[phase];

export const mine = (state) =>
  (state.phase === "writing" && state.role === "speaker") || (state.phase === "acting" && state.role === "listener");

/** "image C" for the listener, whose letters they are; "image 3" for the speaker, in the speaker's own order. */
export function imageName(state, id) {
  const place = state.images.findIndex(({ image }) => image === id);
  return `image ${state.images[place]?.letter ?? place + 1}`;
}

/** Name and state of a picture, e.g. "image 3, target, selected, right". */
export function imageLabel(state, { image, target, selected, mark }, planned = null) {
  const parts = [imageName(state, image)];
  if (target) parts.push("target");
  if (state.role === "speaker") parts.push(selected ? "selected" : "not selected");
  if (mark) parts.push(mark);
  if (planned) parts.push(planned);
  return parts.join(", ");
}

export function whoseMove(state) {
  if (state.phase === "over") return "Game over";
  if (mine(state)) return state.role === "speaker" ? "Your turn: describe" : "Your turn: select";
  if (state.partner === "policy" || state.practice) return "The listener is choosing …";
  return state.phase === "writing" ? "Your partner is writing …" : "Your partner is selecting …";
}

export function turnsLeft(state) {
  return state.turns_left === 1 ? "last turn" : `${state.turns_left} turns left`;
}

/** What an action did, in names of pictures; with right or wrong for the speaker. */
export function actionText(state, turn) {
  const named = (ids) =>
    ids
      .map((id) => {
        const target = state.images.find(({ image }) => image === id)?.target;
        return imageName(state, id) + (target === undefined ? "" : target ? " (a target)" : " (not a target)");
      })
      .join(", ");
  const parts = [];
  if (turn.selected.length) parts.push(`selected ${named(turn.selected)}`);
  if (turn.deselected.length) parts.push(`deselected ${named(turn.deselected)}`);
  return parts.join("; ") || "changed nothing";
}

const ENDINGS = {
  idle: {
    you: ["Your time ran out", "You made no move in time, which ends the game for both of you."],
    partner: ["Your partner's time ran out", "They made no move in time, which ends the game. It is not your fault."],
  },
  left: {
    you: ["You ended the game", ""],
    partner: ["Your partner left", "They ended the game. It is not your fault."],
  },
};

export function ending({ over, turns, practice }) {
  const count = turns.length === 1 ? "one turn" : `${turns.length} turns`;
  const words = ENDINGS[over.reason]?.[over.by];
  if (words) return { title: words[0], text: words[1] };
  if (over.reason === "won") {
    return { title: "You won!", text: `All targets and nothing else, in ${count}.` + (practice ? " That is how it works." : "") };
  }
  if (over.reason === "out_of_turns") return { title: "Out of turns", text: "Not all targets were found this time." };
  return { title: "The game was stopped", text: "The game server ended it. It is not your fault." };
}
