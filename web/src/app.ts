// The page: reads the data that the address selects, refreshes it, and updates the views.

import { Api, ApiError, type Cluster, type Gpu, type Latest, type Metric } from "./api.ts";
import { el, setText } from "./dom.ts";
import type { Zone } from "./format.ts";
import { inReadingOrder } from "./metrics.ts";
import { format, parse, type Address } from "./state/address.ts";
import { loadZone, saveZone } from "./state/preferences.ts";
import { setToken, token } from "./state/token.ts";
import { GpuView } from "./views/gpu.ts";
import { Header } from "./views/header.ts";
import { Heatmap } from "./views/heatmap.ts";
import { Notices } from "./views/notices.ts";
import { Overview } from "./views/overview.ts";
import { SignIn } from "./views/sign_in.ts";

/** Time between two refreshes, in milliseconds. */
const REFRESH_MS = 10_000;
/** Time between two reads of what changes slowly (GPUs, the catalogue), in milliseconds. */
const SLOW_REFRESH_MS = 60_000;

/** The data that was read last. */
export interface Model {
  clusters: Cluster[];
  byCluster: Map<string, Cluster>;
  metrics: Metric[];
  gpus: Gpu[];
  /** The metric of the heatmap, and its latest values. */
  metric: Metric | null;
  latest: Latest[];
  /** The cluster of the latest values; null: all clusters. */
  cluster: string | null;
  /** False when there is more than the page reads. */
  complete: boolean;
}

/** The interface of the page for its views. */
export interface Context {
  address(): Address;
  /** Goes to another address; "push" makes a step for the back button. */
  go(change: Partial<Address>, how?: "push" | "replace"): void;
  zone(): Zone;
  setZone(zone: Zone): void;
  paused(): boolean;
  setPaused(paused: boolean): void;
  refreshing(): boolean;
  refresh(): void;
  /** Whether anything was read yet. */
  hasData(): boolean;
  /** Seconds since the model was read. */
  elapsed(): number;
}

export class App implements Context {
  private readonly api = new Api(token);
  private readonly notices = new Notices();
  private readonly signIn = new SignIn((given) => {
    setToken(given);
    this.refresh();
  });
  private readonly header = new Header(this);
  private readonly overview = new Overview(this);
  private readonly heatmap = new Heatmap(this);
  private readonly gpu = new GpuView(this, this.api);
  private readonly live = el("p", { class: "visually-hidden", role: "status", "aria-live": "polite" });
  private readonly views = el("div", { class: "views", hidden: true }, this.overview.element, el("div", { class: "split" }, this.heatmap.element, this.gpu.element));
  private readonly main = el("main", { id: "main", tabindex: "-1" }, this.notices.element, this.views);

  private here = parse(location.hash);
  private currentZone = loadZone();
  private isPaused = false;
  private model: Model | null = null;
  private readAt = 0;
  private slowAt = 0;
  private running: AbortController | null = null;
  private timer: number | undefined;
  private retryAt: number | null = null;
  private failed = false;

