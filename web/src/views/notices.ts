// Loading, nothing stored yet, and what went wrong — in words.

import type { ApiError } from "../api.ts";
import { el, setText } from "../dom.ts";

export class Notices {
  private readonly errorTitle = el("strong");
  private readonly errorText = el("span");
  private readonly errorNext = el("span", { class: "muted" });
  private readonly error = el(
    "div",
    { class: "notice error", hidden: true },
    // What counts down stays outside of what is read out.
    el("span", { role: "alert" }, this.errorTitle, " ", this.errorText),
    " ",
    this.errorNext,
  );
  private readonly loading = el("p", { class: "card loading", role: "status" }, "Loading what is stored…");
  private readonly empty = el(
    "section",
    { class: "card empty", hidden: true, "aria-labelledby": "empty-title" },
    el("h2", { id: "empty-title" }, "Nothing is stored yet"),
    el("p", {}, "Samples show up here within seconds of being stored. Send a DCGM export, and let a collector store it:"),
    el("pre", { tabindex: "0" }, "telemetry collect &\ntelemetry stream --csv gpus.csv --cluster edge-a --until stored"),
    el("p", { class: "muted" }, "No data at hand? ", el("code", {}, "telemetry generate --gpus 64 --duration 10m > gpus.csv"), " makes some."),
  );
  readonly element = el("div", { class: "notices" }, this.error, this.loading, this.empty);

  show(state: "loading" | "empty" | "data"): void {
    this.loading.hidden = state !== "loading";
    this.empty.hidden = state !== "empty";
  }

  fail(error: ApiError | Error, hasData: boolean): void {
    setText(this.errorTitle, sentence("title" in error ? error.title : "Something went wrong"));
    setText(this.errorText, sentence(error.message));
    setText(this.errorNext, hasData ? "What is shown is from before." : "");
    this.error.hidden = false;
    if (!hasData) this.loading.hidden = true;
  }

  /** When it is tried again; read out only once, as the text of the error. */
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
