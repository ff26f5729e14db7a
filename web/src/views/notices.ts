// Messages: loading, nothing stored yet, errors.

import type { ApiError } from "../api.ts";
import { el, setText } from "../dom.ts";

export class Notices {
  private readonly errorTitle = el("strong");
  private readonly errorText = el("span");
  private readonly errorNext = el("span", { class: "muted" });
  private readonly error = el(
    "div",
    { class: "notice error", hidden: true },
    // The countdown is outside the alert, so that screen readers do not read it every second.
    el("span", { role: "alert" }, this.errorTitle, " ", this.errorText),
    " ",
    this.errorNext,
  );
  private readonly loading = el("p", { class: "card loading", role: "status" }, "Loading…");
  private readonly empty = el(
    "section",
    { class: "card empty", hidden: true, "aria-labelledby": "empty-title" },
    el("h2", { id: "empty-title" }, "Nothing is stored yet"),
    el("p", {}, "Samples appear here within seconds after they are stored. Stream a DCGM export, and run a collector that stores it:"),
    el("pre", { tabindex: "0" }, "telemetry collect &\ntelemetry stream --csv gpus.csv --cluster edge-a --until stored"),
    el("p", { class: "muted" }, "No export at hand? Generate one: ", el("code", {}, "telemetry generate --gpus 64 --duration 10m > gpus.csv")),
  );
  readonly element = el("div", { class: "notices" }, this.error, this.loading, this.empty);

  show(state: "loading" | "empty" | "data"): void {
    this.loading.hidden = state !== "loading";
    this.empty.hidden = state !== "empty";
  }

  fail(error: ApiError | Error, hasData: boolean): void {
    setText(this.errorTitle, sentence("title" in error ? error.title : "Something went wrong"));
    setText(this.errorText, sentence(error.message));
    setText(this.errorNext, hasData ? "The page shows older data." : "");
    this.error.hidden = false;
    if (!hasData) this.loading.hidden = true;
  }

  /** Sets the text after the error: when the next attempt is made. */
  next(text: string): void {
    if (!this.error.hidden) setText(this.errorNext, text);
  }

  clear(): void {
    this.error.hidden = true;
  }
}

function sentence(text: string): string {
  return /[.!?…]$/.test(text) ? text : `${text}.`;
}
