// SPDX-License-Identifier: Apache-2.0
// The line on top, and the numbers of this moment.
import { count, latency, rate, share, size } from "./format.js";
import { h } from "./dom.js";
import { meter, pill } from "./nodes.js";

export function summary(state) {
  const up = state.nodes.filter((node) => node.status !== "down").length;
  const versions = state.versions.map((each) => `v${each}`).join(", ");
  return [
    pill(state.health),
    h("span", { class: "nodes-up" }, `${up} of ${state.nodes.length} ${state.nodes.length === 1 ? "node" : "nodes"} up`),
    h("span", { class: state.versions.length > 1 ? "tag warn" : "quiet" }, versions),
  ];
}

const tile = (id, name, value, under, more) =>
  h("div", { class: "card tile", id: `tile-${id}` }, h("h3", {}, name), h("div", { class: "value" }, value), h("div", { class: "under" }, under), more);

export function tiles(state, last) {
  const { storage } = state;
  const used = storage.used_bytes ?? 0;
  const whole = storage.capacity_bytes ?? 0;
  return [
    tile("hits", "Hit ratio", share(last?.hit_ratio), `${count(last?.get_keys)} keys/s asked for`),
    tile("get", "Read", rate(last?.get_bytes), `${count(last?.lookup_keys)} keys/s looked up`),
    tile("put", "Written", rate(last?.put_bytes), `${count(last?.put_keys)} keys/s stored`),
    tile("latency", "Get p99", latency(last?.get_p99), `p50 ${latency(last?.get_p50)} · put p99 ${latency(last?.put_p99)}`),
    tile("used", "Used", whole ? share(used / whole) : "–", `${size(used)} of ${size(whole)}`, meter(used, whole, "used")),
    tile("sessions", "Sessions", count(state.sessions), `${count(state.namespace_count)} namespaces · ${count(storage.records)} records`),
  ];
}
