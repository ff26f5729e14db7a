// Asks for a bearer token when the API wants one.

import { el, setText } from "../dom.ts";

export class SignIn {
  private readonly input = el("input", { id: "token", type: "password", autocomplete: "off", required: true });
  private readonly text = el("p");
  readonly element: HTMLDialogElement;

  constructor(onToken: (token: string) => void) {
    const form = el(
      "form",
      {},
      el("h2", { id: "sign-in-title" }, "A token is needed"),
      this.text,
      el("label", { class: "field", for: "token" }, el("span", {}, "Token"), this.input),
      el("p", { class: "muted" }, "It is kept in this tab only, and forgotten when the tab is closed."),
      el("button", { type: "submit", class: "button primary" }, "Use this token"),
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const token = this.input.value.trim();
      if (!token) return;
      this.input.value = "";
      this.element.close();
      onToken(token);
    });
    this.element = el("dialog", { class: "sign-in", "aria-labelledby": "sign-in-title" }, form);
  }

  ask(hadToken: boolean): void {
    setText(this.text, hadToken ? "The server does not know this token, or it was withdrawn. Give another." : "This server answers only with a token. Whoever runs it can give you one.");
    if (!this.element.open) this.element.showModal();
    this.input.focus();
  }
}
