// SPDX-License-Identifier: Apache-2.0
// The cluster map: a card for each node, with its lanes, their drives, and its rails.
import { count, latency, rate, share, size, span } from "./format.js";
import { h } from "./dom.js";

const GOOD = new Set(["healthy", "serving", "online", "active"]);
const BAD = new Set(["down", "unhealthy", "offline", "stalled", "not active"]);

/** good, bad or warn: the only colours that mean something. */
export const tone = (state) => (GOOD.has(state) ? "good" : BAD.has(state) ? "bad" : "warn");

export const pill = (state) => h("span", { class: `pill ${tone(state)}` }, state);

const figure = (name, value) => h("div", { class: "figure" }, h("dt", {}, name), h("dd", {}, value));

export function meter(used, capacity, label) {
  const part = capacity ? (100 * used) / capacity : 0;
  return h("div", { class: "meter", role: "meter", "aria-label": label, "aria-valuenow": part.toFixed(0), "aria-valuemin": 0, "aria-valuemax": 100 }, h("i", { "fill%": part }));
}

export function nodeCards(state) {
  return state.nodes.map((node) =>
    h("article", { class: `card node ${node.status === "down" ? "is-down" : ""}`, "data-key": node.name, "data-node": node.name },
      h("div", { class: "node-head" }, h("h3", {}, node.name), node.own ? h("span", { class: "tag" }, "this node") : null, pill(node.status)),
      node.error ? h("p", { class: "reason" }, `${node.error}; silent for ${span(node.silent_seconds)}`) : null,
      !node.error && node.reason ? h("p", { class: "reason" }, node.reason) : null,
      node.version ? about(node) : null,
      node.status !== "down" && node.now ? figures(node) : null,
      h("div", { class: "lanes" }, (node.lanes ?? []).map((lane) => laneBox(lane, node.status === "down"))),
      rails(node),
    ),
  );
}

function about(node) {
  const license = node.license?.expires_at ? `license until ${node.license.expires_at.slice(0, 10)}` : null;
  const parts = [`v${node.version}`, `up ${span(node.uptime_seconds)}`, `${size(node.memory_bytes)} resident`, license];
  return h("p", { class: "about" }, parts.filter(Boolean).join(" · "));
}

function figures(node) {
  const now = node.now;
  return h("dl", { class: "figures" },
    figure("get", rate(now.get_bytes)),
    figure("put", rate(now.put_bytes)),
    figure("hits", share(now.hit_ratio)),
    figure("get p50", latency(now.get_p50)),
    figure("get p99", latency(now.get_p99)),
    figure("connections", count(node.connections)),
  );
}

function laneBox(lane, isDown) {
  const state = isDown ? "down" : lane.state;
  return h("div", { class: "lane", "data-key": `lane-${lane.index}` },
    h("div", { class: "lane-head" },
      h("span", { class: `dot-state ${tone(state)}` }), h("b", {}, `lane ${lane.index}`), h("span", {}, state),
      lane.restarts ? h("span", { class: "tag" }, `${lane.restarts} restarts`) : null,
    ),
    lane.error && state !== "serving" ? h("p", { class: "reason" }, lane.error) : null,
    lane.drives.map((drive) => driveRow(drive, isDown)),
  );
}

function driveRow(drive, isDown) {
  const state = isDown ? "down" : drive.state;
  const errors = (drive.read_errors ?? 0) + (drive.write_errors ?? 0);
  return h("div", { class: "drive" },
    h("div", { class: "drive-head" },
      h("span", { class: `dot-state ${tone(state)}` }),
      h("span", { class: "path", title: drive.path ?? "memory" }, h("bdi", {}, drive.path || "memory")),
      h("span", { class: "amount" }, `${size(drive.used_bytes)} / ${size(drive.capacity_bytes)}`),
    ),
    meter(drive.used_bytes, drive.capacity_bytes, `${drive.path ?? "memory"} used`),
    h("div", { class: "drive-foot" }, [drive.mode, drive.durability, state, errors ? `${errors} errors` : null].filter(Boolean).join(" · ")),
    drive.failure ? h("p", { class: "reason" }, drive.failure) : null,
  );
}

function rails(node) {
  if (!node.rails) return null;
  const told = node.rails.map((rail) => {
    const state = node.status === "down" ? "down" : rail.active ? "active" : "not active";
    return h("span", { class: "rail" }, h("span", { class: `dot-state ${tone(state)}` }), `${rail.device} · ${state} · ${rail.endpoints} endpoints`);
  });
  const transports = {};
  for (const lane of node.lanes ?? []) {
    for (const [name, number] of Object.entries(lane.by_transport)) transports[name] = (transports[name] ?? 0) + number;
  }
  const by = Object.entries(transports).map(([name, number]) => `${number} ${name}`).join(", ");
  return h("div", { class: "rails" },
    h("span", { class: "rails-name" }, "Rails"),
    told.length ? told : h("span", { class: "quiet" }, "no RDMA device: TCP and shared memory"),
    by ? h("span", { class: "quiet" }, `connections: ${by}`) : null,
  );
}

