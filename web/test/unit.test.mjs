// The pure parts: formats, ages, the address, the chart's lines, the colour scale, hosts and GPUs. `npm run test:unit` compiles
// them to node_modules/.unit first.

import assert from "node:assert/strict";
import { test } from "node:test";
import * as levels from "../node_modules/.unit/charts/levels.js";
import * as series from "../node_modules/.unit/charts/series.js";
import * as fleet from "../node_modules/.unit/fleet.js";
import * as format from "../node_modules/.unit/format.js";
import * as freshness from "../node_modules/.unit/freshness.js";
import * as metrics from "../node_modules/.unit/metrics.js";
import * as address from "../node_modules/.unit/state/address.js";

function table(of, rows) {
  for (const [args, wanted] of rows) assert.equal(of(...args), wanted, `${of.name}(${JSON.stringify(args)})`);
}

test("numbers keep the digits that matter, and what is absent is n/a", () => {
  table(format.number, [
    [[0], "0"], [[97], "97"], [[592.74], "592.7"], [[0.12345], "0.1235"], [[80559], "80,559"], [[0.00001234], "1.23e-5"],
    [[null], "n/a"], [[undefined], "n/a"], [[Number.NaN], "n/a"], [[-3.456], "-3.46"],
  ]);
  table(format.short, [
    [[0], "0"], [[97.4], "97"], [[9.25], "9.3"], [[0.456], "0.46"], [[9999], "9999"], [[79_061], "79.1k"], [[4.2e6], "4.2M"], [[2.2e10], "22.0G"],
    [[0.004], "4e-3"], [[null], "n/a"],
  ]);
  table(format.quantity, [[[61, "C"], "61 °C"], [[0, "W"], "0 W"], [[null, "W"], "n/a"], [[3, ""], "3"]]);
});

test("ages are in words, and a clock that runs ahead is said to", () => {
  table(format.age, [
    [[0.4], "just now"], [[12.9], "12 s ago"], [[180], "3 min ago"], [[7300], "2 h ago"], [[200_000], "2 d ago"],
    [[-5], "5 s ahead of the server's clock"], [[null], "n/a"],
  ]);
});

test("moments are in UTC with their zone, with milliseconds only where there are some", () => {
  assert.equal(format.moment("2026-01-31T23:59:58Z", "utc"), "2026-01-31 23:59:58 UTC");
  assert.equal(format.moment("2026-01-31T23:59:58.250Z", "utc"), "2026-01-31 23:59:58.250 UTC");
  assert.equal(format.moment(null, "utc"), "n/a");
  assert.equal(format.moment("soon", "utc"), "n/a");
});

test("the time axis has the date at the first label and where the day changes", () => {
  const at = Date.parse("2026-01-31T22:00:00Z") / 1000;
  assert.deepEqual(format.axisTimes([at, at + 3600, at + 7200], 3600, "utc"), ["22:00\n2026-01-31", "23:00", "00:00\n2026-02-01"]);
  assert.deepEqual(format.axisTimes([at + 1.5], 0.5, "utc"), ["00:01.500\n2026-01-31"]);
});

const CLUSTER = { cluster: "a", hosts: 1, gpus: 1, first_seen: null, last_seen: "2026-01-01T00:10:00Z", freshness_seconds: 20 };

test("the age of a sample is that of its cluster's newest and its distance from it", () => {
  assert.equal(freshness.sampleAge(CLUSTER, "2026-01-01T00:09:00Z", 5), 85);
  assert.equal(freshness.sampleAge({ ...CLUSTER, freshness_seconds: null }, "2026-01-01T00:09:00Z", 5), null);
  assert.equal(freshness.isStale(CLUSTER, "2026-01-01T00:09:00Z"), false);
  assert.equal(freshness.isStale(CLUSTER, "2026-01-01T00:04:59Z"), true);
  assert.equal(freshness.isStale(undefined, "2026-01-01T00:04:59Z"), false);
  table(freshness.freshness, [[[10], "live"], [[600], "behind"], [[3600], "silent"], [[null], "unknown"]]);
});

test("an address survives being written and read", () => {
  const full = {
    cluster: "edge a&b", host: "dgx-1", metric: "M", gpu: { cluster: "edge a&b", id: "host:3" }, charts: ["M", "N"], range: "6h",
  };
  assert.deepEqual(address.parse(address.format(full)), full);
  assert.deepEqual(address.parse(""), address.START);
  assert.equal(address.format(address.START), "");
});

test("an address that somebody typed is read as far as it makes sense", () => {
  assert.equal(address.parse("#range=toString").range, "all");
  assert.equal(address.parse("#range=1y").range, "all");
  assert.deepEqual(address.parse("#gpu=g&chart=a&chart=a&chart=&chart=b&chart=c&chart=d&chart=e").charts, ["a", "b", "c", "d"]);
});

test("steps leave at most a thousand points", () => {
  assert.equal(series.stepFor(900), null);
  for (const span of [1001, 3600, 21_600, 86_400, 30 * 86_400, 400 * 86_400]) {
    const step = series.stepFor(span);
    assert.ok(span / step <= series.MAX_POINTS, `${span} s in steps of ${step} s`);
    assert.ok(span / step > series.MAX_POINTS / 6, `${span} s in steps of ${step} s is too coarse`);
  }
});

const point = (at, value, pod) => ({ timestamp: new Date(at * 1000).toISOString(), metric_name: "m", value, pod });

