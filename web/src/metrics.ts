// The names of metrics on the page, and how their values are drawn.

import type { Metric } from "./api.ts";

/** Common names of metrics. Other metrics are shown by their own name without the prefix of the exporter. */
const LABELS: Record<string, string> = {
  DCGM_FI_DEV_GPU_UTIL: "GPU utilisation",
  DCGM_FI_DEV_MEM_COPY_UTIL: "Memory copy utilisation",
  DCGM_FI_DEV_POWER_USAGE: "Power draw",
  DCGM_FI_DEV_GPU_TEMP: "GPU temperature",
  DCGM_FI_DEV_MEMORY_TEMP: "Memory temperature",
  DCGM_FI_DEV_SM_CLOCK: "SM clock",
  DCGM_FI_DEV_MEM_CLOCK: "Memory clock",
  DCGM_FI_DEV_FB_USED: "Memory used",
  DCGM_FI_DEV_FB_FREE: "Memory free",
  DCGM_FI_DEV_FB_TOTAL: "Memory total",
  DCGM_FI_DEV_FB_RESERVED: "Memory reserved",
  DCGM_FI_DEV_FB_USED_PERCENT: "Memory used, share",
  DCGM_FI_DEV_ENC_UTIL: "Encoder utilisation",
  DCGM_FI_DEV_DEC_UTIL: "Decoder utilisation",
  DCGM_FI_DEV_XID_ERRORS: "Last XID error",
  DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION: "Energy consumed",
  DCGM_FI_DEV_PCIE_REPLAY_COUNTER: "PCIe replays",
  DCGM_FI_PROF_GR_ENGINE_ACTIVE: "Graphics engine active",
  DCGM_FI_PROF_SM_ACTIVE: "SM active",
  DCGM_FI_PROF_SM_OCCUPANCY: "SM occupancy",
  DCGM_FI_PROF_PIPE_TENSOR_ACTIVE: "Tensor pipe active",
  DCGM_FI_PROF_DRAM_ACTIVE: "Memory interface active",
  DCGM_FI_PROF_PCIE_TX_BYTES: "PCIe sent",
  DCGM_FI_PROF_PCIE_RX_BYTES: "PCIe received",
};

/** The metrics most people look at first, in this order; the others follow by name. */
const FIRST = [
  "DCGM_FI_DEV_GPU_UTIL",
  "DCGM_FI_PROF_GR_ENGINE_ACTIVE",
  "DCGM_FI_DEV_POWER_USAGE",
  "DCGM_FI_DEV_GPU_TEMP",
  "DCGM_FI_DEV_FB_USED",
  "DCGM_FI_DEV_MEM_COPY_UTIL",
];

export function metricLabel(name: string): string {
  const known = LABELS[name];
  if (known) return known;
  const bare = name.replace(/^DCGM_FI_(DEV|PROF)_/, "");
  return bare === name ? name : bare.replaceAll("_", " ").toLowerCase().replace(/^./, (first) => first.toUpperCase());
}

function rank(name: string): number {
  const at = FIRST.indexOf(name);
  return at < 0 ? FIRST.length : at;
}

export function inReadingOrder<T>(items: T[], name: (item: T) => string): T[] {
  return items.toSorted((a, b) => rank(name(a)) - rank(name(b)) || metricLabel(name(a)).localeCompare(metricLabel(name(b)), "en"));
}

/** The ends of the scale that the metric's unit gives, if it does: 0 to 100 for %, 0 to 1 for a share. */
export function naturalRange(metric: Pick<Metric, "name" | "unit">): [number, number] | null {
  if (metric.unit === "%") return [0, 100];
  if (/^DCGM_FI_PROF_.*(_ACTIVE|_OCCUPANCY)$/.test(metric.name) || metric.name === "DCGM_FI_DEV_FB_USED_PERCENT") return [0, 1];
  return null;
}

/** How several samples become one point: a counter's last value, else the mean. */
export function aggregation(metric: Pick<Metric, "kind"> | undefined): "last" | "avg" {
  return metric?.kind === "counter" ? "last" : "avg";
}
