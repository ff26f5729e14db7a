// From the API's rows to what a chart draws: one line a workload, on common times, with gaps where samples are missing.

import type { Point } from "../api.ts";

/** Points that one chart asks for, about. */
export const MAX_POINTS = 1000;
/** A pause longer than this many times the usual distance is a gap. */
const GAP_FACTOR = 3;
/** Lines of one chart; what is more is said in words. */
export const MAX_LINES = 8;

const NICE_STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400];

/** The step in seconds that leaves at most MAX_POINTS points of a span; null where every sample can be shown. */
export function stepFor(span: number): number | null {
  const wanted = span / MAX_POINTS;
  if (wanted <= 1) return null;
  return NICE_STEPS.find((step) => step >= wanted) ?? Math.ceil(wanted / 86_400) * 86_400;
}

export interface Line {
  name: string;
  values: (number | null)[];
}

export interface Plot {
  /** Unix seconds, rising. */
  times: number[];
  lines: Line[];
  /** Lines that were left out. */
  more: number;
}

/** Where a sample comes from besides its GPU: namespace, pod and container, where it has them. */
export function workload(point: Point): string {
  return [point.namespace, point.pod, point.container].filter(Boolean).join("/");
}

/** Lines on common times. Where one line has no value at a time, it has null if that is a gap, else its neighbours join. */
export function plot(points: Point[]): Plot {
  const byName = new Map<string, Map<number, number | null>>();
  for (const point of points) {
    const at = Date.parse(point.timestamp) / 1000;
    if (!Number.isFinite(at)) continue;
    const name = workload(point);
    let line = byName.get(name);
    if (!line) byName.set(name, (line = new Map()));
    line.set(at, point.value);
  }
  const shown = [...byName].slice(0, MAX_LINES);
  const gaps = shown.map(([, line]) => gapTimes([...line.keys()]));
  const times = [...new Set([...shown.flatMap(([, line]) => [...line.keys()]), ...gaps.flat()])].sort((a, b) => a - b);
  const lines = shown.map(([name, line], index) => {
    const gap = new Set(gaps[index]);
    // undefined makes uPlot join the neighbours: a time at which only another line has a sample is no gap of this one.
    const values = times.map((at) => (line.has(at) ? (line.get(at) ?? null) : gap.has(at) ? null : undefined));
    return { name, values: values as (number | null)[] };
  });
  return { times, lines, more: byName.size - shown.length };
}

/** A moment inside each pause that is much longer than usual. */
export function gapTimes(unsorted: number[]): number[] {
  const times = unsorted.toSorted((a, b) => a - b);
  const pauses = times.slice(1).map((at, index) => at - (times[index] ?? at));
  const usual = pauses.toSorted((a, b) => a - b)[Math.floor(pauses.length / 2)];
  if (usual === undefined) return [];
  const found: number[] = [];
  pauses.forEach((pause, index) => {
    if (pause > usual * GAP_FACTOR) found.push((times[index] ?? 0) + pause / 2);
  });
  return found;
}
