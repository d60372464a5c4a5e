// Applies patches from standard input: [[document, operations], ...] -> [document, ...]

import { readFileSync } from "node:fs";

import { applyPatch } from "../../pushd/static/jsonpatch.js";

const cases = JSON.parse(readFileSync(0, "utf8"));
console.log(JSON.stringify(cases.map(([document, operations]) => applyPatch(document, operations))));
