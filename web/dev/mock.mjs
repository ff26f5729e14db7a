// A stand-in for `telemetry serve`, for work on the page without a database: the API that the page uses, with made-up but
// repeatable data, and web/dist with the content security policy of the real server.
//
//   node dev/mock.mjs [--live] [--port 8080] [--hosts 31] [--empty] [--away] [--token TOKEN]
//   node dev/mock.mjs --run COMMAND…     starts on a free port, runs the command with TELEMETRY_URL set, ends with its code
//
// Without --live its clock stands still. --away answers 503, --empty has nothing stored, --token wants that bearer token.

import { spawn } from "node:child_process";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";

const DIST = fileURLToPath(new URL("../dist/", import.meta.url));
const CSP =
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const TYPES = { ".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml" };
const STANDING = Date.parse("2026-03-02T14:30:00Z");
const EVERY = 30; // Seconds between two samples.
const KEPT = 26 * 3600; // Seconds of history.

const METRICS = [
  ["DCGM_FI_DEV_GPU_UTIL", "%", "Share of time in which a kernel was running", "gauge"],
  ["DCGM_FI_DEV_MEM_COPY_UTIL", "%", "Share of time in which memory was read or written", "gauge"],
  ["DCGM_FI_DEV_POWER_USAGE", "W", "Power draw", "gauge"],
  ["DCGM_FI_DEV_GPU_TEMP", "C", "Temperature of the GPU", "gauge"],
  ["DCGM_FI_DEV_FB_USED", "MiB", "Frame buffer memory in use", "gauge"],
  ["DCGM_FI_DEV_SM_CLOCK", "MHz", "Clock of the streaming multiprocessors", "gauge"],
  ["DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "mJ", "Energy since the driver was loaded", "counter"],
  ["DCGM_FI_DEV_XID_ERRORS", "", "Last XID error", "gauge"],
].map(([name, unit, description, kind]) => ({ name, unit, description, kind, stored: true }));
const UNSTORED = { name: "DCGM_FI_DEV_FAN_SPEED", unit: "%", description: "Fan speed", kind: "gauge", stored: false };

/** A repeatable number from 0 to 1. */
function dice(...seed) {
  let hash = 2166136261;
  for (const char of seed.join("/")) hash = Math.imul(hash ^ char.charCodeAt(0), 16777619);
  hash = Math.imul(hash ^ (hash >>> 15), 0x2c1b3c6d);
  return ((hash ^ (hash >>> 13)) >>> 0) / 2 ** 32;
}

export function mock(options = {}) {
  const now = () => (options.live ? Date.now() : STANDING);
  const newest = () => Math.floor(now() / 1000 / EVERY) * EVERY - 5;
  const clusters = options.empty ? [] : [["edge-berlin", options.hosts ?? 31, 5], ["edge-oslo", 12, 5], ["lab", 3, 4 * 3600]];
  const gpus = clusters.flatMap(([cluster, hosts, behind]) =>
    Array.from({ length: hosts }, (_, host) =>
      Array.from({ length: cluster === "lab" ? 4 : 8 }, (_, index) => ({ cluster, host, index, behind })),
    ).flat(),
  ).filter(({ cluster, host, index }) => !(cluster === "edge-berlin" && host === 11 && index === 6))
    .map(({ cluster, host, index, behind }) => {
      const hostname = `${cluster === "lab" ? "lab" : "dgx"}-${cluster.slice(-6).replace("-", "")}-${String(host + 1).padStart(3, "0")}`;
      const bytes = Array.from({ length: 32 }, (_, at) => Math.floor(dice(cluster, host, index, at) * 16).toString(16)).join("");
      const nameless = cluster === "lab" && host === 2;
      const lagging = cluster === "edge-berlin" && host === 6 && index > 4 ? 40 * 60 : 0;
      return {
        uuid: nameless ? "" : `GPU-${bytes.slice(0, 8)}-${bytes.slice(8, 12)}-${bytes.slice(12, 16)}-${bytes.slice(16, 20)}-${bytes.slice(20)}`,
        gpu_index: index, device: `nvidia${index}`, hostname, cluster,
        model: cluster === "lab" ? "NVIDIA A100-SXM4-40GB" : "NVIDIA H100 80GB HBM3",
        driver_version: "550.90.07",
        last: () => newest() - (behind > 60 ? behind : 0) - lagging,
      };
    });
  const first = (gpu) => gpu.last() - KEPT;
  const iso = (seconds) => new Date(seconds * 1000).toISOString().replace(".000Z", "Z");
  const id = (gpu) => gpu.uuid || `${gpu.hostname}:${gpu.gpu_index}`;
  const show = ({ last: _, ...gpu }) => ({ ...gpu, first_seen: iso(first({ ...gpu, last: _ })), last_seen: iso(_()) });

  /** null: this GPU was not sampled then. */
  function value(gpu, metric, at) {
    if (metric === "DCGM_FI_DEV_XID_ERRORS" && gpu.cluster === "edge-oslo") return null;
    if (dice(id(gpu), Math.floor(at / 5400)) < 0.06 && at < gpu.last() - 1200) return null;
    const job = Math.floor((at + dice(id(gpu)) * 9000) / 9000);
    const busy = dice(gpu.hostname, job) < 0.3 ? 0 : 55 + 45 * dice(id(gpu), job);
    const wave = 0.92 + 0.08 * Math.sin(at / 240 + gpu.gpu_index) - 0.1 * dice(id(gpu), at) ** 3;
    const load = Math.min(100, busy * wave);
    const round = (number, digits = 0) => Number(number.toFixed(digits));
    switch (metric) {
      case "DCGM_FI_DEV_GPU_UTIL": return round(load);
      case "DCGM_FI_DEV_MEM_COPY_UTIL": return round(load * 0.6);
      case "DCGM_FI_DEV_POWER_USAGE": return round(72 + load * 5.9 + 8 * dice(at, id(gpu)), 3);
      case "DCGM_FI_DEV_GPU_TEMP": return round(28 + load * 0.4 + 4 * dice(id(gpu), 7));
      case "DCGM_FI_DEV_FB_USED": return busy === 0 ? 4 : round(20_000 + 60_000 * dice(id(gpu), job, 2));
      case "DCGM_FI_DEV_SM_CLOCK": return load > 5 ? 1980 : 345;
      case "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": return round((at - 1.7e9) * 310);
      case "DCGM_FI_DEV_XID_ERRORS": return dice(id(gpu), 3) < 0.02 ? 79 : 0;
      default: return null;
    }
  }

  function telemetry(gpu, query) {
    const from = Math.max(first(gpu), Date.parse(query.get("start_time") ?? 0) / 1000);
    const to = Math.min(gpu.last(), Date.parse(query.get("end_time") ?? now()) / 1000);
    const step = Number.parseInt(query.get("step") ?? "0", 10);
    const metric = query.get("metric");
    const buckets = new Map();
    for (let at = first(gpu); at <= to; at += EVERY) {
      const found = at >= from ? value(gpu, metric, at) : null;
      if (found === null) continue;
      const key = step ? Math.floor(at / step) * step : at;
      buckets.set(key, [...(buckets.get(key) ?? []), found]);
    }
    const agg = (values) => (query.get("agg") === "last" ? values.at(-1) : values.reduce((a, b) => a + b, 0) / values.length);
    return [...buckets].map(([at, values]) => ({ timestamp: iso(at), metric_name: metric, value: agg(values) }));
  }

  function api(path, query) {
    const of = gpus.filter((gpu) => ["cluster", "hostname"].every((name) => !query.get(name) || gpu[name] === query.get(name)));
    if (path === "clusters") {
      return clusters.map(([cluster, hosts]) => {
        const own = gpus.filter((gpu) => gpu.cluster === cluster);
        const last = Math.max(...own.map((gpu) => gpu.last()));
        return { cluster, hosts, gpus: own.length, first_seen: iso(last - KEPT), last_seen: iso(last), freshness_seconds: now() / 1000 - last };
      });
    }
    if (path === "metrics") return options.empty ? [] : [...METRICS, UNSTORED];
    if (path === "gpus") return of.map(show);
    if (path === "telemetry/latest") {
      const metric = query.get("metric");
      return of.map((gpu) => {
        const { cluster, hostname, gpu_index, uuid } = gpu;
        return { cluster, hostname, gpu_index, uuid, metric_name: metric, timestamp: iso(gpu.last()), value: value(gpu, metric, gpu.last()) };
      }).filter((row) => row.value !== null);
    }
    const [, wanted, what] = path.match(/^gpus\/([^/]+)(?:\/(metrics|telemetry))?$/) ?? [];
    const gpu = wanted && of.find((gpu) => id(gpu) === decodeURIComponent(wanted));
    if (!gpu) throw { status: 404, title: "Not found", detail: `no such thing: ${path}` };
    const own = METRICS.filter(({ name }) => value(gpu, name, gpu.last()) !== null);
    if (what === "metrics") return own.map(({ stored: _, ...metric }) => metric);
    if (what === "telemetry") return telemetry(gpu, query);
    const latest = own.map(({ name, unit }) => ({ metric_name: name, unit, timestamp: iso(gpu.last()), value: value(gpu, name, gpu.last()) }));
    return { ...show(gpu), latest };
  }

  function answer(request, url) {
    if (options.token && request.headers.authorization !== `Bearer ${options.token}`) throw { status: 401, title: "Unauthorized", detail: "a bearer token is needed" };
    if (options.away) throw { status: 503, title: "The database is away", detail: "connection refused", retry: 3 };
    const found = api(url.pathname.slice("/api/v1/".length), url.searchParams);
    if (!Array.isArray(found)) return found;
    const limit = Number(url.searchParams.get("limit") ?? 100);
    const from = Number(url.searchParams.get("cursor") ?? 0);
    return { data: found.slice(from, from + limit), next_cursor: from + limit < found.length ? String(from + limit) : null };
  }

  const server = createServer(async (request, response) => {
    const url = new URL(request.url, "http://mock");
    const headers = { "content-security-policy": CSP, "x-content-type-options": "nosniff" };
    if (url.pathname.startsWith("/api/v1/")) {
      try {
        const body = JSON.stringify(answer(request, url));
        response.writeHead(200, { ...headers, "content-type": "application/json" }).end(body);
      } catch (problem) {
        const retry = problem.retry ? { "retry-after": String(problem.retry) } : {};
        const { title = "Internal error", detail = String(problem), status = 500 } = problem;
        response.writeHead(status, { ...headers, ...retry, "content-type": "application/problem+json" }).end(JSON.stringify({ type: "about:blank", title, status, detail }));
      }
      return;
    }
    const file = join(DIST, normalize(url.pathname === "/" ? "/index.html" : url.pathname));
    try {
      const body = await readFile(file);
      response.writeHead(200, { ...headers, "content-type": TYPES[extname(file)] ?? "application/octet-stream" }).end(body);
    } catch {
      response.writeHead(404, headers).end("not found");
    }
  });
  return {
    options,
    async listen(port = 0) {
      await new Promise((done) => server.listen(port, "127.0.0.1", done));
      return `http://127.0.0.1:${server.address().port}`;
    },
    close() {
      server.closeAllConnections();
      server.close();
    },
  };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const run = process.argv.indexOf("--run");
  const flags = process.argv.slice(2, run < 0 ? undefined : run);
  const after = (name) => (flags.includes(name) ? flags[flags.indexOf(name) + 1] : undefined);
  const [live, empty, away] = ["--live", "--empty", "--away"].map((name) => flags.includes(name));
  const hosts = after("--hosts");
  const server = mock({ live, empty, away, token: after("--token"), ...(hosts ? { hosts: Number(hosts) } : {}) });
  const url = await server.listen(run < 0 ? Number(after("--port") ?? 8080) : 0);
  if (run < 0) {
    console.log(`mock of telemetry serve at ${url}`);
  } else {
    const [command, ...rest] = process.argv.slice(run + 1);
    const child = spawn(command, rest, { stdio: "inherit", env: { ...process.env, TELEMETRY_URL: url } });
    child.on("exit", (code) => {
      server.close();
      process.exitCode = code ?? 1;
    });
  }
}
