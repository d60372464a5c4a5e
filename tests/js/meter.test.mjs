import assert from "node:assert/strict";
import { test } from "node:test";

import {
  byteLength, chunkLength, headLengths, PollEstimate, sseBlock, Stopwatch,
} from "../../pushd/static/meter.js";

test("an event's block has its name, its data and its id", () => {
  const block = sseBlock({ type: "patch", data: "[]", id: "k-1" });
  assert.equal(block, "event: patch\ndata: []\nid: k-1\n\n");
});

test("an event without an id has no line for it", () => {
  assert.equal(sseBlock({ type: "status", data: "{}", id: null }), "event: status\ndata: {}\n\n");
});

test("each line of the data is a line of the block", () => {
  assert.match(sseBlock({ type: "x", data: "a\nb", id: null }), /^data: a\ndata: b$/m);
});

test("lengths are those of UTF-8", () => {
  assert.equal(byteLength("aé€😀"), 1 + 2 + 3 + 4);
});

test("a chunk has its length in hexadecimal and two line ends", () => {
  assert.equal(chunkLength(5), "5\r\n12345\r\n".length);
  assert.equal(chunkLength(300), "12c\r\n".length + 300 + 2);
});

test("headers of a stream, a poll and an unchanged poll are some hundred bytes each", () => {
  const heads = headLengths("http://localhost:8080", "Mozilla/5.0");
  for (const length of Object.values(heads)) {
    assert.ok(length > 300 && length < 1200, JSON.stringify(heads));
  }
  assert.ok(heads.unchangedPoll < heads.poll);
});

test("a stopwatch counts only while it runs", () => {
  const watch = new Stopwatch();
  assert.equal(watch.at(5), 0);
  watch.start(10);
  watch.start(12); // it runs already
  assert.equal(watch.at(15), 5);
  watch.stop(20);
  assert.equal(watch.at(99), 10);
  watch.start(100);
  assert.equal(watch.at(101), 11);
});

test("polling costs headers each time, and the document once for each interval with changes", () => {
  const polling = new PollEstimate(1000, { poll: 100, unchangedPoll: 10 });
  polling.documentChanged(0, 5000);
  assert.equal(polling.bytes(0), 5100);
  assert.equal(polling.bytes(3500), 5100 + 3 * 10);
  polling.documentChanged(3500, 6000);
  polling.documentChanged(3900, 7000); // the same poll would have brought both
  assert.equal(polling.polls(3900), 4);
  assert.equal(polling.bytes(3900), 5100 + 2 * 10 + 6100);
});
