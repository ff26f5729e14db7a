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
  const own = shown.map(([, line]) => [...line.keys()].sort((a, b) => a - b));
  const usual = usualPause(own);
  const gaps = own.map((times) => gapsOf(times, usual));
  const middles = gaps.flat().map(([from, to]) => (from + to) / 2);
  const times = [...new Set([...own.flat(), ...middles])].sort((a, b) => a - b);
  const lines = shown.map(([name, line], index) => {
    const pauses = gaps[index] ?? [];
    let pause = 0;
    const values = times.map((at) => {
      while ((pauses[pause]?.[1] ?? Infinity) <= at) pause += 1;
      if (line.has(at)) return line.get(at) ?? null;
      // Every time inside a gap is null. undefined makes uPlot join the neighbours: there only another line has a sample.
      return (pauses[pause]?.[0] ?? Infinity) < at ? null : undefined;
    });
    return { name, values: values as (number | null)[] };
  });
  return { times, lines, more: byName.size - shown.length };
}

/** The usual distance of samples, all lines together: they are read at one rate, whoever uses the GPU. */
function usualPause(lines: number[][]): number {
  const pauses = lines.flatMap((times) => times.slice(1).map((at, index) => at - (times[index] ?? at)));
  return pauses.sort((a, b) => a - b)[Math.floor(pauses.length / 2)] ?? Infinity;
}

/** The pauses that are much longer than usual: between which two samples. */
export function gapsOf(times: number[], usual: number): [number, number][] {
  const gaps: [number, number][] = [];
  times.forEach((to, index) => {
    const from = times[index - 1];
    if (from !== undefined && to - from > usual * GAP_FACTOR) gaps.push([from, to]);
  });
  return gaps;
}
