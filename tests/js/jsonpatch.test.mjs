// RFC 6902 (patches) and RFC 6901 (pointers), as tables.

import assert from "node:assert/strict";
import { test } from "node:test";

import { applyPatch, PatchError } from "../../pushd/static/jsonpatch.js";

const op = (op, path, rest = {}) => ({ op, path, ...rest });

/** [what it promises, document, operations, result] */
const FITS = [
  ["no operations change nothing", { a: 1 }, [], { a: 1 }],
  ["A.1 adds an object member", { foo: "bar" }, [op("add", "/baz", { value: "qux" })],
    { baz: "qux", foo: "bar" }],
  ["A.2 adds an array element", { foo: ["bar", "baz"] }, [op("add", "/foo/1", { value: "qux" })],
    { foo: ["bar", "qux", "baz"] }],
  ["A.3 removes an object member", { baz: "qux", foo: "bar" }, [op("remove", "/baz")],
    { foo: "bar" }],
  ["A.4 removes an array element", { foo: ["bar", "qux", "baz"] }, [op("remove", "/foo/1")],
    { foo: ["bar", "baz"] }],
  ["A.5 replaces a value", { baz: "qux", foo: "bar" }, [op("replace", "/baz", { value: "boo" })],
    { baz: "boo", foo: "bar" }],
  ["A.6 moves a value", { foo: { bar: "baz", waldo: "fred" }, qux: { corge: "grault" } },
    [op("move", "/qux/thud", { from: "/foo/waldo" })],
    { foo: { bar: "baz" }, qux: { corge: "grault", thud: "fred" } }],
  ["A.7 moves an array element", { foo: ["all", "grass", "cows", "eat"] },
    [op("move", "/foo/3", { from: "/foo/1" })], { foo: ["all", "cows", "eat", "grass"] }],
  ["A.8 tests values", { baz: "qux", foo: ["a", 2, "c"] },
    [op("test", "/baz", { value: "qux" }), op("test", "/foo/1", { value: 2 })],
    { baz: "qux", foo: ["a", 2, "c"] }],
  ["A.10 adds a nested object", { foo: "bar" },
    [op("add", "/child", { value: { grandchild: {} } })], { foo: "bar", child: { grandchild: {} } }],
  ["A.11 ignores unknown members", { foo: "bar" }, [op("add", "/baz", { value: "qux", xyz: 123 })],
    { foo: "bar", baz: "qux" }],
  ["A.14 reads ~01 as ~1", { "/": 9, "~1": 10 }, [op("test", "/~01", { value: 10 })],
    { "/": 9, "~1": 10 }],
  ["A.16 adds an array into an array", { foo: ["bar"] },
    [op("add", "/foo/-", { value: ["abc", "def"] })], { foo: ["bar", ["abc", "def"]] }],
  ["reads ~1 as a slash", { "a/b": 1 }, [op("replace", "/a~1b", { value: 2 })], { "a/b": 2 }],
  ["reads an empty name", { "": 1 }, [op("replace", "/", { value: 2 })], { "": 2 }],
  ["replaces the whole document", { a: 1 }, [op("replace", "", { value: [1] })], [1]],
  ["adds the whole document", null, [op("add", "", { value: { a: 1 } })], { a: 1 }],
  ["copies a part over the whole", { a: { b: 1 } }, [op("copy", "", { from: "/a" })], { b: 1 }],
  ["moves a part over the whole", { a: { b: 1 } }, [op("move", "", { from: "/a" })], { b: 1 }],
  ["moves the whole nowhere", { a: 1 }, [op("move", "", { from: "" })], { a: 1 }],
  ["moves a value nowhere", { a: 1 }, [op("move", "/a", { from: "/a" })], { a: 1 }],
  ["tests the whole document", [1, { a: null }], [op("test", "", { value: [1, { a: null }] })],
    [1, { a: null }]],
  ["adds behind the last by index", [1], [op("add", "/1", { value: 2 })], [1, 2]],
  ["adds to an empty array", [], [op("add", "/-", { value: 1 })], [1]],
  ["moves behind the last", [1, 2, 3], [op("move", "/-", { from: "/0" })], [2, 3, 1]],
  ["copies an array element", [1, 2], [op("copy", "/0", { from: "/1" })], [2, 1, 2]],
  ["replaces an existing member by add", { a: 1 }, [op("add", "/a", { value: 2 })], { a: 2 }],
  ["takes null for a value", { a: 1 }, [op("replace", "/a", { value: null })], { a: null }],
  ["takes digits for a name in an object", { 0: "a" }, [op("replace", "/0", { value: "b" })],
    { 0: "b" }],
  ["compares objects whatever their order", { a: { x: 1, y: 2 } },
    [op("test", "/a", { value: { y: 2, x: 1 } })], { a: { x: 1, y: 2 } }],
  ["applies one operation after another", [],
    [op("add", "/0", { value: "a" }), op("add", "/0", { value: "b" }), op("remove", "/1")], ["b"]],
  ["takes __proto__ for a name like any", JSON.parse('{"__proto__": {"a": 1}}'),
    [op("replace", "/__proto__/a", { value: 2 })], JSON.parse('{"__proto__": {"a": 2}}')],
];

