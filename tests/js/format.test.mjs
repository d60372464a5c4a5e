import assert from "node:assert/strict";
import { test } from "node:test";

import {
  formatBytes, formatChange, formatCount, formatDuration, formatPrice,
} from "../../pushd/static/format.js";

const TABLE = [
  [formatPrice, 1204.5, "1,204.50"],
  [formatCount, 1204500, "1,204,500"],
  [formatChange, 1.2, "+1.20\u202f%"],
  [formatChange, -0.5, "\u22120.50\u202f%"],
  [formatChange, 0, "0.00\u202f%"],
  [formatBytes, 999, "999 B"],
  [formatBytes, 1234, "1.2 kB"],
  [formatBytes, 3_456_789, "3.46 MB"],
  [formatDuration, -1, "0 s"],
  [formatDuration, 59_999, "59 s"],
  [formatDuration, 125_000, "2 min 05 s"],
  [formatDuration, 3_720_000, "1 h 02 min"],
];

for (const [format, value, text] of TABLE) {
  test(`${format.name}(${value}) is ${text}`, () => assert.equal(format(value), text));
}
