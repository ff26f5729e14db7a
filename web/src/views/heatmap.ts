// Hosts × GPUs for one metric: a grid that the keyboard can walk, updated in place so that focus and scroll stay.

import { level, scaleOf, type Scale } from "../charts/levels.ts";
import { el, setAttribute, setText } from "../dom.ts";
import { buildFleet, gpuId, gpuLabel, type Cell, type Fleet, type HostRow } from "../fleet.ts";
import { ABSENT, age, moment, plural, quantity, short } from "../format.ts";
import { isStale, sampleAge } from "../freshness.ts";
import { naturalRange } from "../metrics.ts";
import type { Context, Model } from "../app.ts";
import { HeatmapControls } from "./heatmap_controls.ts";
import { Tooltip } from "./tooltip.ts";

/** Hosts shown at first, and added by each "show more". */
const HOSTS_AT_ONCE = 1000;

export class Heatmap {
  private readonly controls: HeatmapControls;
  private readonly grid = el("div", { class: "grid", role: "grid", "aria-labelledby": "heatmap-title" });
  private readonly scroller = el("div", { class: "grid-scroll" }, this.grid);
  private readonly note = el("p", { class: "muted note", hidden: true });
  private readonly more = el("button", { type: "button", class: "button", hidden: true, on: { click: () => this.showMore() } });
  private readonly tooltip = new Tooltip();
  private readonly cells = new Map<HTMLElement, Cell | null>();
  private lines: HTMLElement[][] = [];
  private limit = HOSTS_AT_ONCE;
  private shape = "";
  private model: Model | null = null;
  readonly element: HTMLElement;

  constructor(private readonly context: Context) {
    this.controls = new HeatmapControls(context);
    this.element = el(
      "section",
      { class: "card heatmap", "aria-labelledby": "heatmap-title" },
      this.controls.element,
      this.scroller,
      this.note,
      this.more,
      this.tooltip.element,
    );
    this.grid.addEventListener("click", (event) => this.open(event.target));
    this.grid.addEventListener("keydown", (event) => this.walk(event));
    this.grid.addEventListener("focusin", (event) => this.describe(event.target));
    this.grid.addEventListener("focusout", () => this.tooltip.hide());
    this.grid.addEventListener("pointerover", (event) => this.describe(event.target));
    this.grid.addEventListener("pointerleave", () => this.tooltip.hide());
    this.scroller.addEventListener("scroll", () => this.tooltip.hide(), { passive: true });
  }

  update(model: Model): void {
    this.model = model;
    const { cluster, host } = this.context.address();
    const inCluster = <T extends { cluster: string }>(rows: T[]): T[] => (cluster ? rows.filter((row) => row.cluster === cluster) : rows);
    const fleet = buildFleet(inCluster(model.gpus), inCluster(model.latest), host);
    const values = fleet.rows.flatMap((row) => [...row.cells.values()].map((cell) => cell.latest?.value));
    const known = values.filter((value): value is number => typeof value === "number");
    const scale = model.metric ? scaleOf(known, naturalRange(model.metric)) : null;
    this.controls.update(model, scale, known, values.length, fleet.rows.length);
    this.draw(fleet);
    this.fill(fleet, model, scale);
  }

  private draw(fleet: Fleet): void {
    const rows = fleet.rows.slice(0, this.limit);
    const hidden = fleet.rows.length - rows.length;
    this.more.hidden = hidden === 0;
    setText(this.more, `Show ${plural(Math.min(hidden, HOSTS_AT_ONCE), "more host", "more hosts")} of ${hidden}`);
    const empty = fleet.rows.length === 0;
    this.note.hidden = !empty && this.model?.complete !== false;
    setText(
      this.note,
      empty
        ? `No host matches${this.context.address().host ? ` “${this.context.address().host}”` : ""}. Clear the search, or choose all clusters.`
        : "There are more GPUs than this page can load at once: choose a cluster to see all of its GPUs.",
    );
    const shape = JSON.stringify([fleet.columns.map((column) => column.key), rows.map((row) => row.key)]);
    if (shape === this.shape) return;
    this.shape = shape;
    this.build(fleet, rows);
  }

  private build(fleet: Fleet, rows: HostRow[]): void {
    this.cells.clear();
    this.lines = [];
    this.grid.style.setProperty("--columns", String(Math.max(fleet.columns.length, 1)));
    setAttribute(this.grid, "aria-rowcount", String(rows.length + 1));
    setAttribute(this.grid, "aria-colcount", String(fleet.columns.length + 1));
    const heads = fleet.columns.map((column) => el("span", { role: "columnheader", class: "head" }, column.label));
    const made: HTMLElement[] = [
      el("div", { role: "row", class: "line heads" }, el("span", { role: "columnheader", class: "host head" }, "Host \\ GPU"), ...heads),
    ];
    let cluster: string | null = null;
    for (const row of rows) {
      if (row.cluster !== cluster) {
        cluster = row.cluster;
        const hosts = rows.filter((other) => other.cluster === cluster).length;
        made.push(
          el(
            "div",
            { role: "row", class: "line group" },
            el("span", { role: "rowheader" }, row.cluster, el("span", { class: "muted" }, ` ${plural(hosts, "host")}`)),
          ),
        );
      }
      const line = fleet.columns.map(() => el("div", { role: "gridcell", class: "cell", tabindex: "-1" }));
      this.lines.push(line);
      made.push(
        el("div", { role: "row", class: "line" }, el("span", { role: "rowheader", class: "host", title: row.hostname }, row.hostname), ...line),
      );
    }
    this.grid.replaceChildren(...made);
    this.lines[0]?.[0]?.setAttribute("tabindex", "0");
  }

