// SPDX-License-Identifier: Apache-2.0
// Capacity, namespaces, clients, problems.
import { clock, count, NONE, share, size, span } from "./format.js";
import { h } from "./dom.js";
import { meter } from "./nodes.js";

/** On a phone each row is a block of its own, in which `label` says what a value is. */
const cell = (label, value, kind) => h("td", { "data-label": label, class: kind }, value);

function table(heads, rows, nothing) {
  if (!rows.length) return h("p", { class: "quiet" }, nothing);
  const head = heads.map(([name, kind]) => h("th", { scope: "col", class: kind }, name));
  return h("table", {}, h("thead", {}, h("tr", {}, head)), h("tbody", {}, rows));
}

export function capacity(state) {
  const { storage, eviction } = state;
  const used = storage.used_bytes ?? 0;
  const live = storage.live_bytes ?? 0;
  const whole = storage.capacity_bytes ?? 0;
  const rows = [
    ["capacity: oldest segment first", "evicted_records", eviction.evicted_bytes, eviction.evicted_segments],
    ["TTL of a namespace", "expired_records"],
    ["quota of a namespace", "over_quota_records"],
    ["damaged or unreadable", "corrupt_records"],
  ];
  const told = rows.map(([name, field, bytes, segments]) =>
    h("tr", {},
      cell("cause", name),
      cell("records", count((eviction[field] ?? 0) + (field === "corrupt_records" ? (eviction.unreadable_records ?? 0) : 0)), "number"),
      cell("bytes", bytes == null ? NONE : size(bytes), "number"),
      cell("segments", segments == null ? NONE : count(segments), "number"),
    ),
  );
  const kept = `${count(eviction.reinserted_records ?? 0)} records (${size(eviction.reinserted_bytes ?? 0)}) had been read and were copied forward`;
  const age = eviction.median_age_seconds == null ? "nothing has been evicted for capacity yet" : `a block that nobody reads stays ${span(eviction.median_age_seconds)} (median)`;
  return [
    h("p", { class: "amounts" }, h("b", {}, size(used)), ` used of ${size(whole)}`, h("span", { class: "quiet" }, ` · ${size(live)} live in ${count(storage.records ?? 0)} records`)),
    h("div", { class: "stack" }, meter(used, whole, "capacity used")),
    table([["What made room since the start"], ["records", "number"], ["bytes", "number"], ["segments", "number"]], told, ""),
    h("p", { class: "quiet" }, `${age}; ${kept}.`),
  ];
}

/** The identity as it was presented: a name for people, and all of it on demand. */
function identity(row) {
  const digest = row.identity_digest ?? "";
  if (!row.identity) return h("span", { class: "quiet" }, /[1-9a-f]/.test(digest) ? `digest ${digest.slice(0, 12)}` : "none presented");
  let said;
  try {
    said = JSON.parse(row.identity);
  } catch {
    return row.identity;
  }
  const plain = Object.entries(said).filter(([, value]) => ["string", "number", "boolean"].includes(typeof value));
  const first = said.model ?? said.model_name ?? said.model_path ?? plain[0]?.[1] ?? "identity";
  return h("details", {}, h("summary", {}, String(first)), h("pre", {}, JSON.stringify(said, null, 1)));
}

export function namespaces(state) {
  const largest = Math.max(1, ...state.namespaces.map((row) => row.bytes));
  const rows = state.namespaces.map((row) => {
    const asked = row.hits + row.misses;
    const bounds = [row.quota_bytes ? `${size(row.quota_bytes)}` : null, row.ttl_seconds ? span(row.ttl_seconds) : null];
    return h("tr", { "data-key": row.name },
      cell("namespace", h("span", { class: "name" }, row.name)),
      cell("identity", identity(row)),
      cell("records", count(row.records), "number"),
      cell("bytes", size(row.bytes), "number"),
      cell("share", meter(row.bytes, row.quota_bytes || largest, "usage"), "wide"),
      cell("hit ratio", asked ? share(row.hits / asked) : NONE, "number"),
      cell("hits", count(row.hits), "number"),
      cell("misses", count(row.misses), "number"),
      cell("quota · TTL", bounds.filter(Boolean).join(" · ") || NONE, "number"),
    );
  });
  const more = state.namespace_count - rows.length;
  return [
    table([["namespace"], ["identity"], ["records", "number"], ["bytes", "number"], ["", "wide"], ["hit ratio", "number"], ["hits", "number"], ["misses", "number"], ["quota · TTL", "number"]], rows, "No namespace yet: the first client makes one."),
    more > 0 ? h("p", { class: "quiet" }, `and ${more} smaller ones`) : null,
  ];
}

export function clients(state) {
  const rows = state.clients.map((row) => {
    const [release, ...where] = row.client.split(" ");
    return h("tr", { "data-key": `${row.client} ${row.namespace} ${row.transport}` },
      cell("client", h("span", { class: "name" }, where.join(" ") || release)),
      cell("release", where.length ? release : NONE),
      cell("namespace", h("span", { class: "name" }, row.namespace)),
      cell("transport", row.transport),
      cell("connections", count(row.connections), "number"),
      cell("last seen", row.idle_seconds < 2 ? "now" : `${span(row.idle_seconds)} ago`, "number"),
    );
  });
  return table([["client"], ["release"], ["namespace"], ["transport"], ["connections", "number"], ["last seen", "number"]], rows, "No client is connected.");
}

/** What stands in backquotes is to be typed. */
const withCode = (text) => text.split("`").map((part, index) => (index % 2 ? h("code", {}, part) : part));

export function problems(state) {
  if (!state.problems.length) return h("p", { class: "quiet" }, "None since the nodes were started.");
  return h("ul", { class: "problems" }, state.problems.map((each) =>
    h("li", { "data-key": `${each.node} ${each.event} ${each.cause} ${each.since}` },
      h("div", { class: "problem-head" },
        h("span", { class: `dot-state ${each.level === "warning" ? "warn" : "bad"}` }),
        h("time", {}, state.at - each.at < 86400 ? clock(each.at, true) : `${span(state.at - each.at)} ago`),
        h("span", { class: "quiet" }, each.node),
        each.event ? h("code", {}, each.event) : null,
        each.count > 1 ? h("span", { class: "tag" }, `${count(each.count)} times`) : null,
      ),
      h("p", {}, each.text),
      h("p", { class: "remedy" }, withCode(each.remedy)),
    ),
  ));
}
