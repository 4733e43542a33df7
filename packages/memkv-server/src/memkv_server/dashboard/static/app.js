// SPDX-License-Identifier: Apache-2.0
// The page: a stream of what the cluster does, drawn whenever something comes.
import { span } from "./format.js";
import { show } from "./dom.js";
import { nodeCards } from "./nodes.js";
import { Plots } from "./plots.js";
import { Stream } from "./stream.js";
import { capacity, clients, namespaces, problems } from "./tables.js";
import { summary, tiles } from "./tiles.js";

const at = (id) => document.getElementById(id);
const plots = new Plots(at("plots"), at("ranges"));

function drawState(state) {
  const up = state.nodes.filter((node) => node.status !== "down").length;
  const points = plots.draw(up);
  show(at("summary"), summary(state));
  show(at("tiles"), tiles(state, points.at(-1)));
  show(at("nodes"), nodeCards(state));
  show(at("capacity"), capacity(state));
  show(at("problems"), problems(state));
  show(at("namespaces"), namespaces(state));
  show(at("clients"), clients(state));
  document.title = state.health === "healthy" ? "MemKV" : `MemKV: ${state.health}`;
  document.body.dataset.drawn = state.at;
}

function drawConnection(isConnected) {
  const live = at("live");
  live.textContent = isConnected ? "live" : "reconnecting";
  live.className = `live ${isConnected ? "good" : "bad"}`;
  const banner = at("banner");
  const isSilent = !isConnected && stream !== null && lastSaid !== null;
  banner.hidden = !isSilent;
  if (isSilent) banner.textContent = `${location.host} has not answered for ${span((performance.now() - lastSaid) / 1000)}; what is shown is from before. Trying again.`;
}

let lastSaid = null;
let stream = null;
stream = new Stream("/dashboard/events", { points: (points) => plots.take(points), state: (state) => {
  lastSaid = performance.now();
  drawState(state);
} }, drawConnection);

// -- theme ------------------------------------------------------------------------------------------------------------
const THEMES = ["auto", "light", "dark"];

function setTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  localStorage.setItem("memkv-theme", theme);
  at("theme").textContent = `Theme: ${theme}`;
}

setTheme(document.documentElement.dataset.theme ?? "auto");
at("theme").addEventListener("click", () => {
  const now = document.documentElement.dataset.theme ?? "auto";
  setTheme(THEMES[(THEMES.indexOf(now) + 1) % THEMES.length]);
});
