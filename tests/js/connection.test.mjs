import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";

import { Connection } from "../../pushd/static/connection.js";

const CONNECTING = 0;
const OPEN = 1;
const CLOSED = 2;

/** As much of an EventSource as a connection sees; the test is its server. */
class Source extends EventTarget {
  readyState = CONNECTING;

  constructor(url) {
    super();
    this.url = url;
  }

  close() {
    this.readyState = CLOSED;
  }

  opens() {
    this.readyState = OPEN;
    this.dispatchEvent(new Event("open"));
  }

  fails(readyState) {
    this.readyState = readyState;
    this.dispatchEvent(new Event("error"));
  }

  sends(type, data, lastEventId) {
    this.dispatchEvent(Object.assign(new Event(type), { data, lastEventId }));
  }
}

let sources, timers, states, events, connection;
const latest = () => sources.at(-1);

beforeEach(() => {
  [sources, timers, states, events] = [[], new Map(), [], []];
  connection = new Connection(
    "/topics/stocks",
    { onState: (state) => states.push(state), onEvent: (event) => events.push(event) },
    {
      open: (url) => sources[sources.push(new Source(url)) - 1],
      later: (call, delay) => {
        const timer = timers.size + 1;
        timers.set(timer, { call, delay });
        return timer;
      },
      cancel: (timer) => timers.delete(timer),
    },
  );
  connection.connect();
});

test("a connection is connecting until it is live", () => {
  assert.equal(latest().url, "/topics/stocks");
  latest().opens();
  assert.deepEqual(states, ["connecting", "live"]);
});

test("events come with their type, their data and their id", () => {
  latest().opens();
  latest().sends("snapshot", "[1]", "k-1");
  latest().sends("patch", "[2]", "k-2");
  assert.deepEqual(events, [
    { type: "snapshot", data: "[1]", id: "k-1" },
    { type: "patch", data: "[2]", id: "k-2" },
  ]);
  assert.equal(connection.lastEventId, "k-2");
});

test("an event that has no id of its own does not count as having the last one's", () => {
  latest().sends("status", "{}", "");
  latest().sends("patch", "[]", "k-2");
  latest().sends("status", "{}", "k-2");
  assert.deepEqual(events.map((event) => event.id), [null, "k-2", null]);
});

test("while the browser reconnects it is left to it", () => {
  latest().opens();
  latest().fails(CONNECTING);
  assert.equal(connection.state, "reconnecting");
  assert.deepEqual([sources.length, timers.size], [1, 0]);
  latest().opens();
  assert.equal(connection.state, "live");
});

test("where the browser gives up for good, a new one resumes after some seconds", () => {
  latest().opens();
  latest().sends("patch", "[]", "k-7");
  latest().fails(CLOSED);
  assert.equal(connection.state, "reconnecting");
  const [{ call, delay }] = timers.values();
  assert.ok(delay >= 3000 && delay <= 5000);
  call();
  assert.equal(latest().url, "/topics/stocks?lastEventId=k-7");
  latest().opens();
  assert.equal(connection.state, "live");
});

test("it tries again and again", () => {
  for (const attempt of [1, 2, 3]) {
    latest().fails(CLOSED);
    assert.equal(connection.state, "connecting");
    timers.get(attempt).call();
  }
  assert.equal(sources.length, 4);
});

test("who disconnects is left alone, and resumes where they were", () => {
  latest().sends("patch", "[]", "k-7");
  connection.disconnect();
  assert.equal(connection.state, "closed");
  assert.equal(latest().readyState, CLOSED);
  connection.connect();
  assert.equal(latest().url, "/topics/stocks?lastEventId=k-7");
});

test("who disconnects while a new attempt is due is left alone too", () => {
  latest().fails(CLOSED);
  connection.disconnect();
  assert.equal(timers.size, 0);
});

test("what an old source still had to say is not heard", () => {
  const old = latest();
  connection.disconnect();
  connection.connect();
  old.sends("patch", "[]", "k-8");
  old.opens();
  assert.deepEqual([events, connection.state], [[], "connecting"]);
});

test("a restart begins without an id", () => {
  latest().sends("patch", "[]", "k-7");
  connection.restart();
  assert.equal(latest().url, "/topics/stocks");
  assert.equal(connection.state, "reconnecting");
});
