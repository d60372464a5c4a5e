/** The demo's page: the parts, put together. Each part has a module of its own. */

import { Connection } from "./connection.js";
import { formatBytes, formatCount, formatDuration, formatTime } from "./format.js";
import { applyPatch } from "./jsonpatch.js";
import { byteLength, chunkLength, headLengths, PollEstimate, sseBlock, Stopwatch } from "./meter.js";
import { StockTable } from "./table.js";

const TOPIC = "/topics/stocks";
const EVERY = 1000; // the source's interval, and the polling page's
const REFRESH = 500;
const SETTLED = 300; // a document that nobody watched is stale, for the moment until it is polled
const CATCHING_UP = 600; // after a reconnection, what comes this soon had been missed

const STATES = {
  connecting: "Connecting",
  live: "Live",
  reconnecting: "Reconnecting",
  closed: "Disconnected",
};

const root = document.documentElement;
const byId = (id) => document.getElementById(id);
const tell = (id, text) => {
  const element = byId(id);
  // Written only when it differs: a screen reader would hear it again.
  if (element.textContent !== text) {
    element.textContent = text;
  }
};

const heads = headLengths(location.origin, navigator.userAgent);
const live = new Stopwatch();
const polling = new PollEstimate(EVERY, heads);
const table = new StockTable(byId("stocks"), byId("row"));
const connection = new Connection(TOPIC, { onState: showState, onEvent: take });

let stocks; // the document; undefined before the first snapshot
let streamed = 0;
let stateSince = performance.now();
let lastEventAt = null;
let settling = null; // the timer that will show the source's status
let missed = null; // what came right after a reconnection, see take()
const counted = { events: 0, snapshot: 0, patch: 0, status: 0 };

function showState(state) {
  const now = performance.now();
  if (state !== root.dataset.state) {
    stateSince = now;
  }
  root.dataset.state = state;
  tell("state", STATES[state]);
  tell("toggle", state === "closed" ? "Reconnect" : "Disconnect");
  if (state === "live") {
    opened(now);
  } else {
    live.stop(now);
  }
  showTimes();
}

function opened(now) {
  live.start(now);
  streamed += heads.stream;
  // A client that joins is told the source's status only while that is not ok.
  heardStatus({ state: "ok" });
  const after = connection.lastEventId;
  missed = after === null ? null : { after, until: now + CATCHING_UP, snapshot: 0, patch: 0 };
}

function take(event) {
  const now = performance.now();
  count(event);
  if (event.type === "status") {
    heardStatus(JSON.parse(event.data));
  } else if (change(event)) {
    table.show(stocks);
    polling.documentChanged(live.at(now), byteLength(JSON.stringify({ stocks })));
    tell("count", `${stocks.length} stocks`);
  }
  if (missed !== null && now < missed.until && event.type in missed) {
    missed[event.type] += 1;
    showResumption(missed);
  }
  lastEventAt = now;
  showTimes();
}

/** Make the document what the event says. Answers whether that went well. */
function change(event) {
  try {
    const data = JSON.parse(event.data);
    stocks = event.type === "snapshot" ? data : applyPatch(stocks, data);
    return true;
  } catch (error) {
    console.warn("a change does not fit; beginning again with a snapshot", error);
    connection.restart();
    return false;
  }
}

function count(event) {
  const block = sseBlock(event);
  streamed += chunkLength(byteLength(block));
  counted.events += 1;
  counted[event.type] += 1;
  tell("events", formatCount(counted.events));
  tell("snapshots", formatCount(counted.snapshot));
  tell("patches", formatCount(counted.patch));
  tell("last-id", connection.lastEventId ?? "none");
  showBlock(block.trimEnd());
  showResumeCommand();
}

/** A block's text, which may be broken behind a comma. */
function showBlock(text) {
  const parts = text.split(/(?<=,)/);
  byId("block").replaceChildren(
    ...parts.flatMap((part) => [part, document.createElement("wbr")]),
  );
}

/** Of the statuses that come at once, the last is the one to show. */
function heardStatus(status) {
  clearTimeout(settling);
  settling = setTimeout(showSource, SETTLED, status);
}

function showSource({ state, since, reason }) {
  root.dataset.source = state;
  byId("source").hidden = state === "ok";
  const what = state === "stale" ? "Stale" : "Source failing";
  tell("source-since", state === "ok" ? "" : `${what} since ${formatTime(since)}`);
  const told = [reason, stocks && "These are the last known prices."];
  tell("source-reason", state === "ok" ? "" : told.filter(Boolean).join(" "));
}

function showResumption({ after, snapshot, patch }) {
  const what = snapshot
    ? "with a snapshot in place of what was missed"
    : `with ${patch === 1 ? "1 patch" : `${patch} patches`}`;
  tell("resumed", `Resumed after ${after} ${what}.`);
}

function showTimes() {
  const now = performance.now();
  const liveFor = live.at(now);
  tell("state-for", `for ${formatDuration(now - stateSince)}`);
  tell("live-for", `${formatDuration(liveFor)} live`);
  if (lastEventAt !== null) {
    const ago = now - lastEventAt;
    tell("last-ago", ago < 1000 ? "last event just now" : `last event ${formatDuration(ago)} ago`);
    showTraffic(liveFor);
  }
}

function showTraffic(liveFor) {
  const polled = polling.bytes(liveFor);
  const most = Math.max(polled, streamed);
  tell("bytes-streamed", formatBytes(streamed));
  tell("bytes-polled", formatBytes(polled));
  tell("polls", `${formatCount(polling.polls(liveFor))} polls`);
  tell("saving", `${Math.max(0, Math.round((1 - streamed / polled) * 100))}\u202f%`);
  byId("bar-streamed").style.width = `${(streamed / most) * 100}%`;
  byId("bar-polled").style.width = `${(polled / most) * 100}%`;
}

function showCommands() {
  const url = location.origin + TOPIC;
  tell("curl-follow", `curl -N ${url}`);
  tell("curl-document", `curl -H 'Accept: application/json' ${url}`);
  showResumeCommand();
}

function showResumeCommand() {
  const code = byId("curl-resume");
  const selection = getSelection();
  // Whoever is selecting the command keeps the one that they see.
  if (selection.isCollapsed || !selection.containsNode(code, true)) {
    const id = connection.lastEventId ?? "ID";
    tell("curl-resume", `curl -N -H 'Last-Event-ID: ${id}' ${location.origin}${TOPIC}`);
  }
}

async function copy(button) {
  const code = byId(button.dataset.copies);
  try {
    await navigator.clipboard.writeText(code.textContent);
  } catch {
    getSelection().selectAllChildren(code); // not allowed here: one key less, at least
    return;
  }
  button.textContent = "Copied";
  setTimeout(() => {
    button.textContent = "Copy";
  }, 1500);
}

byId("toggle").addEventListener("click", () => {
  if (connection.state === "closed") {
    connection.connect();
  } else {
    connection.disconnect();
  }
});

for (const button of document.querySelectorAll(".copy")) {
  button.hidden = !navigator.clipboard; // there is none on plain HTTP, but for localhost
  button.addEventListener("click", () => copy(button));
}

showCommands();
connection.connect();
setInterval(showTimes, REFRESH);
