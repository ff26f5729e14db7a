// A small box beside the cell under the pointer or the focus. Screen readers have the cell's own label instead.

import { el } from "../dom.ts";

export class Tooltip {
  readonly element = el("div", { class: "tooltip", "aria-hidden": "true", hidden: true });

  show(beside: HTMLElement, lines: string[]): void {
    this.element.replaceChildren(...lines.map((line, at) => el("div", { class: at === 0 ? "tooltip-title" : at === 1 ? "tooltip-value" : null }, line)));
    this.element.hidden = false;
    const at = beside.getBoundingClientRect();
    const box = this.element.getBoundingClientRect();
    const left = Math.min(Math.max(8, at.left + at.width / 2 - box.width / 2), innerWidth - box.width - 8);
    const above = at.top - box.height - 8;
    this.element.style.left = `${left}px`;
    this.element.style.top = `${above > 8 ? above : at.bottom + 8}px`;
  }

  hide(): void {
    this.element.hidden = true;
  }
}
