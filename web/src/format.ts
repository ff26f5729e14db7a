// Numbers, units and times in words. What is absent is "n/a", never 0.

export const ABSENT = "n/a";

export type Zone = "utc" | "local";

/** Units of the catalogue that are shown differently. */
const UNITS: Record<string, string> = { C: "°C", us: "µs" };

/** The unit as it is shown: "C" is "°C". */
export function unitText(unit: string | null | undefined): string {
  return unit ? (UNITS[unit] ?? unit) : "";
}

/** A number with the digits that matter: four significant ones below 10,000, thousands apart above. */
export function number(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return ABSENT;
  const size = Math.abs(value);
  if (size !== 0 && size < 0.001) return value.toExponential(2);
  const digits = size >= 1000 ? 0 : size >= 100 ? 1 : size >= 1 ? 2 : 4;
  return value.toLocaleString("en", { maximumFractionDigits: digits });
}

/** A number short enough for a cell of the heatmap: 97, 0.97, 592, 79.1k, 4.2M. */
export function short(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return ABSENT;
  const size = Math.abs(value);
  for (const [limit, suffix] of [[1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e4, "k"]] as const) {
    const base = suffix === "k" ? 1e3 : limit;
    if (size >= limit) return `${(value / base).toFixed(size / base >= 100 ? 0 : 1)}${suffix}`;
  }
  if (size !== 0 && size < 0.01) return value.toExponential(0);
  return value.toLocaleString("en", { maximumFractionDigits: size >= 10 ? 0 : size >= 1 ? 1 : 2, useGrouping: false });
}

/** A number with its unit: "592.7 W", "97 %". */
export function quantity(value: number | null | undefined, unit: string | null | undefined): string {
  const text = number(value);
  const shown = unitText(unit);
  return text === ABSENT || shown === "" ? text : `${text} ${shown}`;
}

/** A count of things: 12,345. */
export function count(value: number | null | undefined): string {
  return value === null || value === undefined ? ABSENT : value.toLocaleString("en");
}

/** "1 host", "31 hosts". */
export function plural(value: number, one: string, many = `${one}s`): string {
  return `${count(value)} ${value === 1 ? one : many}`;
}

const STEPS: [seconds: number, unit: string][] = [[86_400, "d"], [3600, "h"], [60, "min"], [1, "s"]];

/** A length of time in its largest whole unit: "12 s", "3 min", "5 h", "9 d". */
export function duration(seconds: number | null | undefined): string {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return ABSENT;
  const size = Math.abs(seconds);
  const [length, unit] = STEPS.find(([length]) => size >= length) ?? [1, "s"];
  return `${Math.floor(size / length)} ${unit}`;
}

/** How long ago: "just now", "12 s ago", "3 min ago"; a time in the future is shown as ahead of the server's clock. */
export function age(seconds: number | null | undefined): string {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return ABSENT;
  if (seconds <= -1) return `${duration(seconds)} ahead of the server's clock`;
  return seconds < 1 ? "just now" : `${duration(seconds)} ago`;
}

interface Parts {
  date: string;
  time: string;
  millis: string;
}

function parts(ms: number, zone: Zone): Parts {
  const shifted = zone === "utc" ? new Date(ms) : new Date(ms - new Date(ms).getTimezoneOffset() * 60_000);
  const iso = shifted.toISOString();
  return { date: iso.slice(0, 10), time: iso.slice(11, 19), millis: iso.slice(20, 23) };
}

/** A moment in full: "2026-01-31 23:59:58 UTC"; in local time, without the zone's name. */
export function moment(timestamp: string | null | undefined, zone: Zone): string {
  const ms = timestamp ? Date.parse(timestamp) : Number.NaN;
  if (Number.isNaN(ms)) return ABSENT;
  const { date, time, millis } = parts(ms, zone);
  return `${date} ${time}${millis === "000" ? "" : `.${millis}`}${zone === "utc" ? " UTC" : ""}`;
}

/** The labels below a chart: as fine as the distance between them, with the date at the first and where the day changes. */
export function axisTimes(seconds: number[], distance: number, zone: Zone): string[] {
  let day = "";
  return seconds.map((at) => {
    const { date, time, millis } = parts(Math.round(at * 1000), zone);
    const changed = date !== day;
    day = date;
    if (distance >= 86_400) return date;
    const clock = distance >= 60 ? time.slice(0, 5) : distance >= 1 ? time : `${time.slice(3)}.${millis}`;
    return changed ? `${clock}\n${date}` : clock;
  });
}
