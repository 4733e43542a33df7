// SPDX-License-Identifier: Apache-2.0
// Elements, and changing what is shown into what is to be shown: what stays the same is left as it is, so that a
// selection, a scroll position and an opened detail outlive an update.
const SVG = "http://www.w3.org/2000/svg";
const SVG_NAMES = new Set(["svg", "path", "line", "text", "g", "rect", "circle"]);

/** An element. `fill` is its width in per cent; other attributes as they are; null leaves one out. */
export function h(name, attributes, ...children) {
  const element = SVG_NAMES.has(name) ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (value == null || value === false) continue;
    if (key === "fill%") element.style.width = `${Math.min(100, Math.max(0, value)).toFixed(2)}%`;
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child != null && child !== false));
  return element;
}

/** Makes the children of `place` what `children` are. */
export function show(place, ...children) {
  const wanted = document.createElement(place.tagName);
  wanted.append(...children.flat(Infinity).filter((child) => child != null && child !== false));
  mend(place, wanted);
}

function mend(present, wanted) {
  const byKey = new Map([...present.childNodes].filter(keyOf).map((child) => [keyOf(child), child]));
  let next = present.firstChild; // the old child at the place that is to be filled
  for (const child of [...wanted.childNodes]) {
    const known = keyOf(child) ? byKey.get(keyOf(child)) : next;
    if (known && isAlike(known, child)) {
      if (known === next) next = next.nextSibling;
      else present.insertBefore(known, next); // a row that has changed its rank
      change(known, child);
    } else {
      present.insertBefore(child, next);
      if (next && !keyOf(next)) {
        const gone = next;
        next = next.nextSibling;
        gone.remove();
      }
    }
  }
  while (next) {
    const gone = next;
    next = next.nextSibling;
    gone.remove();
  }
}

const keyOf = (node) => node.dataset?.key;

function isAlike(one, other) {
  return one.nodeType === other.nodeType && one.nodeName === other.nodeName && keyOf(one) === keyOf(other);
}

function change(present, wanted) {
  if (present.nodeType === Node.TEXT_NODE) {
    if (present.data !== wanted.data) present.data = wanted.data;
    return;
  }
  for (const { name } of [...present.attributes]) {
    // Whether a detail is open is the reader's affair; a style goes by the object model, which the policy allows.
    if (name !== "open" && name !== "style" && !wanted.hasAttribute(name)) present.removeAttribute(name);
  }
  for (const { name, value } of [...wanted.attributes]) {
    if (name !== "style" && present.getAttribute(name) !== value) present.setAttribute(name, value);
  }
  if (present.style.cssText !== wanted.style.cssText) present.style.cssText = wanted.style.cssText;
  mend(present, wanted);
}
