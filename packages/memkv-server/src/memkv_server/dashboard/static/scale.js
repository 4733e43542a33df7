// SPDX-License-Identifier: Apache-2.0
// Axes: where the ticks are, and where a value lies.

/** From 0 to a round number above `max`, in steps of 1, 2 or 5 of a power of ten, or of 1024 where `unit` says so. */
export function linear(max, unit = 1) {
  let base = 1;
  while (unit > 1 && max >= base * unit) base *= unit;
  const raw = Math.max(max, 1e-9) / base / 4;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((times) => times * power).find((each) => each >= raw) * base;
  const top = Math.max(1, Math.ceil(max / step - 1e-9)) * step;
  const ticks = [];
  for (let value = 0; value <= top * 1.0001; value += step) ticks.push(value);
  return { ticks, place: (value) => value / top };
}

/** From 0 to 1. */
export function ratio() {
  return { ticks: [0, 0.25, 0.5, 0.75, 1], place: (value) => value };
}

/** By powers, for what spreads over several: from a round number below to one above. */
export function logarithmic(min, max) {
  const rounds = [];
  for (let power = -6; power <= 3; power += 1) rounds.push(...[1, 2, 5].map((times) => times * 10 ** power));
  const low = Math.max(rounds.findLastIndex((each) => each <= min * 1.0001), 0);
  let high = rounds.findIndex((each) => each >= max * 0.9999);
  if (high < 0) high = rounds.length - 1;
  if (high - low < 2) high = Math.min(low + 2, rounds.length - 1);
  const inside = rounds.slice(low, high + 1);
  const every = Math.ceil(inside.length / 6);
  const ticks = inside.filter((_, index) => index % every === 0);
  const span = Math.log(inside.at(-1)) - Math.log(inside[0]);
  return { ticks, place: (value) => (Math.log(Math.max(value, inside[0])) - Math.log(inside[0])) / span };
}

/** Times for the ticks of a stretch: whole minutes, about `wanted` of them. */
export function times(from, to, wanted) {
  const steps = [60, 120, 300, 600, 900, 1800];
  const step = steps.find((each) => (to - from) / each <= wanted) ?? 3600;
  const found = [];
  for (let at = Math.ceil(from / step) * step; at <= to; at += step) found.push(at);
  return found;
}