  private fill(fleet: Fleet, model: Model, scale: Scale | null): void {
    const open = this.context.address().gpu;
    fleet.rows.slice(0, this.limit).forEach((row, y) => {
      fleet.columns.forEach((column, x) => {
        const element = this.lines[y]?.[x];
        if (!element) return;
        const cell = row.cells.get(column.key) ?? null;
        this.cells.set(element, cell);
        const value = cell?.latest?.value ?? null;
        const stale = cell?.latest ? isStale(model.byCluster.get(row.cluster), cell.latest.timestamp) : false;
        setText(element, cell === null ? "" : value === null ? ABSENT : short(value));
        setAttribute(element, "data-state", cell === null ? "none" : value === null ? "absent" : stale ? "stale" : "value");
        setAttribute(element, "data-level", value === null || !scale ? null : String(level(value, scale)));
        setAttribute(element, "data-value", value === null ? null : String(value));
        setAttribute(element, "data-gpu", cell ? gpuId(cell.gpu) : null);
        setAttribute(element, "data-cluster", cell ? row.cluster : null);
        setAttribute(element, "aria-label", this.label(row, column.label, cell, stale));
        const chosen = open !== null && cell !== null && open.cluster === row.cluster && open.id === gpuId(cell.gpu);
        setAttribute(element, "aria-selected", chosen ? "true" : null);
      });
    });
  }

  private label(row: HostRow, column: string, cell: Cell | null, stale: boolean): string {
    const where = `${row.hostname} GPU ${column}`;
    if (!cell) return `${where}: no GPU`;
    return `${where}: ${quantity(cell.latest?.value, this.model?.metric?.unit)}${stale ? ", stale" : ""}`;
  }

  private describe(target: EventTarget | null): void {
    const element = target instanceof HTMLElement && target.classList.contains("cell") ? target : null;
    const cell = element ? this.cells.get(element) : null;
    if (!element || cell === undefined || !this.model) return this.tooltip.hide();
    if (cell === null) return this.tooltip.show(element, ["No GPU here", "No sample has been stored for this slot."]);
    const { gpu, latest } = cell;
    const cluster = this.model.byCluster.get(gpu.cluster);
    const lines = [`${gpu.hostname} · GPU ${gpuLabel(gpu)}`, quantity(latest?.value, this.model.metric?.unit)];
    if (latest) {
      const old = age(sampleAge(cluster, latest.timestamp, this.context.elapsed()));
      lines.push(`${isStale(cluster, latest.timestamp) ? "stale: " : ""}${old} · ${moment(latest.timestamp, this.context.zone())}`);
    } else {
      lines.push("This GPU has no value for this metric.");
    }
    if (gpu.model) lines.push(gpu.model);
    lines.push(gpu.uuid || "no uuid in the source");
    this.tooltip.show(element, lines);
  }

  private open(target: EventTarget | null): void {
    const element = target instanceof Element ? target.closest<HTMLElement>(".cell") : null;
    const cell = element && this.cells.get(element);
    if (!element || !cell) return;
    this.focus(element);
    const id = gpuId(cell.gpu);
    if (id) this.context.go({ gpu: { cluster: cell.gpu.cluster, id } }, "push");
  }

  private walk(event: KeyboardEvent): void {
    const y = this.lines.findIndex((line) => line.includes(event.target as HTMLElement));
    const line = this.lines[y];
    if (!line) return;
    const x = line.indexOf(event.target as HTMLElement);
    const page = 10;
    const steps: Record<string, [number, number]> = {
      ArrowUp: [x, y - 1],
      ArrowDown: [x, y + 1],
      ArrowLeft: [x - 1, y],
      ArrowRight: [x + 1, y],
      Home: [0, event.ctrlKey ? 0 : y],
      End: [line.length - 1, event.ctrlKey ? this.lines.length - 1 : y],
      PageUp: [x, Math.max(0, y - page)],
      PageDown: [x, Math.min(this.lines.length - 1, y + page)],
    };
    if (event.key === "Enter" || event.key === " ") {
      this.open(event.target);
    } else {
      const step = steps[event.key];
      if (!step) return;
      const next = this.lines[step[1]]?.[step[0]];
      if (next) this.focus(next);
    }
    event.preventDefault();
  }

  private focus(element: HTMLElement): void {
    this.grid.querySelector('.cell[tabindex="0"]')?.setAttribute("tabindex", "-1");
    element.setAttribute("tabindex", "0");
    element.focus();
  }

  private showMore(): void {
    this.limit += HOSTS_AT_ONCE;
    if (this.model) this.update(this.model);
  }
}
