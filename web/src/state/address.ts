// What the page shows is in the address (after #), so that a view can be linked, and back and forward work.

export const RANGES = {
  all: null,
  "15m": 15 * 60,
  "1h": 3600,
  "6h": 6 * 3600,
  "24h": 24 * 3600,
} as const;

export type Range = keyof typeof RANGES;

/** Most charts that one GPU shows at once. */
export const MAX_CHARTS = 4;

export interface Address {
  /** Only this cluster; null shows all. */
  cluster: string | null;
  /** Only hosts whose name has this. */
  host: string;
  /** The metric of the heatmap; null until one is chosen. */
  metric: string | null;
  /** The GPU that is open: its cluster, and its id as the API takes it. */
  gpu: { cluster: string; id: string } | null;
  /** The metrics charted for that GPU; empty means the heatmap's. */
  charts: string[];
  range: Range;
}

export const START: Address = { cluster: null, host: "", metric: null, gpu: null, charts: [], range: "all" };

export function parse(hash: string): Address {
  const fields = new URLSearchParams(hash.replace(/^#/, ""));
  const gpu = fields.get("gpu");
  const range = fields.get("range") ?? "";
  return {
    cluster: fields.get("cluster") || null,
    host: fields.get("host") ?? "",
    metric: fields.get("metric") || null,
    gpu: gpu ? { cluster: fields.get("gpu_cluster") ?? "", id: gpu } : null,
    charts: [...new Set(fields.getAll("chart").filter(Boolean))].slice(0, MAX_CHARTS),
    range: Object.hasOwn(RANGES, range) ? (range as Range) : START.range,
  };
}

export function format(address: Address): string {
  const fields = new URLSearchParams();
  if (address.cluster) fields.set("cluster", address.cluster);
  if (address.host) fields.set("host", address.host);
  if (address.metric) fields.set("metric", address.metric);
  if (address.gpu) {
    fields.set("gpu", address.gpu.id);
    if (address.gpu.cluster) fields.set("gpu_cluster", address.gpu.cluster);
    for (const chart of address.charts) fields.append("chart", chart);
    if (address.range !== START.range) fields.set("range", address.range);
  }
  const text = fields.toString();
  return text ? `#${text}` : "";
}
