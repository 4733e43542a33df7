// SPDX-License-Identifier: Apache-2.0
// One plot: lines over time with axes, as SVG. Under the pointer, all plots show the same moment.
import { clock, NONE } from "./format.js";
import { h, show } from "./dom.js";
import { linear, logarithmic, ratio, times } from "./scale.js";

const HEIGHT = 168;
const EDGE = { top: 10, right: 10, bottom: 22, left: 66 };
const GAP_S = 16; // a line is not drawn over a longer silence

export class Chart {
  /** `series` are [{name, of(point)}], at most two; `scale` is size, count, ratio or latency. */
  constructor(title, series, scale, format, onMoment) {
    this.series = series;
    this.scale = scale;
    this.format = format;
    this.points = [];
    this.from = this.to = 0;
    this.moment = null;
    this.legend = h("div", { class: "legend" });
    this.svg = h("svg", { role: "img", "aria-label": `${title} over time`, height: HEIGHT });
    this.element = h("div", { class: "card plot" }, h("div", { class: "plot-head" }, h("h3", {}, title), this.legend), this.svg);
    this.svg.addEventListener("pointermove", (event) => onMoment(this.momentAt(event)));
    this.svg.addEventListener("pointerleave", () => onMoment(null));
    new ResizeObserver(() => this.draw()).observe(this.element);
  }

  update(points, from, to) {
    [this.points, this.from, this.to] = [points, from, to];
    this.draw();
  }

  /** The time of the point nearest to the pointer. */
  momentAt(event) {
    const box = this.svg.getBoundingClientRect();
    const part = (event.clientX - box.left - EDGE.left) / (box.width - EDGE.left - EDGE.right);
    const at = this.from + part * (this.to - this.from);
    let best = null;
    for (const point of this.points) if (best === null || Math.abs(point.t - at) < Math.abs(best - at)) best = point.t;
    return best;
  }

  mark(moment) {
    this.moment = moment;
    this.draw();
  }

  axis() {
    const values = this.points.flatMap((point) => this.series.map((one) => one.of(point))).filter((value) => value != null);
    const max = Math.max(0, ...values);
    if (this.scale === "ratio") return ratio();
    if (this.scale === "latency") {
      const real = values.filter((value) => value > 0);
      return real.length ? logarithmic(Math.min(...real), max) : logarithmic(1e-4, 1e-2);
    }
    return this.scale === "size" ? linear(Math.max(max, 1024), 1024) : linear(Math.max(max, 4));
  }

  draw() {
    const width = this.svg.clientWidth || this.element.clientWidth - 24;
    if (width <= EDGE.left + EDGE.right) return;
    const axis = this.axis();
    const inner = { width: width - EDGE.left - EDGE.right, height: HEIGHT - EDGE.top - EDGE.bottom };
    const x = (at) => EDGE.left + ((at - this.from) / Math.max(1, this.to - this.from)) * inner.width;
    const y = (value) => EDGE.top + (1 - Math.min(1, axis.place(value))) * inner.height;
    const parts = axis.ticks.map((tick) => [
      h("line", { class: "grid", x1: EDGE.left, x2: width - EDGE.right, y1: y(tick), y2: y(tick) }),
      h("text", { class: "tick", x: EDGE.left - 8, y: y(tick) + 4, "text-anchor": "end" }, this.scale === "ratio" ? `${100 * tick} %` : this.format(tick)),
    ]);
    for (const at of times(this.from, this.to, Math.max(2, Math.floor(inner.width / 90)))) {
      parts.push(h("text", { class: "tick", x: x(at), y: HEIGHT - 5, "text-anchor": "middle" }, clock(at)));
    }
    this.series.forEach((one, index) => parts.push(this.lines(one, index, x, y)));
    const shown = this.points.find((point) => point.t === this.moment);
    if (shown) parts.push(this.crosshair(shown, x, y));
    if (!this.points.length) {
      const place = { class: "empty", x: EDGE.left + inner.width / 2, y: EDGE.top + inner.height / 2, "text-anchor": "middle" };
      parts.push(h("text", place, "the first sample comes within 10 s"));
    }
    this.svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.svg.replaceChildren(...parts.flat());
    this.tell(shown ?? this.points.at(-1), Boolean(shown));
  }

  lines(one, index, x, y) {
    let path = "";
    let area = "";
    let before = null;
    const base = HEIGHT - EDGE.bottom;
    const alone = [];
    let run = [];
    const close = () => {
      if (run.length === 1) alone.push(h("circle", { class: `dot s${index}`, cx: run[0][0], cy: run[0][1], r: 2 }));
      if (run.length > 1) {
        const said = run.map(([px, py]) => `${px.toFixed(1)},${py.toFixed(1)}`).join("L");
        path += `M${said}`;
        area += `M${run[0][0].toFixed(1)},${base}L${said}L${run.at(-1)[0].toFixed(1)},${base}Z`;
      }
      run = [];
    };
    for (const point of this.points) {
      const value = one.of(point);
      if (value == null || (before !== null && point.t - before > GAP_S)) close();
      if (value != null) run.push([x(point.t), y(value)]);
      before = point.t;
    }
    close();
    const filled = this.scale !== "latency" && index === 0 ? h("path", { class: `area s${index}`, d: area }) : null;
    return [filled, h("path", { class: `line s${index}`, d: path }), ...alone].filter(Boolean);
  }

  crosshair(point, x, y) {
    const line = { class: "cross", x1: x(point.t), x2: x(point.t), y1: EDGE.top, y2: HEIGHT - EDGE.bottom };
    const dots = this.series.map((one, index) => [one.of(point), index]).filter(([value]) => value != null);
    return [
      h("line", line),
      ...dots.map(([value, index]) => h("circle", { class: `dot s${index}`, cx: x(point.t), cy: y(value), r: 3 })),
    ];
  }

  /** The legend has the values of the moment that is pointed at, or the latest. */
  tell(point, pointed) {
    const rows = this.series.map((one, index) =>
      h("span", { class: `key s${index}` }, one.name, h("b", {}, point ? this.format(one.of(point)) : NONE)),
    );
    show(this.legend, pointed ? h("span", { class: "moment" }, clock(point.t, true)) : null, rows);
  }
}