  start(): void {
    const skip = el("a", { class: "skip", href: "#main", on: { click: (event) => (event.preventDefault(), this.main.focus()) } }, "Skip to content");
    document.body.append(skip, this.header.element, this.main, this.live, this.signIn.element);
    addEventListener("popstate", () => this.arrive());
    addEventListener("keydown", (event) => {
      // In the search, Escape clears the field; in the dialog, it closes the dialog.
      const taken = event.target instanceof HTMLInputElement && event.target.type === "search";
      if (event.key === "Escape" && !taken && !this.signIn.element.open) this.gpu.close();
    });
    document.addEventListener("visibilitychange", () => (document.hidden ? this.stop() : this.refresh()));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.gpu.recolour());
    setInterval(() => this.tick(), 1000);
    this.refresh();
  }

  address(): Address {
    return this.here;
  }

  go(change: Partial<Address>, how: "push" | "replace" = "replace"): void {
    const next = { ...this.here, ...change };
    const url = format(next) || location.pathname + location.search;
    if (how === "push") history.pushState(null, "", url);
    else history.replaceState(null, "", url);
    this.arrive();
  }

  zone(): Zone {
    return this.currentZone;
  }

  setZone(zone: Zone): void {
    this.currentZone = zone;
    saveZone(zone);
    this.say(zone === "utc" ? "Times are in UTC" : "Times are local");
    this.refresh();
  }

  paused(): boolean {
    return this.isPaused;
  }

  setPaused(paused: boolean): void {
    this.isPaused = paused;
    this.say(paused ? "Refreshing is paused" : "Refreshing every 10 seconds");
    if (paused) clearTimeout(this.timer);
    else this.refresh();
    this.tick();
  }

  refreshing(): boolean {
    return this.running !== null;
  }

  hasData(): boolean {
    return this.model !== null;
  }

  elapsed(): number {
    return this.readAt === 0 ? 0 : (Date.now() - this.readAt) / 1000;
  }

  refresh(): void {
    void this.run();
  }

  /** The address changed: shows at once what is known, and reads the rest. */
  private arrive(): void {
    const before = this.here;
    this.here = parse(location.hash);
    const differs = (...fields: (keyof Address)[]): boolean => fields.some((field) => JSON.stringify(this.here[field]) !== JSON.stringify(before[field]));
    const opened = this.here.gpu && differs("gpu");
    this.gpu.open(this.here);
    if (this.model) this.show(this.model);
    // Reads only what is missing: a search over hosts reads nothing; another GPU or range does not read the fleet.
    const { metric, cluster } = this.here;
    if (this.model === null || this.model.metric?.name !== metric || this.model.cluster !== cluster) void this.run();
    else if (differs("gpu", "charts", "range")) void this.run(this.model);
    if (opened) {
      this.gpu.reveal();
      this.say(`GPU ${this.here.gpu?.id} is shown beside the hosts; Escape closes it`);
    } else if (before.gpu && !this.here.gpu) {
      this.say("The GPU is closed");
    }
  }

  private stop(): void {
    clearTimeout(this.timer);
    this.running?.abort();
    this.running = null;
  }

  /** Reads everything, or with a model at hand only the GPU; then waits for the next time. */
  private async run(known?: Model): Promise<void> {
    this.stop();
    const controller = (this.running = new AbortController());
    this.tick();
    let wait = REFRESH_MS;
    try {
      const model = known ?? (await this.read(controller.signal));
      this.model = model;
      if (!known) this.show(model);
      if (model.clusters.length > 0) await this.gpu.load(this.here, model, controller.signal);
      this.recovered();
    } catch (error) {
      if (controller.signal.aborted) return;
      wait = this.fail(error);
    }
    if (this.running !== controller) return;
    this.running = null;
    this.tick();
    // After a 503 the page retries even while it is paused, because the reader waits for data.
    if (!document.hidden && (!this.isPaused || this.retryAt !== null)) this.timer = window.setTimeout(() => this.refresh(), wait);
  }

  private async read(signal: AbortSignal): Promise<Model> {
    const slow = Date.now() - this.slowAt > SLOW_REFRESH_MS ? null : this.model;
    const { metric: chosen, cluster } = this.here;
    const [clusters, metrics, gpus, early] = await Promise.all([
      this.api.clusters(signal),
      slow ? { data: slow.metrics } : this.api.metrics(signal),
      slow ? { data: slow.gpus, complete: slow.complete } : this.api.gpus(null, signal),
      chosen ? this.api.latest(chosen, cluster, signal) : null,
    ]);
    const readAt = Date.now();
    const stored = inReadingOrder(metrics.data.filter((metric) => metric.stored !== false), (metric) => metric.name);
    const metric = metrics.data.find((metric) => metric.name === chosen) ?? (chosen ? { name: chosen, unit: "", description: "", kind: "gauge" } : (stored[0] ?? null));
    const latest = early ?? (metric ? await this.api.latest(metric.name, cluster, signal) : { data: [], complete: true });
    if (!slow) this.slowAt = readAt;
    this.readAt = readAt;
    if (!chosen && metric) {
      this.here = { ...this.here, metric: metric.name };
      history.replaceState(null, "", format(this.here));
    }
    return {
      clusters: clusters.data,
      byCluster: new Map(clusters.data.map((cluster) => [cluster.cluster, cluster])),
      metrics: metrics.data,
      gpus: gpus.data,
      metric,
      cluster,
      latest: latest.data,
      complete: gpus.complete && latest.complete,
    };
  }

  private show(model: Model): void {
    const empty = model.clusters.length === 0;
    this.notices.show(empty ? "empty" : "data");
    this.views.hidden = empty;
    if (empty) return;
    this.overview.update(model);
    this.heatmap.update(model);
  }

  private recovered(): void {
    this.notices.clear();
    if (this.failed) this.say("The server answers again");
    this.failed = false;
    this.retryAt = null;
  }

  /** Shows an error; returns the time until the next attempt, in milliseconds. */
  private fail(error: unknown): number {
    const known = error instanceof Error ? error : new Error(String(error));
    this.failed = true;
    this.retryAt = null;
    if (error instanceof ApiError && error.status === 401) {
      this.notices.fail(known, this.model !== null);
      this.signIn.ask(token() !== null);
      return REFRESH_MS * 360;
    }
    this.notices.fail(known, this.model !== null);
    const wait = error instanceof ApiError && error.retryAfter !== null ? Math.max(1, error.retryAfter) * 1000 : REFRESH_MS;
    if (!this.isPaused || (error instanceof ApiError && error.status === 503)) this.retryAt = Date.now() + wait;
    return wait;
  }

  private tick(): void {
    this.header.tick();
    if (this.model) {
      this.overview.tick(this.model);
      this.gpu.tick(this.model);
    }
    if (this.retryAt !== null) {
      const seconds = Math.ceil((this.retryAt - Date.now()) / 1000);
      const before = this.model ? "The page shows older data. " : "";
      this.notices.next(before + (seconds > 0 ? `Retrying in ${seconds} s.` : "Retrying…"));
    }
  }

  private say(text: string): void {
    setText(this.live, text);
  }
}
