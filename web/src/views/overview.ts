// The stored data: the tiles, and a table of the clusters.

import type { Cluster } from "../api.ts";
import { el, setAttribute, setText } from "../dom.ts";
import { age, count, moment } from "../format.ts";
import { clusterAge, freshness, type Freshness } from "../freshness.ts";
import type { Context, Model } from "../app.ts";

const STATES: Record<Freshness, string> = {
  live: "live",
  behind: "behind",
  silent: "silent",
  unknown: "no samples yet",
};

class Tile {
  readonly value = el("dd", { class: "tile-value" });
  readonly note = el("dd", { class: "tile-note" });
  readonly element: HTMLElement;

  constructor(name: string, id: string) {
    this.element = el("div", { class: "tile", "data-tile": id }, el("dt", {}, name), this.value, this.note);
  }

  set(value: string, note = "", raw: string | number = value): void {
    setText(this.value, value);
    setText(this.note, note);
    setAttribute(this.element, "data-value", String(raw));
  }
}

export class Overview {
  private readonly clusters = new Tile("Clusters", "clusters");
  private readonly hosts = new Tile("Hosts", "hosts");
  private readonly gpus = new Tile("GPUs", "gpus");
  private readonly metrics = new Tile("Metrics", "metrics");
  private readonly newest = new Tile("Newest sample", "newest");
  private readonly body = el("tbody");
  private readonly rows = new Map<string, ClusterRow>();
  readonly element = el(
    "section",
    { class: "overview", "aria-labelledby": "stored-title" },
    el("h2", { id: "stored-title", class: "visually-hidden" }, "Stored data"),
    el(
      "dl",
      { class: "tiles" },
      ...[this.clusters, this.hosts, this.gpus, this.metrics, this.newest].map((tile) => tile.element),
    ),
    el(
      "div",
      { class: "card table-card" },
      el(
        "table",
        { class: "clusters" },
        el("caption", { class: "visually-hidden" }, "Clusters: select one to show only its hosts"),
        el(
          "thead",
          {},
          el(
            "tr",
            {},
            ...["Cluster", "Hosts", "GPUs", "First sample", "Newest sample", "Freshness"].map((name, at) =>
              el("th", { scope: "col", class: at === 1 || at === 2 ? "number" : null }, name),
            ),
          ),
        ),
        this.body,
      ),
    ),
  );

  constructor(private readonly context: Context) {}

  update(model: Model): void {
    const all = model.clusters;
    const sum = (of: (cluster: Cluster) => number): number => all.reduce((total, cluster) => total + of(cluster), 0);
    this.clusters.set(count(all.length), "", all.length);
    const hosts = sum((cluster) => cluster.hosts);
    const gpus = sum((cluster) => cluster.gpus);
    this.hosts.set(count(hosts), "", hosts);
    this.gpus.set(count(gpus), "", gpus);
    const stored = model.metrics.filter((metric) => metric.stored !== false).length;
    this.metrics.set(count(stored), "", stored);
    const kept = new Set<string>();
    all.forEach((cluster, index) => {
      kept.add(cluster.cluster);
      let row = this.rows.get(cluster.cluster);
      if (!row) this.rows.set(cluster.cluster, (row = new ClusterRow(this.context, cluster.cluster)));
      if (this.body.children[index] !== row.element) this.body.insertBefore(row.element, this.body.children[index] ?? null);
    });
    for (const [name, row] of this.rows) {
      if (!kept.has(name)) {
        row.element.remove();
        this.rows.delete(name);
      }
    }
    this.tick(model);
  }

  /** Updates what changes with the clock only. */
  tick(model: Model): void {
    const elapsed = this.context.elapsed();
    const ages = model.clusters.map((cluster) => clusterAge(cluster, elapsed)).filter((value) => value !== null);
    const newest = ages.length > 0 ? Math.min(...ages) : null;
    const states = model.clusters.map((cluster) => freshness(clusterAge(cluster, elapsed)));
    const live = states.filter((state) => state === "live").length;
    this.newest.set(
      age(newest),
      states.length < 2 ? "" : live === states.length ? "all clusters live" : `${live} of ${states.length} clusters live`,
    );
    setAttribute(this.newest.element, "data-state", freshness(newest));
    for (const cluster of model.clusters) {
      this.rows.get(cluster.cluster)?.update(cluster, elapsed);
    }
  }
}

class ClusterRow {
  private readonly button: HTMLButtonElement;
  private readonly cells = Array.from({ length: 4 }, (_, at) => el("td", { class: at < 2 ? "number" : null }));
  private readonly badge = el("span", { class: "badge" });
  private readonly ageText = el("span", { class: "muted" });
  readonly element: HTMLTableRowElement;

  constructor(
    private readonly context: Context,
    private readonly name: string,
  ) {
    this.button = el("button", { type: "button", class: "link", on: { click: () => this.toggle() } }, name);
    this.element = el(
      "tr",
      { "data-cluster": name },
      el("th", { scope: "row" }, this.button),
      ...this.cells,
      el("td", {}, this.badge, " ", this.ageText),
    );
  }

  update(cluster: Cluster, elapsed: number): void {
    const { zone, cluster: chosen } = { zone: this.context.zone(), cluster: this.context.address().cluster };
    const texts = [count(cluster.hosts), count(cluster.gpus), moment(cluster.first_seen, zone), moment(cluster.last_seen, zone)];
    this.cells.forEach((cell, at) => setText(cell, texts[at] ?? ""));
    const old = clusterAge(cluster, elapsed);
    const state = freshness(old);
    setText(this.badge, STATES[state]);
    setAttribute(this.badge, "data-state", state);
    setText(this.ageText, old === null ? "" : age(old));
    setAttribute(this.button, "aria-pressed", String(chosen === this.name));
    setAttribute(this.button, "title", chosen === this.name ? "Show all clusters" : "Show only this cluster");
  }

  private toggle(): void {
    const chosen = this.context.address().cluster === this.name ? null : this.name;
    this.context.go({ cluster: chosen });
  }
}
