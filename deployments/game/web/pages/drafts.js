// Stores what a player wrote or chose until the server acknowledges it, across reloads of the tab.

const PREFIX = "multiref:";

function read(key) {
  try {
    return JSON.parse(sessionStorage.getItem(PREFIX + key));
  } catch {
    return null; // storage is off, or holds something else
  }
}

function write(key, value) {
  try {
    if (value === null) sessionStorage.removeItem(PREFIX + key);
    else sessionStorage.setItem(PREFIX + key, JSON.stringify(value));
  } catch {
    // Storage is off or full: the page works, a reload forgets.
  }
}

/** Text or clicks that are not sent, of one game and turn. */
export const draft = slot("draft");
/** The message that was sent and is not acknowledged yet. */
export const sent = slot("sent");

function slot(key) {
  return {
    get(game, turn) {
      const stored = read(key);
      return stored && stored.game === game && stored.turn === turn ? stored.value : null;
    },
    set(game, turn, value) {
      write(key, { game, turn, value });
    },
    clear() {
      write(key, null);
    },
  };
}
