/**
 * What a stream costs, and what polling would have cost: bytes of HTTP/1.1,
 * both directions, uncompressed, without TLS and TCP.
 *
 * A page cannot see its own connection. The bytes of the events are
 * reconstructed from what they said; headers are written as a browser and
 * pushd write them.
 */

const encoder = new TextEncoder();

/** How many bytes a text has in UTF-8. */
export function byteLength(text) {
  return encoder.encode(text).length;
}

/**
 * An event as it was on the wire.
 *
 * @param {import("./connection.js").StreamEvent} event
 */
export function sseBlock({ type, data, id }) {
  const lines = [`event: ${type}`, ...data.split("\n").map((line) => `data: ${line}`)];
  if (id !== null) {
    lines.push(`id: ${id}`);
  }
  return `${lines.join("\n")}\n\n`;
}

/** The bytes of one chunk (RFC 9112, section 7.1) with so many bytes in it. */
export function chunkLength(length) {
  return length.toString(16).length + 2 + length + 2;
}

/** What a page at `origin` sends to GET `path`. */
function requestHead(path, origin, agent, fields) {
  return [
    `GET ${path} HTTP/1.1`,
    `Host: ${new URL(origin).host}`,
    "Connection: keep-alive",
    `User-Agent: ${agent}`,
    "Sec-Fetch-Site: same-origin",
    "Sec-Fetch-Mode: cors",
    "Sec-Fetch-Dest: empty",
    `Referer: ${origin}/`,
    "Accept-Encoding: gzip, deflate, br",
    "Accept-Language: en-GB,en;q=0.9",
    ...fields,
    "\r\n",
  ].join("\r\n");
}

function responseHead(status, fields) {
  return [
    `HTTP/1.1 ${status}`,
    "Server: TwistedWeb/26.10.0",
    "Date: Thu, 01 Jan 1970 00:00:00 GMT",
    "Cache-Control: no-cache",
    ...fields,
    "\r\n",
  ].join("\r\n");
}

/**
 * The bytes of headers that are sent once for a stream and once for each poll.
 *
 * @param {string} origin
 * @param {string} agent the browser's User-Agent
 */
export function headLengths(origin, agent) {
  const etag = 'ETag: "0123456789abcdef"';
  const ask = requestHead("/stocks", origin, agent, [
    "Accept: */*",
    'If-None-Match: "0123456789abcdef"',
  ]);
  return {
    stream: byteLength(
      requestHead("/topics/stocks", origin, agent, ["Accept: text/event-stream"]) +
        responseHead("200 OK", [
          "Content-Type: text/event-stream",
          "X-Accel-Buffering: no",
          "Transfer-Encoding: chunked",
        ]) +
        "retry: 3000\n",
    ),
    poll: byteLength(
      ask +
        responseHead("200 OK", ["Content-Type: application/json", "Content-Length: 1000", etag]),
    ),
    unchangedPoll: byteLength(ask + responseHead("304 Not Modified", [etag])),
  };
}

/** Milliseconds during which something was on. */
export class Stopwatch {
  #before = 0;
  #since = null;

  start(now) {
    this.#since ??= now;
  }

  stop(now) {
    this.#before = this.at(now);
    this.#since = null;
  }

  at(now) {
    return this.#before + (this.#since === null ? 0 : now - this.#since);
  }
}

/**
 * What a page would have transferred that polled all the while, conditionally:
 * a poll costs the whole document if something had changed since the poll
 * before, and otherwise a 304.
 */
export class PollEstimate {
  #interval;
  #heads;
  #slot = -1;
  #documents = 0;
  #changed = 0;

  /**
   * @param {number} interval milliseconds
   * @param {{poll: number, unchangedPoll: number}} heads
   */
  constructor(interval, heads) {
    this.#interval = interval;
    this.#heads = heads;
  }

  /** The document changed, `at` milliseconds into the polling, and has so many bytes now. */
  documentChanged(at, length) {
    const slot = Math.floor(at / this.#interval);
    if (slot !== this.#slot) {
      this.#slot = slot;
      this.#changed += 1;
      this.#documents += length;
    }
  }

  /** How many polls there would have been: one at once, then one an interval. */
  polls(at) {
    return Math.floor(at / this.#interval) + 1;
  }

  bytes(at) {
    const unchanged = this.polls(at) - this.#changed;
    return (
      this.#documents +
      this.#changed * this.#heads.poll +
      Math.max(0, unchanged) * this.#heads.unchangedPoll
    );
  }
}
