// Elements of the pack's own widgets and tabs.

/** An element with properties, and what is inside it. */
export function made(tag, fields = {}, ...inside) {
  const element = Object.assign(document.createElement(tag), fields);
  element.append(...inside);
  return element;
}

/** An element with a style of its own. */
export function styled(tag, css, fields = {}) {
  const element = made(tag, fields);
  element.style.cssText = css;
  return element;
}
