// Hosts and their GPUs in rows and columns, from the list of GPUs and the latest values of one metric.

import type { Gpu, Latest } from "./api.ts";

export interface Cell {
  gpu: Pick<Gpu, "cluster" | "hostname" | "uuid" | "gpu_index" | "mig_instance"> & Partial<Gpu>;
  latest: Latest | null;
}

export interface HostRow {
  key: string;
  cluster: string;
  hostname: string;
  cells: Map<string, Cell>;
}

export interface Column {
  key: string;
  label: string;
}

export interface Fleet {
  columns: Column[];
  rows: HostRow[];
}

const byName = new Intl.Collator("en", { numeric: true });

/** The id that the API takes for a GPU: its uuid, else host:index; null when it has neither. */
export function gpuId(gpu: { uuid: string; hostname: string; gpu_index: number | null }): string | null {
  if (gpu.uuid) return gpu.uuid;
  return gpu.gpu_index === null || gpu.gpu_index === undefined ? null : `${gpu.hostname}:${gpu.gpu_index}`;
}

/** "3", "3 · MIG 1", or "?" where the source gave no index. */
export function gpuLabel(gpu: { gpu_index: number | null; mig_instance?: string | number | null | undefined }): string {
  const mig = gpu.mig_instance;
  const index = gpu.gpu_index === null || gpu.gpu_index === undefined ? "?" : String(gpu.gpu_index);
  return mig === null || mig === undefined || mig === "" ? index : `${index} · MIG ${mig}`;
}

export function buildFleet(gpus: Gpu[], latest: Latest[], hostFilter: string): Fleet {
  const wanted = hostFilter.trim().toLowerCase();
  const rows = new Map<string, HostRow>();
  const columns = new Map<string, Column>();
  const place = (of: Gpu | Latest): [HostRow, string] | null => {
    if (wanted && !of.hostname.toLowerCase().includes(wanted)) return null;
    const key = JSON.stringify([of.cluster, of.hostname]);
    let row = rows.get(key);
    if (!row) rows.set(key, (row = { key, cluster: of.cluster, hostname: of.hostname, cells: new Map() }));
    const label = gpuLabel(of);
    // GPUs without an index stand side by side, told apart by their uuid.
    const column = of.gpu_index === null || of.gpu_index === undefined ? unindexed(row, label, of.uuid) : label;
    if (!columns.has(column)) columns.set(column, { key: column, label });
    return [row, column];
  };
  for (const gpu of gpus) {
    const at = place(gpu);
    if (!at) continue;
    const there = at[0].cells.get(at[1]);
    // A replaced GPU leaves its slot to the one seen last.
    if (!there || (there.gpu.last_seen ?? "") < (gpu.last_seen ?? "")) at[0].cells.set(at[1], { gpu, latest: null });
  }
  for (const value of latest) {
    const at = place(value);
    if (!at) continue;
    const there = at[0].cells.get(at[1]);
    if (!there) {
      at[0].cells.set(at[1], { gpu: value, latest: value });
    } else if (there.gpu.uuid === value.uuid && (!there.latest || there.latest.timestamp < value.timestamp)) {
      there.latest = value;
    }
  }
  return {
    columns: [...columns.values()].sort(
      (a, b) => Number(a.label.startsWith("?")) - Number(b.label.startsWith("?")) || byName.compare(a.key, b.key),
    ),
    rows: [...rows.values()].sort((a, b) => byName.compare(a.cluster, b.cluster) || byName.compare(a.hostname, b.hostname)),
  };
}

function unindexed(row: HostRow, label: string, uuid: string): string {
  for (let at = 0; ; at += 1) {
    const key = `${label}${" ".repeat(at)}`;
    const there = row.cells.get(key);
    if (!there || there.gpu.uuid === uuid) return key;
  }
}
