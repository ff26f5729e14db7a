// What one reader likes, kept in the browser: not part of a link.

import type { Zone } from "../format.ts";

const ZONE = "telemetry.zone";

export function loadZone(): Zone {
  try {
    return localStorage.getItem(ZONE) === "local" ? "local" : "utc";
  } catch {
    return "utc"; // A browser may forbid storage.
  }
}

export function saveZone(zone: Zone): void {
  try {
    localStorage.setItem(ZONE, zone);
  } catch {
    // Then it is forgotten with the page.
  }
}
