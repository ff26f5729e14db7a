// The controls above the heatmap: metric, cluster and host search, the legend, and a summary of the values.

import { el, setAttribute, setText } from "../dom.ts";
import { ABSENT, plural, quantity, short, unitText } from "../format.ts";
import { inReadingOrder, metricLabel } from "../metrics.ts";
import { LEVELS, type Scale } from "../charts/levels.ts";
import type { Context, Model } from "../app.ts";

/** Time without a key press after which the search is applied, in milliseconds. */
const SEARCH_PAUSE_MS = 150;

export class HeatmapControls {
  private readonly title = el("h2", { id: "heatmap-title" }, "Hosts and GPUs");
  private readonly description = el("p", { class: "muted" });
  private readonly metric = el("select", { id: "metric", on: { change: () => this.context.go({ metric: this.metric.value }) } });
  private readonly cluster = el("select", { id: "cluster", on: { change: () => this.context.go({ cluster: this.cluster.value || null }) } });
  private readonly search = el("input", { id: "host", type: "search", placeholder: "Filter hosts", autocomplete: "off", spellcheck: "false" });
  private readonly low = el("span");
  private readonly high = el("span");
  private readonly summary = el("p", { class: "summary", "data-summary": true });
  private pause: number | undefined;
  readonly element: HTMLElement;

  constructor(private readonly context: Context) {
    this.search.addEventListener("input", () => {
      clearTimeout(this.pause);
      this.pause = window.setTimeout(() => this.context.go({ host: this.search.value }), SEARCH_PAUSE_MS);
    });
    const field = (label: string, control: HTMLElement): HTMLElement =>
      el("label", { class: "field", for: control.id }, el("span", {}, label), control);
    this.element = el(
      "header",
      { class: "heatmap-head" },
      el("div", { class: "heatmap-title" }, this.title, this.description),
      el("div", { class: "fields" }, field("Metric", this.metric), field("Cluster", this.cluster), field("Host", this.search)),
      el(
        "div",
        { class: "legend-line" },
        this.summary,
        el(
          "div",
          { class: "legend", role: "img", "aria-label": "Colour scale from low to high" },
          this.low,
          el("span", { class: "legend-boxes" }, ...legendBoxes()),
          this.high,
          el("span", { class: "key" }, el("i", { "data-state": "stale" }), "stale"),
          el("span", { class: "key" }, el("i", { "data-state": "absent" }), "n/a"),
          el("span", { class: "key" }, el("i", { "data-state": "none" }), "no GPU"),
        ),
      ),
    );
  }

  update(model: Model, scale: Scale | null, known: number[], slots: number, hosts: number): void {
    const address = this.context.address();
    const metrics = inReadingOrder(model.metrics.filter((metric) => metric.stored !== false), (metric) => metric.name);
    options(this.metric, metrics.map((metric) => [metric.name, metricLabel(metric.name)]), address.metric ?? model.metric?.name ?? "");
    options(this.cluster, [["", "All clusters"], ...model.clusters.map(({ cluster }): [string, string] => [cluster, cluster])], address.cluster ?? "");
    if (document.activeElement !== this.search) this.search.value = address.host;
    setText(this.title, model.metric ? metricLabel(model.metric.name) : "Hosts and GPUs");
    setText(this.description, model.metric?.description ?? "");
    setAttribute(this.title, "title", model.metric?.name ?? null);
    const unit = model.metric?.unit ?? "";
    const [low, high] = legendEnds(scale, unit);
    setText(this.low, low);
    setText(this.high, high);
    const mean = known.reduce((sum, value) => sum + value, 0) / known.length;
    const least = known.reduce((a, b) => Math.min(a, b), Number.POSITIVE_INFINITY);
    const most = known.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
    const absent = slots - known.length;
    setText(
      this.summary,
      known.length === 0
        ? "No value of this metric is stored for these hosts."
        : `${plural(known.length, "GPU")} on ${plural(hosts, "host")} · mean ${quantity(mean, unit)} · ${quantity(least, unit)} to ${quantity(most, unit)}` +
            (absent > 0 ? ` · ${absent} without a value` : "") +
            (address.gpu ? "" : " · choose a GPU to see its history"),
    );
  }
}

/** Fills a select only where its choices changed, so that an open one does not close. */
function options(select: HTMLSelectElement, wanted: [string, string][], chosen: string): void {
  const shape = JSON.stringify(wanted);
  if (select.dataset["shape"] !== shape) {
    select.dataset["shape"] = shape;
    select.replaceChildren(...wanted.map(([value, text]) => el("option", { value }, text)));
  }
  if (select.value !== chosen) select.value = chosen;
}

/** The legend's boxes, from low to high. */
function legendBoxes(): HTMLElement[] {
  return Array.from({ length: LEVELS }, (_, at) => el("i", { "data-level": String(at) }));
}

/** The ends of the scale, in words. */
function legendEnds(scale: Scale | null, unit: string): [string, string] {
  return scale ? [short(scale.min), `${short(scale.max)} ${unitText(unit)}`] : [ABSENT, ABSENT];
}
