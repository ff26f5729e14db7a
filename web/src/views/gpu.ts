// One GPU: what it is, its charts, and its latest values.

import type { Api, GpuDetail, LatestValue, Metric } from "../api.ts";
import { el, setAttribute, setText } from "../dom.ts";
import { age, moment, number, unitText } from "../format.ts";
import { gpuLabel } from "../fleet.ts";
import { isStale, sampleAge } from "../freshness.ts";
import { inReadingOrder, metricLabel } from "../metrics.ts";
import { MAX_CHARTS, RANGES, type Address, type Range } from "../state/address.ts";
import type { Context, Model } from "../app.ts";
import { GpuChart } from "./gpu_chart.ts";

const RANGE_NAMES: Record<Range, string> = { all: "All", "15m": "15 min", "1h": "1 h", "6h": "6 h", "24h": "24 h" };

export class GpuView {
  private readonly title = el("h2", { id: "gpu-title" });
  private readonly facts = el("dl", { class: "facts" });
  private readonly ranges = el("fieldset", { class: "ranges" }, el("legend", { class: "visually-hidden" }, "Time range, ending at the newest sample"));
  private readonly add = el("select", { id: "add-chart", on: { change: () => this.addChart() } });
  private readonly chartList = el("div", { class: "charts" });
  private readonly latest = el("tbody");
  private readonly message = el("p", { class: "message", role: "status", hidden: true });
  private readonly body: HTMLElement;
  private readonly charts = new Map<string, GpuChart>();
  private readonly inputs = new Map<Range, HTMLInputElement>();
  private metrics: Metric[] = [];
  private detail: GpuDetail | null = null;
  private ages: [HTMLElement, string][] = [];
  private shown = "";
  readonly element: HTMLElement;

  constructor(
    private readonly context: Context,
    private readonly api: Api,
  ) {
    for (const range of Object.keys(RANGES) as Range[]) {
      const input = el("input", { type: "radio", name: "range", value: range, on: { change: () => context.go({ range }, "push") } });
      this.inputs.set(range, input);
      this.ranges.append(el("label", {}, input, el("span", {}, RANGE_NAMES[range])));
    }
    const columns = ["Metric", "Value", "Unit", "Sampled", "Chart"];
    this.body = el(
      "div",
      { class: "gpu-body" },
      this.facts,
      el("div", { class: "fields" }, this.ranges, el("label", { class: "field", for: "add-chart" }, el("span", {}, "Chart"), this.add)),
      this.chartList,
      el("h3", {}, "Latest values"),
      el(
        "div",
        { class: "table-scroll", tabindex: "0", role: "region", "aria-label": "Latest values" },
        el(
          "table",
          { class: "latest" },
          el("thead", {}, el("tr", {}, ...columns.map((name, at) => el("th", { scope: "col", class: at === 1 ? "number" : null }, name)))),
          this.latest,
        ),
      ),
    );
    this.element = el(
      "section",
      { class: "card gpu", "aria-labelledby": "gpu-title", hidden: true },
      el(
        "header",
        { class: "gpu-head" },
        this.title,
        el("button", { type: "button", class: "button quiet", "aria-label": "Close this GPU", title: "Close (Esc)", on: { click: () => this.close() } }, "✕"),
      ),
      this.message,
      this.body,
    );
  }

  /** Shows the panel of the GPU in the address, or hides it, before anything is read. */
  open({ gpu }: Address): void {
    this.element.hidden = gpu === null;
    const key = gpu ? JSON.stringify(gpu) : "";
    if (this.shown === key) return;
    this.forget();
    this.shown = key;
    if (!gpu) return;
    setText(this.title, gpu.id);
    this.say("Loading this GPU…");
    this.body.hidden = true;
  }

  /** Reads and shows the GPU of the address. */
  async load(address: Address, model: Model, signal: AbortSignal): Promise<void> {
    this.open(address);
    const gpu = address.gpu;
    if (!gpu) return;
    setAttribute(this.element, "aria-busy", "true");
    try {
      const [detail, metrics] = await Promise.all([
        this.api.gpu(gpu.id, gpu.cluster, signal),
        this.metrics.length > 0 ? { data: this.metrics } : this.api.gpuMetrics(gpu.id, gpu.cluster, signal),
      ]);
      this.metrics = metrics.data;
      this.detail = detail;
      this.say(null);
      this.body.hidden = false;
      this.describe(detail, model);
      await this.draw(address, detail, signal);
    } catch (error) {
      if (signal.aborted) return;
      this.say(error instanceof Error ? error.message : String(error));
      throw error;
    } finally {
      setAttribute(this.element, "aria-busy", null);
    }
  }

  tick(model: Model): void {
    if (!this.detail) return;
    const cluster = model.byCluster.get(this.detail.cluster);
    for (const [cell, timestamp] of this.ages) setText(cell, age(sampleAge(cluster, timestamp, this.context.elapsed())));
  }

  recolour(): void {
    for (const chart of this.charts.values()) chart.recolour();
  }

  /** Scrolls to the panel where it is below the heatmap. The focus stays in the grid, for readers who use the keyboard. */
  reveal(): void {
    if (this.element.getBoundingClientRect().top > innerHeight * 0.7) this.element.scrollIntoView({ block: "start" });
  }

  /** Closes the panel; a focus inside it moves back to the cell of the GPU. */
  close(): void {
    const { gpu } = this.context.address();
    if (!gpu) return;
    const inside = this.element.contains(document.activeElement);
    this.context.go({ gpu: null, charts: [] }, "push");
    if (inside) document.querySelector<HTMLElement>(`.cell[data-gpu="${CSS.escape(gpu.id)}"]`)?.focus();
  }

