// How old data may be before the page says so. Ages come from the server (`freshness_seconds`), so that a wrong clock on the
// reader's side cannot make fresh data look old.

import type { Cluster } from "./api.ts";

/** Newest sample at most this old: the cluster is live. In seconds. */
export const LIVE_SECONDS = 90;
/** Up to this it is behind; beyond, silent. In seconds. */
export const BEHIND_SECONDS = 15 * 60;
/** A value this far behind the newest sample of its cluster is stale. In seconds. */
export const STALE_SECONDS = 5 * 60;

export type Freshness = "live" | "behind" | "silent" | "unknown";

export function freshness(age: number | null): Freshness {
  if (age === null) return "unknown";
  return age <= LIVE_SECONDS ? "live" : age <= BEHIND_SECONDS ? "behind" : "silent";
}

/** The age of a cluster's newest sample, `elapsed` seconds after the server answered. */
export function clusterAge(cluster: Cluster | undefined, elapsed: number): number | null {
  const at = cluster?.freshness_seconds;
  return at === null || at === undefined ? null : at + elapsed;
}

/** The age of one sample: the age of its cluster's newest, and how far it lies behind that. */
export function sampleAge(cluster: Cluster | undefined, timestamp: string, elapsed: number): number | null {
  const newest = clusterAge(cluster, elapsed);
  const behind = lag(cluster, timestamp);
  return newest === null || behind === null ? null : newest + behind;
}

/** How far a sample lies behind the newest of its cluster, in seconds. */
export function lag(cluster: Cluster | undefined, timestamp: string): number | null {
  if (!cluster?.last_seen) return null;
  const seconds = (Date.parse(cluster.last_seen) - Date.parse(timestamp)) / 1000;
  return Number.isFinite(seconds) ? seconds : null;
}

export function isStale(cluster: Cluster | undefined, timestamp: string): boolean {
  const behind = lag(cluster, timestamp);
  return behind !== null && behind > STALE_SECONDS;
}
