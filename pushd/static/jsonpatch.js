/**
 * Applies JSON patches (RFC 6902) to decoded JSON documents.
 *
 * A document is never changed: what a patch touches is copied on the way down,
 * everything else is shared with the old document. So a patch that fails
 * leaves nothing half done (section 5), and what did not change is still the
 * same object.
 */

/** @typedef {null | boolean | number | string | Json[] | {[key: string]: Json}} Json */
/** @typedef {{op: string, path: string, from?: string, value?: Json}} Operation */

/** A patch that does not fit its document, or is none. */
export class PatchError extends Error {}

/**
 * The document after the operations, in order.
 *
 * @param {Json} document
 * @param {Operation[]} operations
 * @returns {Json}
 * @throws {PatchError}
 */
export function applyPatch(document, operations) {
  if (!Array.isArray(operations)) {
    throw new PatchError("a patch is a list of operations");
  }
  return operations.reduce(applyOperation, document);
}

function applyOperation(document, operation) {
  const path = tokens(operation.path);
  switch (operation.op) {
    case "add":
      return add(document, path, given(operation));
    case "remove":
      return remove(document, path);
    case "replace":
      return replace(document, path, given(operation));
    case "move":
      return move(document, tokens(operation.from), path);
    case "copy":
      return add(document, path, find(document, tokens(operation.from)));
    case "test":
      if (!equal(find(document, path), given(operation))) {
        throw new PatchError(`test of "${operation.path}" failed`);
      }
      return document;
    default:
      throw new PatchError(`unknown operation ${JSON.stringify(operation.op)}`);
  }
}

function given(operation) {
  if (!Object.hasOwn(operation, "value")) {
    throw new PatchError(`"${operation.op}" needs a value`);
  }
  return operation.value;
}

function add(document, path, value) {
  if (path.length === 0) {
    return value;
  }
  return changed(document, path, (parent, token) => {
    if (Array.isArray(parent)) {
      const at = index(token, parent.length, true);
      return [...parent.slice(0, at), value, ...parent.slice(at)];
    }
    return { ...parent, [token]: value };
  });
}

function remove(document, path) {
  if (path.length === 0) {
    throw new PatchError("nothing would be left of the document");
  }
  return changed(document, path, (parent, token) => {
    child(parent, token);
    if (Array.isArray(parent)) {
      return parent.filter((_, n) => n !== Number(token));
    }
    const { [token]: _, ...rest } = parent;
    return rest;
  });
}

function replace(document, path, value) {
  if (path.length === 0) {
    return value;
  }
  return changed(document, path, (parent, token) => {
    child(parent, token);
    return put(parent, token, value);
  });
}

function move(document, from, path) {
  if (from.length < path.length && from.every((token, n) => token === path[n])) {
    throw new PatchError("a value cannot be moved into itself"); // section 4.4
  }
  const value = find(document, from);
  // A document moved onto itself is already there, and cannot be removed first.
  return path.length === 0 ? value : add(remove(document, from), path, value);
}

/**
 * The document with the parent of the value at `path` exchanged for what
 * `change(parent, lastToken)` makes of it.
 */
function changed(document, path, change) {
  const [token, ...rest] = path;
  if (rest.length === 0) {
    container(document, token);
    return change(document, token);
  }
  return put(document, token, changed(child(document, token), rest, change));
}

/** A copy of an array or object with another value where there is one already. */
function put(parent, token, value) {
  if (Array.isArray(parent)) {
    const copy = [...parent];
    copy[Number(token)] = value;
    return copy;
  }
  // A computed key in a literal is always a key, even "__proto__".
  return { ...parent, [token]: value };
}

function find(document, path) {
  return path.reduce(child, document);
}

function child(parent, token) {
  container(parent, token);
  if (Array.isArray(parent)) {
    return parent[index(token, parent.length - 1, false)];
  }
  if (!Object.hasOwn(parent, token)) {
    throw new PatchError(`there is no "${token}"`);
  }
  return parent[token];
}

function container(value, token) {
  if (value === null || typeof value !== "object") {
    throw new PatchError(`there is no "${token}" in ${JSON.stringify(value)}`);
  }
}

/** An array index as RFC 6901, section 4 writes it; "-" is the place behind the last. */
function index(token, greatest, dash) {
  if (dash && token === "-") {
    return greatest;
  }
  if (!/^(0|[1-9][0-9]*)$/.test(token) || Number(token) > greatest) {
    throw new PatchError(`there is no index "${token}"`);
  }
  return Number(token);
}

/** A JSON pointer's reference tokens, unescaped (RFC 6901, section 4). */
function tokens(pointer) {
  if (typeof pointer !== "string" || (pointer !== "" && !pointer.startsWith("/"))) {
    throw new PatchError(`${JSON.stringify(pointer)} is no JSON pointer`);
  }
  if (/~(?![01])/.test(pointer)) {
    throw new PatchError(`"~" stands alone in ${JSON.stringify(pointer)}`);
  }
  // ~1 first: "~01" is "~1", not "/".
  return pointer
    .split("/")
    .slice(1)
    .map((token) => token.replaceAll("~1", "/").replaceAll("~0", "~"));
}

/** Equality of JSON values (RFC 6902, section 4.6). */
function equal(one, other) {
  if (one === other) {
    return true;
  }
  if (one === null || other === null || typeof one !== "object" || typeof other !== "object") {
    return false;
  }
  const keys = Object.keys(one);
  return (
    Array.isArray(one) === Array.isArray(other) &&
    keys.length === Object.keys(other).length &&
    keys.every((key) => Object.hasOwn(other, key) && equal(one[key], other[key]))
  );
}
