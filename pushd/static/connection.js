/**
 * One topic's stream, for as long as the page wants it.
 *
 * EventSource reconnects by itself as long as the server can be reached. Where
 * it gives up for good (any answer but an event stream, a connection refused
 * in Firefox), a new one is made here, which resumes by `?lastEventId=`, as no
 * page can set the header.
 */

/** @typedef {"connecting" | "live" | "reconnecting" | "closed"} State */
/** @typedef {{type: string, data: string, id: string | null}} StreamEvent `id` null: it had none */
/**
 * @typedef {object} Listener
 * @property {(state: State) => void} onState
 * @property {(event: StreamEvent) => void} onEvent
 */

const TYPES = ["snapshot", "patch", "status"];
const CLOSED = 2; // EventSource.CLOSED
const RETRY = 3000;
const RETRY_SPREAD = 2000; // pages that lost a server together do not come back together

const browser = {
  open: (url) => new EventSource(url),
  later: (call, delay) => setTimeout(call, delay),
  cancel: (timer) => clearTimeout(timer),
};

export class Connection {
  /** @type {State} */
  state = "closed";
  /** Where the stream would resume; null: at the beginning. */
  lastEventId = null;

  #path;
  #listener;
  #environment;
  #source = null;
  #timer = null;

  /**
   * @param {string} path
   * @param {Listener} listener
   * @param {typeof browser} environment
   */
  constructor(path, listener, environment = browser) {
    this.#path = path;
    this.#listener = listener;
    this.#environment = environment;
  }

  /** Begin, or go on after the last event. */
  connect() {
    this.#become("connecting");
    this.#open();
  }

  /** Stop. */
  disconnect() {
    this.#drop();
    this.#become("closed");
  }

  /** Forget what came: the stream begins again, with a snapshot. */
  restart() {
    this.lastEventId = null;
    this.#drop();
    this.#become("reconnecting");
    this.#open();
  }

  #open() {
    const query =
      this.lastEventId === null ? "" : `?lastEventId=${encodeURIComponent(this.lastEventId)}`;
    const source = this.#environment.open(this.#path + query);
    this.#source = source;
    const on = (type, call) =>
      source.addEventListener(type, (event) => {
        // What the browser had queued before this one was closed comes too late.
        if (source === this.#source) {
          call(event);
        }
      });
    on("open", () => this.#become("live"));
    on("error", () => this.#failed());
    TYPES.forEach((type) => on(type, (event) => this.#received(event)));
  }

  #drop() {
    this.#environment.cancel(this.#timer);
    this.#source?.close();
    this.#source = null;
  }

  #failed() {
    if (this.state === "live") {
      this.#become("reconnecting");
    }
    if (this.#source.readyState === CLOSED) {
      const delay = RETRY + Math.random() * RETRY_SPREAD;
      this.#timer = this.#environment.later(() => this.#open(), delay);
    }
  }

  #received(event) {
    // An event without an id field carries the last one's; "" is none at all.
    const isNew = event.lastEventId !== "" && event.lastEventId !== this.lastEventId;
    if (isNew) {
      this.lastEventId = event.lastEventId;
    }
    this.#listener.onEvent({
      type: event.type,
      data: event.data,
      id: isNew ? event.lastEventId : null,
    });
  }

  #become(state) {
    this.state = state;
    this.#listener.onState(state);
  }
}