test("a long pause is a gap, an absent value too, and 0 is a value", () => {
  const { times, lines } = series.plot([point(0, 1), point(10, 0), point(20, null), point(30, 4), point(300, 5)]);
  assert.deepEqual(times, [0, 10, 20, 30, 165, 300]);
  assert.deepEqual(lines, [{ name: "", values: [1, 0, null, 4, null, 5] }]);
});

test("each workload has a line, and another's times are no gaps", () => {
  const { times, lines, more } = series.plot([point(0, 1, "p"), point(5, 2, "q"), point(10, 3, "p"), point(15, 4, "q")]);
  assert.deepEqual(times, [0, 5, 10, 15]);
  assert.deepEqual(lines.map((line) => line.name), ["p", "q"]);
  assert.deepEqual(lines[0].values, [1, undefined, 3, undefined]);
  assert.equal(more, 0);
});

test("nothing is drawn where a workload's samples pause, whoever has samples meanwhile", () => {
  const idle = [point(0, 60), point(100, 70)];
  const busy = Array.from({ length: 9 }, (_, i) => point(10 + i * 10, 500, "p"));
  const { times, lines } = series.plot([...idle, ...busy]);
  assert.deepEqual(lines[0].values, times.map((at) => ({ 0: 60, 100: 70 })[at] ?? null));
  assert.deepEqual(lines[1].values.filter((value) => value === null), []);
});

test("the scale is the unit's own, else from the values; equal values are in the middle", () => {
  assert.deepEqual(levels.scaleOf([3, 5], [0, 100]), { min: 0, max: 100 });
  assert.deepEqual(levels.scaleOf([3, -5], null), { min: -5, max: 3 });
  assert.equal(levels.scaleOf([], null), null);
  const scale = { min: 0, max: 100 };
  assert.deepEqual([-1, 0, 50, 100, 1000].map((value) => levels.level(value, scale)), [0, 0, 6, 11, 11]);
  assert.equal(levels.level(7, { min: 7, max: 7 }), 6);
});

const gpu = (hostname, gpu_index, more = {}) => ({ cluster: "a", hostname, gpu_index, uuid: `u-${hostname}-${gpu_index}`, last_seen: "2026-01-01T00:00:00Z", ...more });
const latest = (of, value, timestamp = "2026-01-01T00:00:00Z") => ({ ...of, metric_name: "m", value, timestamp });

test("hosts are in the order of their numbers, missing slots stay empty, GPUs without a value keep theirs", () => {
  const [two, ten, hole] = [gpu("h2", 0), gpu("h10", 0), gpu("h10", 2)];
  const built = fleet.buildFleet([ten, hole, two], [latest(two, 7)], "");
  assert.deepEqual(built.rows.map((row) => row.hostname), ["h2", "h10"]);
  assert.deepEqual(built.columns.map((column) => column.key), ["0", "2"]);
  assert.equal(built.rows[0].cells.get("0").latest.value, 7);
  assert.equal(built.rows[0].cells.has("2"), false);
  assert.equal(built.rows[1].cells.get("0").latest, null);
  assert.deepEqual(fleet.buildFleet([ten, two], [], "H10").rows.map((row) => row.hostname), ["h10"]);
});

test("the newest of two values counts, and a replaced GPU leaves its slot", () => {
  const old = gpu("h", 0, { uuid: "old", last_seen: "2025-01-01T00:00:00Z" });
  const fresh = gpu("h", 0, { uuid: "new" });
  const values = [latest(old, 1, "2025-01-01T00:00:00Z"), latest(fresh, 3, "2026-01-01T00:00:00Z"), latest(fresh, 2, "2025-12-31T00:00:00Z")];
  const [row] = fleet.buildFleet([old, fresh], values, "").rows;
  assert.equal(row.cells.get("0").gpu.uuid, "new");
  assert.equal(row.cells.get("0").latest.value, 3);
});

test("MIG instances and GPUs without an index have columns of their own, the latter last", () => {
  const all = [gpu("h", null, { uuid: "x" }), gpu("h", null, { uuid: "y" }), gpu("h", 1, { mig_instance: "2" }), gpu("h", 1, { mig_instance: "10" })];
  const built = fleet.buildFleet(all, [latest(all[1], 5)], "");
  assert.deepEqual(built.columns.map((column) => column.label), ["1 · MIG 2", "1 · MIG 10", "?", "?"]);
  assert.equal([...built.rows[0].cells.values()].find((cell) => cell.gpu.uuid === "y").latest.value, 5);
  assert.equal(fleet.gpuId({ uuid: "", hostname: "h", gpu_index: 0 }), "h:0");
  assert.equal(fleet.gpuId({ uuid: "", hostname: "h", gpu_index: null }), null);
});

test("metrics have readable names, and a counter is not averaged", () => {
  assert.equal(metrics.metricLabel("DCGM_FI_DEV_GPU_UTIL"), "GPU utilisation");
  assert.equal(metrics.metricLabel("DCGM_FI_DEV_ROW_REMAP_FAILURE"), "Row remap failure");
  assert.equal(metrics.metricLabel("my_own"), "my_own");
  assert.deepEqual(metrics.naturalRange({ name: "x", unit: "%" }), [0, 100]);
  assert.equal(metrics.naturalRange({ name: "x", unit: "W" }), null);
  assert.equal(metrics.aggregation({ kind: "counter" }), "last");
  assert.equal(metrics.aggregation(undefined), "avg");
  assert.deepEqual(metrics.inReadingOrder(["zz", "DCGM_FI_DEV_POWER_USAGE", "DCGM_FI_DEV_GPU_UTIL"], (name) => name), ["DCGM_FI_DEV_GPU_UTIL", "DCGM_FI_DEV_POWER_USAGE", "zz"]);
});
