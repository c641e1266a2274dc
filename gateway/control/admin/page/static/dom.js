// Elements are made of data here, and nowhere else: text is text, whatever is in it.

const SVG = "http://www.w3.org/2000/svg";

/** Make an element; attributes that are null or false are left out, children are elements or texts. */
export function element(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** Make an element of an SVG drawing. */
export function shape(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

/** Text of a kit, a registry or an engine: it keeps its own direction, and changes none around it. */
export function foreign(text, attributes = {}) {
  return element("bdi", attributes, text);
}

/** Text for those who cannot see what else says it. */
export function unseen(text) {
  return element("span", { class: "unseen" }, text);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) {
      node.setAttribute(name, value === true ? "" : String(value));
    }
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false && child !== "") {
      node.append(child instanceof Node ? child : document.createTextNode(String(child)));
    }
  }
  return node;
}

/** Make a node's children those of another, and keep what is equal: focus, selection and what is open stay. */
export function update(parent, ...children) {
  morphChildren(parent, fill(document.createElement("div"), {}, children));
}

function morphChildren(parent, source) {
  const keyed = new Map();
  for (const child of parent.childNodes) {
    if (keyOf(child)) keyed.set(keyOf(child), child);
  }
  let place = parent.firstChild;
  for (const wanted of [...source.childNodes]) {
    const key = keyOf(wanted);
    let present = key ? keyed.get(key) : place && !keyOf(place) ? place : null;
    if (present && !isAlike(present, wanted)) present = null;
    if (!present) {
      parent.insertBefore(wanted, place);
      continue;
    }
    if (present === place) place = place.nextSibling;
    else parent.insertBefore(present, place);
    morph(present, wanted);
  }
  while (place) {
    const next = place.nextSibling;
    place.remove();
    place = next;
  }
}

function morph(present, wanted) {
  if (present.nodeType === Node.TEXT_NODE) {
    if (present.data !== wanted.data) present.data = wanted.data;
    return;
  }
  for (const { name } of [...present.attributes]) {
    // What a person has opened or closed stays so.
    if (name !== "open" && !wanted.hasAttribute(name)) present.removeAttribute(name);
  }
  for (const { name, value } of wanted.attributes) {
    if (name !== "open" && present.getAttribute(name) !== value) present.setAttribute(name, value);
  }
  morphChildren(present, wanted);
}

function keyOf(node) {
  return node.nodeType === Node.ELEMENT_NODE ? node.getAttribute("data-key") : null;
}

function isAlike(one, other) {
  return one.nodeName === other.nodeName && one.namespaceURI === other.namespaceURI;
}