  private say(text: string | null): void {
    this.message.hidden = text === null;
    setText(this.message, text ?? "");
  }

  private forget(): void {
    this.detail = null;
    this.metrics = [];
    this.ages = [];
    for (const chart of this.charts.values()) chart.destroy();
    this.charts.clear();
    this.chartList.replaceChildren();
    this.latest.replaceChildren();
  }

  private describe(detail: GpuDetail, model: Model): void {
    const zone = this.context.zone();
    setText(this.title, `${detail.hostname} · GPU ${gpuLabel(detail)}`);
    const facts: [string, string][] = [
      ["Cluster", detail.cluster],
      ["Model", detail.model],
      ["Device", detail.device],
      ["Driver", detail.driver_version],
      ["First sample", moment(detail.first_seen, zone)],
      ["Newest sample", moment(detail.last_seen, zone)],
      ["UUID", detail.uuid],
    ];
    const made = facts.map(([name, value]) => el("div", { class: name === "UUID" ? "wide" : null }, el("dt", {}, name), el("dd", {}, value || "n/a")));
    if (this.facts.textContent !== made.map((fact) => fact.textContent).join("")) this.facts.replaceChildren(...made);
    const charted = this.charted(this.context.address());
    this.ages = [];
    const rows = inReadingOrder(detail.latest, (row) => row.metric_name).map((row) => this.latestRow(row, detail, model, charted));
    const focused = document.activeElement?.closest<HTMLElement>("tr[data-metric]")?.dataset["metric"];
    this.latest.replaceChildren(...rows);
    if (focused) this.latest.querySelector<HTMLElement>(`tr[data-metric="${CSS.escape(focused)}"] button`)?.focus();
  }

  private latestRow(row: LatestValue, detail: GpuDetail, model: Model, charted: string[]): HTMLElement {
    const cluster = model.byCluster.get(detail.cluster);
    const on = charted.includes(row.metric_name);
    const full = !on && charted.length >= MAX_CHARTS;
    const only = on && charted.length === 1;
    const sampled = el(
      "td",
      { class: isStale(cluster, row.timestamp) ? "stale-text" : "muted", title: moment(row.timestamp, this.context.zone()) },
      age(sampleAge(cluster, row.timestamp, this.context.elapsed())),
    );
    this.ages.push([sampled, row.timestamp]);
    return el(
      "tr",
      { "data-metric": row.metric_name, "data-value": row.value },
      el("th", { scope: "row", title: row.metric_name }, metricLabel(row.metric_name)),
      el("td", { class: "number" }, number(row.value)),
      el("td", { class: "muted" }, unitText(row.unit)),
      sampled,
      el(
        "td",
        {},
        el(
          "button",
          {
            type: "button",
            class: "toggle",
            "aria-pressed": String(on),
            "aria-label": `Chart ${metricLabel(row.metric_name)}`,
            disabled: full,
            title: full ? `At most ${MAX_CHARTS} charts` : only ? "The last chart cannot be removed" : null,
            on: { click: () => this.toggle(row.metric_name) },
          },
          on ? "shown" : "show",
        ),
      ),
    );
  }

  /** The metrics that are charted: those of the address, else the metric of the heatmap, else the first metric of this GPU. */
  private charted(address: Address): string[] {
    const has = new Set(this.metrics.map((metric) => metric.name));
    const wanted = address.charts.length > 0 ? address.charts : address.metric ? [address.metric] : [];
    const known = wanted.filter((name) => has.has(name));
    if (known.length > 0) return known;
    return inReadingOrder([...has], (name) => name).slice(0, 1);
  }

  private toggle(name: string): void {
    const charted = this.charted(this.context.address());
    const left = charted.includes(name) ? charted.filter((other) => other !== name) : [...charted, name];
    if (left.length > 0) this.context.go({ charts: left.slice(0, MAX_CHARTS) });
  }

  private addChart(): void {
    const charted = this.charted(this.context.address());
    if (this.add.value) this.context.go({ charts: [...charted, this.add.value].slice(-MAX_CHARTS) });
  }

  private async draw(address: Address, detail: GpuDetail, signal: AbortSignal): Promise<void> {
    const charted = this.charted(address);
    for (const [range, input] of this.inputs) input.checked = range === address.range;
    const left = inReadingOrder(this.metrics.filter((metric) => !charted.includes(metric.name)), (metric) => metric.name);
    this.add.replaceChildren(
      el("option", { value: "" }, charted.length < MAX_CHARTS ? "Add a chart…" : "Replace a chart…"),
      ...left.map((metric) => el("option", { value: metric.name }, metricLabel(metric.name))),
    );
    for (const [name, chart] of this.charts) {
      if (!charted.includes(name)) {
        chart.destroy();
        this.charts.delete(name);
      }
    }
    const shown = charted.map((name) => {
      let chart = this.charts.get(name);
      if (!chart) {
        const metric = this.metrics.find((metric) => metric.name === name) ?? { name, unit: "", description: "", kind: "gauge" };
        this.charts.set(name, (chart = new GpuChart(this.context, this.api, metric, () => this.toggle(name))));
      }
      chart.removable(charted.length > 1);
      return chart;
    });
    const elements = shown.map((chart) => chart.element);
    if (elements.some((element, at) => this.chartList.children[at] !== element) || this.chartList.children.length !== elements.length) {
      this.chartList.replaceChildren(...elements);
    }
    await Promise.all(shown.map((chart) => chart.load(detail, address.range, signal)));
  }
}
