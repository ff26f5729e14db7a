// The typed client of /api/v1. Every failure is an ApiError with a text that can be shown as it is.

export interface Cluster {
  cluster: string;
  hosts: number;
  gpus: number;
  first_seen: string | null;
  last_seen: string | null;
  freshness_seconds: number | null;
}

export interface Gpu {
  uuid: string;
  gpu_index: number | null;
  mig_instance?: string | number | null;
  device: string;
  model: string;
  hostname: string;
  cluster: string;
  driver_version: string;
  first_seen: string | null;
  last_seen: string | null;
}

export interface LatestValue {
  metric_name: string;
  unit: string;
  timestamp: string;
  value: number | null;
}

export interface GpuDetail extends Gpu {
  latest: LatestValue[];
}

export interface Metric {
  name: string;
  unit: string;
  description: string;
  kind: string;
  stored?: boolean;
}

export interface Latest {
  cluster: string;
  hostname: string;
  gpu_index: number | null;
  uuid: string;
  mig_instance?: string | number | null;
  metric_name: string;
  timestamp: string;
  value: number | null;
}

export interface Point {
  timestamp: string;
  metric_name: string;
  value: number | null;
  namespace?: string | null;
  pod?: string | null;
  container?: string | null;
}

/** A whole list, or the part of it that fits the limit of the page. */
export interface Listed<T> {
  data: T[];
  complete: boolean;
}

interface Page<T> {
  data: T[];
  next_cursor: string | null;
}

interface Problem {
  title?: string;
  detail?: string;
  parameter?: string;
}

type Query = Record<string, string | number | null | undefined>;

/** Rows per page of a list: the maximum of the API. */
const PAGE_ROWS = 10_000;
/** Maximum rows that the page reads of one list. Where there are more, the page says so. */
const MAX_ROWS = 50_000;

export class ApiError extends Error {
  constructor(
    message: string,
    /** The HTTP status; 0 when there was no answer. */
    readonly status: number,
    /** Seconds after which the server accepts the next attempt (Retry-After). */
    readonly retryAfter: number | null = null,
    /** A short title of the failure. */
    readonly title: string = "Something went wrong",
  ) {
    super(message);
  }
}

export class Api {
  constructor(
    private readonly token: () => string | null,
    private readonly base = new URL("api/v1/", document.baseURI),
  ) {}

  clusters(signal: AbortSignal): Promise<Listed<Cluster>> {
    return this.list("clusters", {}, signal, null);
  }

  gpus(cluster: string | null, signal: AbortSignal): Promise<Listed<Gpu>> {
    return this.list("gpus", { cluster }, signal);
  }

  metrics(signal: AbortSignal): Promise<Listed<Metric>> {
    return this.list("metrics", {}, signal, null);
  }

  latest(metric: string, cluster: string | null, signal: AbortSignal): Promise<Listed<Latest>> {
    return this.list("telemetry/latest", { metric, cluster }, signal);
  }

  gpu(id: string, cluster: string, signal: AbortSignal): Promise<GpuDetail> {
    return this.get(`gpus/${encodeURIComponent(id)}`, { cluster }, signal);
  }

  gpuMetrics(id: string, cluster: string, signal: AbortSignal): Promise<Listed<Metric>> {
    return this.list(`gpus/${encodeURIComponent(id)}/metrics`, { cluster }, signal, null);
  }

  telemetry(id: string, query: Query, signal: AbortSignal): Promise<Listed<Point>> {
    return this.list(`gpus/${encodeURIComponent(id)}/telemetry`, query, signal);
  }

  /** Follows the cursors of a list; lists that are always given whole have no limit. */
  private async list<T>(path: string, query: Query, signal: AbortSignal, limit: number | null = PAGE_ROWS): Promise<Listed<T>> {
    const data: T[] = [];
    let cursor: string | null = null;
    do {
      const page: Page<T> = await this.get(path, { ...query, limit, cursor }, signal);
      for (const row of page.data) data.push(row);
      cursor = page.next_cursor ?? null;
    } while (cursor !== null && data.length < MAX_ROWS);
    return { data, complete: cursor === null };
  }

  private async get<T>(path: string, query: Query, signal: AbortSignal): Promise<T> {
    const url = new URL(path, this.base);
    for (const [name, value] of Object.entries(query)) {
      if (value !== null && value !== undefined && value !== "") url.searchParams.set(name, String(value));
    }
    const headers: Record<string, string> = { accept: "application/json" };
    const token = this.token();
    if (token) headers["authorization"] = `Bearer ${token}`;
    let response: Response;
    try {
      response = await fetch(url, { headers, signal });
    } catch (error) {
      if (signal.aborted) throw error;
      throw new ApiError("The server does not answer. Check that it is running, and that this computer is connected.", 0, null, "No answer");
    }
    if (!response.ok) throw await failure(response, path);
    try {
      return (await response.json()) as T;
    } catch (error) {
      if (signal.aborted) throw error;
      throw new ApiError(`The answer to ${path} is not JSON. Another server or a login page may be in between.`, response.status);
    }
  }
}

async function failure(response: Response, path: string): Promise<ApiError> {
  const problem = (await response.json().catch(() => ({}))) as Problem;
  const parameter = problem.parameter ? ` (parameter ${problem.parameter})` : "";
  const after = Number(response.headers.get("retry-after") ?? Number.NaN);
  return new ApiError(
    (problem.detail || `${path} was answered with status ${response.status}`) + parameter,
    response.status,
    Number.isFinite(after) ? after : null,
    problem.title,
  );
}