/** [what it refuses, document, operations] */
const FAILS = [
  ["A.9 a test that fails", { baz: "qux" }, [op("test", "/baz", { value: "bar" })]],
  ["A.12 a parent that is not there", { foo: "bar" }, [op("add", "/baz/bat", { value: "qux" })]],
  ["A.15 a string for a number", { "~1": 10 }, [op("test", "/~01", { value: "10" })]],
  ["an unknown operation", {}, [op("merge", "/a", { value: 1 })]],
  ["a patch that is no list", {}, { op: "remove", path: "/a" }],
  ["an operation without a value", { a: 1 }, [op("replace", "/a")]],
  ["an operation without a path", {}, [{ op: "add", value: 1 }]],
  ["a move without an origin", { a: 1 }, [op("move", "/b")]],
  ["a pointer without its slash", { a: 1 }, [op("remove", "a")]],
  ["a ~ that stands alone", { "~": 1 }, [op("remove", "/~")]],
  ["a member that is not there", { a: 1 }, [op("remove", "/b")]],
  ["a replacement of nothing", { a: 1 }, [op("replace", "/b", { value: 1 })]],
  ["what an object inherits", {}, [op("test", "/toString", { value: 1 })]],
  ["what an array inherits", [1], [op("replace", "/length", { value: 0 })]],
  ["an index behind the end", [1], [op("add", "/2", { value: 1 })]],
  ["a removal behind the last", [1], [op("remove", "/1")]],
  ["a removal at the dash", [1], [op("remove", "/-")]],
  ["an index with a leading zero", [1, 2], [op("remove", "/01")]],
  ["a negative index", [1, 2], [op("remove", "/-1")]],
  ["an index that is no number", [1, 2], [op("add", "/x", { value: 1 })]],
  ["a way through a number", { a: 1 }, [op("add", "/a/b", { value: 1 })]],
  ["a way through null", { a: null }, [op("remove", "/a/b")]],
  ["a move into itself", { a: { b: {} } }, [op("move", "/a/b/c", { from: "/a" })]],
  ["a removal of everything", { a: 1 }, [op("remove", "")]],
  ["a test of an array against an object", { a: [] }, [op("test", "/a", { value: {} })]],
  ["a document that is not there yet", undefined, [op("replace", "/0/price", { value: 1 })]],
];

/** Fails on whoever writes to a document. */
function frozen(value) {
  if (value !== null && typeof value === "object") {
    Object.values(value).forEach(frozen);
    Object.freeze(value);
  }
  return value;
}

for (const [name, document, operations, result] of FITS) {
  test(name, () => {
    assert.deepEqual(applyPatch(frozen(document), frozen(operations)), result);
  });
}

for (const [name, document, operations] of FAILS) {
  test(`refuses ${name}`, () => {
    assert.throws(() => applyPatch(frozen(document), operations), PatchError);
  });
}

test("what a patch does not touch is the same object afterwards", () => {
  const document = frozen([{ a: 1 }, { b: 1 }, { c: 1 }]);
  const after = applyPatch(document, [op("remove", "/0"), op("replace", "/1/c", { value: 2 })]);
  assert.equal(after[0], document[1]);
  assert.notEqual(after[1], document[2]);
});

test("a patch that fails in the end leaves the document as it was", () => {
  const document = { a: 1 };
  assert.throws(() => applyPatch(document, [op("remove", "/a"), op("remove", "/a")]), PatchError);
  assert.deepEqual(document, { a: 1 });
});
