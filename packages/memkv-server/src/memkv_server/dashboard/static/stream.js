// SPDX-License-Identifier: Apache-2.0
// The node's server-sent events, begun anew whenever they end: the node may be restarted, frozen, or gone for a while.
const AGAIN_MS = 1500;
const SILENT_MS = 12000; // the node says something every two seconds

export class Stream {
  /** `handlers` are by the event's name; `onState` is told connected or not. */
  constructor(path, handlers, onState) {
    this.path = path;
    this.handlers = handlers;
    this.onState = onState;
    this.heard = performance.now();
    this.open();
    setInterval(() => this.check(), 1000);
    // Back from a sleep or a hidden tab: do not wait for the check.
    document.addEventListener("visibilitychange", () => document.hidden || this.check());
  }

  /** Milliseconds since anything came. */
  get silence() {
    return performance.now() - this.heard;
  }

  open() {
    this.source?.close();
    this.source = new EventSource(this.path);
    for (const [name, handler] of Object.entries(this.handlers)) {
      this.source.addEventListener(name, (event) => {
        this.heard = performance.now();
        handler(JSON.parse(event.data));
        this.onState(true);
      });
    }
    this.source.addEventListener("error", () => {
      this.onState(false);
      if (this.source.readyState === EventSource.CLOSED) setTimeout(() => this.again(), AGAIN_MS);
    });
  }

  check() {
    if (this.silence < SILENT_MS) return;
    this.onState(false);
    this.heard = performance.now() - SILENT_MS + 3000; // try every three seconds
    this.open();
  }

  /** An answer that is no stream: the session is over, or the node is not ready for one. */
  async again() {
    try {
      const answer = await fetch("/", { redirect: "manual", cache: "no-store" });
      if (answer.type === "opaqueredirect") {
        location.assign("/login");
        return;
      }
    } catch {
      // No node there: the next attempt will tell.
    }
    this.open();
  }
}
