// Asks for a bearer token when the API requires one.

import { el, setText } from "../dom.ts";

export class SignIn {
  private readonly input = el("input", { id: "token", type: "password", autocomplete: "off", required: true });
  private readonly text = el("p");
  readonly element: HTMLDialogElement;

  constructor(onToken: (token: string) => void) {
    const form = el(
      "form",
      {},
      el("h2", { id: "sign-in-title" }, "Token required"),
      this.text,
      el("label", { class: "field", for: "token" }, el("span", {}, "Token"), this.input),
      el("p", { class: "muted" }, "The token is kept in this tab only, until the tab is closed."),
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
    setText(this.text, hadToken ? "The server does not accept this token: it is wrong, or it was revoked. Enter another one." : "This server requires a token. Ask its operator for one.");
    if (!this.element.open) this.element.showModal();
    this.input.focus();
  }
}
