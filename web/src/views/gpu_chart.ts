// One metric of one GPU: the chart, and the same data as a table.

import type { Api, GpuDetail, Listed, Metric, Point } from "../api.ts";
import { LineChart } from "../charts/line.ts";
import { plot, stepFor, workload } from "../charts/series.ts";
import { el, setAttribute, setText } from "../dom.ts";
import { duration, moment, number, plural, unitText } from "../format.ts";
import { gpuId } from "../fleet.ts";
import { aggregation, metricLabel, naturalRange } from "../metrics.ts";
import { RANGES, type Range } from "../state/address.ts";
import type { Context } from "../app.ts";

/** Half of the time axis where all samples have one time, in seconds. */
const ALONE_SECONDS = 30;

export class GpuChart {
  private readonly chart = new LineChart();
  private readonly caption = el("span", { class: "muted" });
  private readonly summary = el("summary", {}, "Data");
  private readonly table = el("tbody");
  private readonly details = el("details", { class: "data" }, this.summary);
  private readonly remove: HTMLButtonElement;
  private points: Point[] = [];
  readonly element: HTMLElement;

  constructor(
    private readonly context: Context,
    private readonly api: Api,
    private readonly metric: Metric,
    onRemove: () => void,
  ) {
    const label = metricLabel(metric.name);
    this.remove = el(
      "button",
      { type: "button", class: "button quiet small", "aria-label": `Remove the chart ${label}`, title: "Remove this chart", on: { click: onRemove } },
      "✕",
    );
    this.details.append(
      el(
        "div",
        { class: "table-scroll", tabindex: "0", role: "region", "aria-label": `${label}, all points` },
        el(
          "table",
          {},
          el("thead", {}, el("tr", {}, ...["Time", "Value", "Workload"].map((name, at) => el("th", { scope: "col", class: at === 1 ? "number" : null }, name)))),
          this.table,
        ),
      ),
    );
    this.details.addEventListener("toggle", () => this.fillTable());
    this.element = el(
      "figure",
      { class: "chart", "data-metric": metric.name, "aria-label": `${label} over time` },
      el("figcaption", {}, el("strong", { title: `${metric.name}: ${metric.description}` }, label), this.chart.readout, this.remove),
      this.chart.element,
      el("div", { class: "chart-foot" }, this.details, this.caption),
    );
  }

  removable(can: boolean): void {
    this.remove.hidden = !can;
  }

  recolour(): void {
    this.chart.recolour();
  }

  destroy(): void {
    this.chart.destroy();
  }

  async load(gpu: GpuDetail, range: Range, signal: AbortSignal): Promise<void> {
    const id = gpuId(gpu);
    const last = Date.parse(gpu.last_seen ?? "");
    const first = Date.parse(gpu.first_seen ?? "");
    if (!id || Number.isNaN(last)) return setText(this.caption, "No samples are stored for this GPU.");
    const back = RANGES[range];
    const from = back === null ? (Number.isNaN(first) ? last : first) : last - back * 1000;
    const step = stepFor((last - from) / 1000);
    const agg = aggregation(this.metric);
    const query = {
      cluster: gpu.cluster,
      metric: this.metric.name,
      start_time: new Date(from).toISOString(),
      end_time: new Date(last).toISOString(),
      ...(step ? { step: `${step}s`, agg } : {}),
    };
    setAttribute(this.element, "aria-busy", "true");
    let got: Listed<Point>;
    try {
      got = await this.api.telemetry(id, query, signal);
    } finally {
      setAttribute(this.element, "aria-busy", null);
    }
    this.points = got.data;
    this.show(got, from, last, step, agg);
  }

  private show(got: Listed<Point>, from: number, last: number, step: number | null, agg: "last" | "avg"): void {
    const drawn = plot(got.data);
    const pad = last > from ? (last - from) * 0.01 : ALONE_SECONDS * 1000;
    this.chart.update(drawn, {
      unit: this.metric.unit,
      zone: this.context.zone(),
      range: naturalRange(this.metric),
      from: (from - pad) / 1000,
      to: (last + pad) / 1000,
    });
    setAttribute(this.element, "data-points", String(got.data.length));
    const how = step ? `${agg === "last" ? "last value" : "mean"} per ${duration(step)}` : "every sample";
    setText(
      this.caption,
      got.data.length === 0
        ? "No samples in this range."
        : how + (drawn.more > 0 ? `, ${plural(drawn.more, "more workload")} not shown` : "") + (got.complete ? "" : ", first part of the range only"),
    );
    setText(this.summary, plural(got.data.length, "point"));
    this.fillTable();
  }

  /** Fills the table only while it is open, because a thousand rows take time. */
  private fillTable(): void {
    if (!this.details.open) return this.table.replaceChildren();
    this.table.replaceChildren(
      ...this.points.map((point) =>
        el(
          "tr",
          { "data-time": point.timestamp, "data-value": point.value },
          el("td", {}, el("time", { datetime: point.timestamp }, moment(point.timestamp, this.context.zone()))),
          el("td", { class: "number" }, `${number(point.value)} ${unitText(this.metric.unit)}`.trim()),
          el("td", { class: "muted" }, workload(point)),
        ),
      ),
    );
  }
}
