// SPDX-License-Identifier: Apache-2.0
// The hour of the cluster: what came over the stream, by its time, and the plots of it.
import { count, latency, rate, share } from "./format.js";
import { Chart } from "./chart.js";

const HOUR_S = 3600;
const STEP_S = 5;

export class Plots {
  constructor(place, ranges) {
    this.points = new Map();
    this.chosen = null;
    const told = (moment) => this.charts.forEach((chart) => chart.mark(moment));
    const of = (name) => (point) => point[name];
    this.charts = [
      new Chart("Throughput", [{ name: "get", of: of("get_bytes") }, { name: "put", of: of("put_bytes") }], "size", rate, told),
      new Chart("Hit ratio of gets", [{ name: "hits", of: of("hit_ratio") }], "ratio", share, told),
      new Chart("Latency of gets", [{ name: "p50", of: of("get_p50") }, { name: "p99", of: of("get_p99") }], "latency", latency, told),
      new Chart("Latency of puts", [{ name: "p50", of: of("put_p50") }, { name: "p99", of: of("put_p99") }], "latency", latency, told),
      new Chart("Keys per second", [{ name: "get", of: of("get_keys") }, { name: "put", of: of("put_keys") }], "count", count, told),
      new Chart("Evicted", [{ name: "live bytes given up", of: of("evicted_bytes") }], "size", rate, told),
    ];
    place.append(...this.charts.map((chart) => chart.element));
    this.buttons = [...ranges.querySelectorAll("button")];
    for (const button of this.buttons) {
      button.addEventListener("click", () => {
        this.chosen = Number(button.dataset.seconds);
        this.draw(this.nodesUp);
      });
    }
  }

  /** Of two points of one time the one of more nodes stays: a node that was started anew has forgotten its part. */
  take(points) {
    for (const point of points) {
      const known = this.points.get(point.t);
      if (known === undefined || known.nodes <= point.nodes) this.points.set(point.t, point);
    }
    const newest = Math.max(...this.points.keys());
    for (const at of this.points.keys()) if (at <= newest - HOUR_S) this.points.delete(at);
  }

  /** The points that are whole: the newest may still lack a node that answers every few seconds. */
  whole(nodesUp) {
    const points = [...this.points.values()].sort((one, other) => one.t - other.t);
    const newest = points.at(-1)?.t ?? 0;
    return points.filter((point) => point.nodes >= nodesUp || point.t < newest - 2 * STEP_S);
  }

  draw(nodesUp) {
    this.nodesUp = nodesUp;
    const points = this.whole(nodesUp);
    const to = points.at(-1)?.t ?? Math.floor(Date.now() / 1000);
    const known = points.length ? to - points[0].t : 0;
    const range = this.chosen ?? [300, 900, HOUR_S].find((seconds) => known <= seconds) ?? HOUR_S;
    for (const button of this.buttons) button.setAttribute("aria-pressed", String(Number(button.dataset.seconds) === range));
    const shown = points.filter((point) => point.t >= to - range);
    for (const chart of this.charts) chart.update(shown, to - range, to);
    return points;
  }
}
