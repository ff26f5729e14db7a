// The top of the page: links, the time zone, and the refresh.

import { el, setAttribute, setText } from "../dom.ts";
import { age, type Zone } from "../format.ts";
import type { Context } from "../app.ts";

export class Header {
  private readonly zone = el("button", { type: "button", class: "button quiet", on: { click: () => this.toggleZone() } });
  private readonly pause = el("button", { type: "button", class: "button quiet", id: "pause", on: { click: () => this.context.setPaused(!this.context.paused()) } });
  private readonly now = el("button", { type: "button", class: "button", id: "refresh", on: { click: () => this.context.refresh() } }, "Refresh");
  private readonly status = el("span", { class: "refresh-status muted" });
  readonly element: HTMLElement;

  constructor(private readonly context: Context) {
    const mark = el("span", { class: "mark", "aria-hidden": "true" });
    this.element = el(
      "header",
      { class: "top" },
      el("h1", {}, mark, "telemetry"),
      el(
        "nav",
        { "aria-label": "Pages" },
        el("a", { href: "./", "aria-current": "page" }, "Overview"),
        el("a", { href: "docs" }, "API"),
      ),
      el("div", { class: "tools" }, this.status, this.zone, this.pause, this.now),
    );
  }

  tick(): void {
    const zone = this.context.zone();
    setText(this.zone, zone === "utc" ? "UTC" : "Local time");
    setAttribute(this.zone, "title", zone === "utc" ? "Times are in UTC: switch to local time" : "Times are local: switch to UTC");
    const paused = this.context.paused();
    setText(this.pause, paused ? "Resume" : "Pause");
    setAttribute(this.pause, "aria-pressed", String(paused));
    setAttribute(this.pause, "title", paused ? "Resume the refresh every 10 s" : "Pause the refresh every 10 s");
    const state = this.context.refreshing() ? "Updating…" : this.context.hasData() ? `Updated ${age(this.context.elapsed())}` : "No data yet";
    setText(this.status, paused ? `${state}, paused` : state);
  }

  private toggleZone(): void {
    const next: Zone = this.context.zone() === "utc" ? "local" : "utc";
    this.context.setZone(next);
  }
}
