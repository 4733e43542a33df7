// SPDX-License-Identifier: Apache-2.0
// Numbers as people read them. Nothing known is an en dash.
export const NONE = "–";

const SIZES = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/** Three significant digits, thousands with a thin space. */
export function digits(value) {
  if (value >= 100 || Number.isInteger(value)) return Math.round(value).toLocaleString("en").replaceAll(",", "\u202f");
  return value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

export function size(bytes) {
  if (bytes == null) return NONE;
  let power = 0;
  while (bytes >= 1024 && power < SIZES.length - 1) {
    bytes /= 1024;
    power += 1;
  }
  return `${power ? digits(bytes) : Math.round(bytes)} ${SIZES[power]}`;
}

export const rate = (bytes) => (bytes == null ? NONE : `${size(bytes)}/s`);

export function count(value) {
  if (value == null) return NONE;
  if (value >= 1e9) return `${digits(value / 1e9)} G`;
  if (value >= 1e6) return `${digits(value / 1e6)} M`;
  return digits(value >= 10 ? Math.round(value) : value);
}

export function share(value) {
  return value == null ? NONE : `${(100 * value).toFixed(value >= 0.9995 ? 0 : 1)} %`;
}

/** A latency. */
export function latency(seconds) {
  if (seconds == null) return NONE;
  if (seconds < 1e-3) return `${digits(Math.round(seconds * 1e6))} µs`;
  return seconds < 1 ? `${digits(seconds * 1e3)} ms` : `${digits(seconds)} s`;
}

/** A stretch of time, in its two largest units. */
export function span(seconds) {
  if (seconds == null) return NONE;
  if (seconds < 1) return "< 1 s";
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const first = units.findIndex(([, length]) => seconds >= length);
  const parts = [];
  for (const [name, length] of units.slice(first, first + 2)) {
    const whole = Math.floor(seconds / length);
    seconds -= whole * length;
    if (whole) parts.push(`${whole} ${name}`);
  }
  return parts.join(" ");
}

export function clock(seconds, withSeconds = false) {
  const options = { hour: "2-digit", minute: "2-digit", hour12: false };
  if (withSeconds) options.second = "2-digit";
  return new Date(seconds * 1000).toLocaleTimeString("en-GB", options);
}
