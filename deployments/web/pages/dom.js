// Elements without markup: what others wrote becomes text, never HTML.

export const $ = (id) => document.getElementById(id);

/** Makes an element with attributes (true sets an empty one, false and null none) and children; strings become text. */
export function element(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** As `element`, for drawings. */
export function drawn(tag, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function filled(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : String(value));
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

export function show(target, visible = true) {
  target.hidden = !visible;
}

/** Sets text only where it differs, so that screen readers are not told the same thing again. */
export function say(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

/** Shows a message in the page's alert; "" hides it. */
export function notice(text) {
  const target = $("notice");
  say(target, text);
  show(target, text !== "");
}

/** Handles an event of an element in place of the browser; what goes wrong is shown in the page's alert. */
export function on(id, event, handler) {
  $(id).addEventListener(event, async (happened) => {
    happened.preventDefault();
    await handler().catch((error) => notice(error.message));
  });
}
