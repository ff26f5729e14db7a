// One chart: uPlot with the page's colours, 24-hour times, and a readout instead of a legend that jumps.

import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { el, setText } from "../dom.ts";
import { axisTimes, moment, quantity, short, unitText, type Zone } from "../format.ts";
import type { Plot } from "./series.ts";

export interface ChartOptions {
  unit: string;
  zone: Zone;
  /** The ends of the value axis, where the unit gives them. */
  range: [number, number] | null;
  /** The ends of the time axis, in Unix seconds. */
  from: number;
  to: number;
}

const HEIGHT = 168;

export class LineChart {
  readonly element = el("div", { class: "plot" });
  readonly readout = el("p", { class: "readout" });
  private plot: uPlot | null = null;
  private data: Plot = { times: [], lines: [], more: 0 };
  private options: ChartOptions | null = null;
  private shape = "";
  private readonly resized = new ResizeObserver(() => this.fit());

  constructor() {
    this.resized.observe(this.element);
  }

  update(data: Plot, options: ChartOptions): void {
    this.data = data;
    this.options = options;
    // What uPlot cannot change afterwards: lines, unit, zone, colours.
    const shape = JSON.stringify([data.lines.map((line) => line.name), options.unit, options.zone, options.range, isDark()]);
    if (this.plot && this.shape === shape) {
      this.plot.setData(aligned(data), false);
      this.plot.setScale("x", { min: options.from, max: options.to });
    } else {
      this.shape = shape;
      this.draw();
    }
    this.tell(null);
  }

  /** Draws again with the colours of the theme that is now in force. */
  recolour(): void {
    if (this.plot) this.draw();
  }

  destroy(): void {
    this.resized.disconnect();
    this.plot?.destroy();
    this.plot = null;
  }

  private fit(): void {
    const width = this.element.clientWidth;
    if (this.plot && width > 0 && width !== this.plot.width) this.plot.setSize({ width, height: HEIGHT });
    else if (!this.plot && width > 0 && this.options) this.draw();
  }

  private draw(): void {
    const width = this.element.clientWidth;
    this.plot?.destroy();
    this.plot = null;
    if (width === 0 || !this.options) return; // Not in the page yet: the observer calls again.
    this.plot = new uPlot(this.settings(width, this.options), aligned(this.data), this.element);
  }

  private settings(width: number, options: ChartOptions): uPlot.Options {
    const style = getComputedStyle(document.documentElement);
    const colour = (name: string): string => style.getPropertyValue(name).trim();
    const axis = {
      stroke: colour("--muted"),
      font: `11px ${colour("--font")}`,
      grid: { stroke: colour("--grid"), width: 1 },
      ticks: { show: false },
    };
    const single = this.data.lines.length === 1;
    const sparse = this.data.times.length <= 60;
    return {
      width,
      height: HEIGHT,
      legend: { show: false },
      padding: [10, 12, 0, 0],
      cursor: { points: { size: 7 }, drag: { x: false, y: false }, sync: { key: "gpu" } },
      tzDate: (at) => (options.zone === "utc" ? uPlot.tzDate(new Date(at * 1000), "Etc/UTC") : new Date(at * 1000)),
      scales: {
        x: { time: true, range: () => [this.options?.from ?? options.from, this.options?.to ?? options.to] },
        y: { range: options.range ?? ((_, low, high) => around(low, high)) },
      },
      axes: [
        {
          ...axis,
          space: 76,
          size: 38,
          values: (_, splits, __, ___, distance) => axisTimes(splits, distance, options.zone),
        },
        {
          ...axis,
          size: 58,
          gap: 6,
          labelFont: axis.font,
          ...(options.unit ? { label: unitText(options.unit), labelSize: 16, labelGap: 0 } : {}),
          values: (_, splits) => splits.map((value) => short(value)),
        },
      ],
      series: [
        {},
        ...this.data.lines.map((line, index) => ({
          label: line.name,
          stroke: colour(`--line-${(index % 8) + 1}`),
          width: 1.75,
          ...(single ? { fill: colour("--line-fill") } : {}),
          points: { show: sparse, size: 5 },
        })),
      ],
      hooks: { setCursor: [(plot) => this.tell(plot.cursor.idx ?? null)] },
    };
  }

  /** Says the values at the cursor; without one, the newest. */
  private tell(index: number | null): void {
    if (!this.options) return;
    const at = index ?? this.data.times.length - 1;
    const time = this.data.times[at];
    if (time === undefined) return setText(this.readout, "");
    const said = this.data.lines.map((line) => {
      const value = quantity(index === null ? lastKnown(line.values) : line.values[at], this.options?.unit);
      return line.name ? `${line.name} ${value}` : value;
    });
    setText(this.readout, `${said.join("  ·  ")}   ${moment(new Date(time * 1000).toISOString(), this.options.zone)}`);
  }
}

function lastKnown(values: (number | null)[]): number | null {
  return values.findLast((value) => value !== null && value !== undefined) ?? null;
}

/** A value axis with some air, that does not turn a constant line into noise. */
function around(low: number | null, high: number | null): [number, number] {
  if (low === null || high === null) return [0, 1];
  const pad = Math.max((high - low) * 0.15, Math.abs(high) * 0.02, 1e-9);
  const bottom = low - pad;
  return [low >= 0 && bottom < 0 ? 0 : bottom, high + pad];
}

function aligned(data: Plot): uPlot.AlignedData {
  return [data.times, ...data.lines.map((line) => line.values)];
}

function isDark(): boolean {
  return matchMedia("(prefers-color-scheme: dark)").matches;
}
