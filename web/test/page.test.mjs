// The page against a running server (TELEMETRY_URL; TELEMETRY_TOKEN if it wants one): what it shows is what the API answers.
// SCREENSHOT=path.png writes what a reader sees with a GPU open; COLOR_SCHEME=dark in dark.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { launch, open, PATIENCE_MS } from "./browser.mjs";

const url = process.env.TELEMETRY_URL;
const token = process.env.TELEMETRY_TOKEN;
assert.ok(url, "TELEMETRY_URL must name a running telemetry serve that has data");

let browser, page, wrong;

before(async () => {
  browser = await launch();
  ({ page, wrong } = await open(browser, url, { colorScheme: process.env.COLOR_SCHEME === "dark" ? "dark" : "light" }));
  if (token) {
    await page.getByRole("textbox", { name: "Token" }).fill(token);
    await page.getByRole("button", { name: "Use this token" }).click();
    wrong.length = 0; // The first answer was a 401, as it should be.
  }
  await page.locator(".cell[data-value]").first().waitFor();
  await page.locator("#pause").click();
});
after(() => browser.close());

async function api(path) {
  const rows = [];
  let cursor = null;
  do {
    const at = new URL(`api/v1/${path}`, url);
    if (cursor) at.searchParams.set("cursor", cursor);
    const response = await fetch(at, { headers: token ? { authorization: `Bearer ${token}` } : {} });
    assert.equal(response.status, 200, `${at} answered ${response.status}`);
    const body = await response.json();
    if (!Array.isArray(body.data)) return body;
    rows.push(...body.data);
    cursor = body.next_cursor;
  } while (cursor);
  return rows;
}

/** New data may come in between the page's question and ours: both ask again until they agree, or patience ends. */
async function agree(check) {
  const until = Date.now() + PATIENCE_MS;
  for (;;) {
    try {
      return await check();
    } catch (error) {
      if (Date.now() > until) throw error;
      await page.locator("#refresh").click();
      await page.getByText(/^Updated/).first().waitFor();
    }
  }
}

const idOf = (row) => row.uuid || `${row.hostname}:${row.gpu_index}`;
const shownMetric = () => page.locator("#metric").inputValue();

test("the tiles are the sums of the clusters", async () => {
  await agree(async () => {
    const clusters = await api("clusters");
    const metrics = await api("metrics");
    const shown = await page.locator(".tile").evaluateAll((tiles) => Object.fromEntries(tiles.map((tile) => [tile.dataset.tile, tile.dataset.value])));
    assert.equal(shown.clusters, String(clusters.length));
    assert.equal(shown.hosts, String(clusters.reduce((sum, cluster) => sum + cluster.hosts, 0)));
    assert.equal(shown.gpus, String(clusters.reduce((sum, cluster) => sum + cluster.gpus, 0)));
    assert.equal(shown.metrics, String(metrics.filter((metric) => metric.stored !== false).length));
    assert.match(shown.newest, /ago|just now|ahead|n\/a/);
    const rows = await page.locator("tr[data-cluster]").evaluateAll((rows) => rows.map((row) => [row.dataset.cluster, row.cells[1].textContent, row.cells[2].textContent]));
    assert.deepEqual(rows, clusters.map(({ cluster, hosts, gpus }) => [cluster, hosts.toLocaleString("en"), gpus.toLocaleString("en")]));
  });
});

test("every cell of the heatmap is the latest value, for each of three metrics", async () => {
  const names = (await api("metrics")).filter((metric) => metric.stored !== false).map((metric) => metric.name).slice(0, 3);
  for (const name of names) {
    await page.locator("#metric").selectOption(name);
    await page.waitForFunction((name) => location.hash.includes(`metric=${name}`), name);
    await agree(async () => {
      const latest = (await api(`telemetry/latest?metric=${encodeURIComponent(name)}&limit=10000`)).filter((row) => row.value !== null);
      const wanted = latest.map((row) => `${row.cluster} ${idOf(row)} ${row.value}`).sort();
      const cells = page.locator(".cell[data-value]");
      const shown = await cells.evaluateAll((cells) => cells.map((cell) => `${cell.dataset.cluster} ${cell.dataset.gpu} ${cell.dataset.value}`).sort());
      assert.ok(wanted.length > 0, `${name} has no latest value`);
      assert.deepEqual(shown, wanted);
      const texts = await cells.evaluateAll((cells) => cells.map((cell) => [cell.textContent, cell.getAttribute("aria-label"), Number(cell.dataset.value)]));
      for (const [text, label, value] of texts) {
        assert.notEqual(text, "", label);
        assert.notEqual(text, "n/a", label);
        if (Number.isInteger(value) && Math.abs(value) < 10_000) assert.equal(text, String(value), label);
      }
    });
  }
});

test("the number of empty and n/a cells is what is missing", async () => {
  await agree(async () => {
    const gpus = await api("gpus?limit=10000");
    const slots = new Set(gpus.map((gpu) => `${gpu.cluster} ${gpu.hostname} ${gpu.gpu_index ?? gpu.uuid} ${gpu.mig_instance ?? ""}`));
    const filled = await page.locator('.cell:not([data-state="none"])').count();
    assert.equal(filled, slots.size);
  });
});

test("the search leaves the hosts that match", async () => {
  const [gpu] = await api("gpus?limit=1");
  await page.locator("#host").fill(gpu.hostname);
  await page.waitForFunction((name) => [...document.querySelectorAll(".line .host:not(.head)")].every((host) => host.textContent.includes(name)), gpu.hostname);
  assert.ok((await page.locator(".line .host:not(.head)").count()) >= 1);
  await page.locator("#host").fill("no host has this name");
  await page.getByText("No host matches").waitFor();
  await page.locator("#host").fill("");
  await page.locator(".cell[data-value]").first().waitFor();
});

test("the keyboard walks the grid and opens a GPU", async () => {
  await page.locator('.cell[tabindex="0"]').focus();
  await page.keyboard.press("End");
  await page.keyboard.press("Home");
  const gpu = await page.evaluate(() => document.activeElement.dataset.gpu);
  assert.ok(gpu, "the first cell has the focus");
  await page.keyboard.press("Enter");
  await page.locator(".gpu:not([hidden]) .chart").first().waitFor();
  assert.equal(await page.locator('.cell[aria-selected="true"]').first().getAttribute("data-gpu"), gpu);
  await page.keyboard.press("Escape");
  await page.locator(".gpu").waitFor({ state: "hidden" });
  assert.equal(await page.evaluate(() => document.activeElement.dataset.gpu), gpu, "the focus stays in the grid");
});

for (const range of ["all", "1h"]) {
  test(`a GPU's chart has the data of the telemetry endpoint, range ${range}`, async () => {
    const metric = await shownMetric();
    const cell = page.locator('.cell[data-state="value"]').nth(3);
    const [id, cluster] = [await cell.getAttribute("data-gpu"), await cell.getAttribute("data-cluster")];
    await cell.click();
    await page.locator(`.ranges input[value="${range}"]`).check({ force: true });
    const chart = page.locator(`.chart[data-metric="${metric}"]`);
    await chart.locator("canvas").waitFor();
    if (!(await chart.locator("details").evaluate((details) => details.open))) await chart.locator("summary").click();
    await agree(async () => {
      const gpu = await api(`gpus/${encodeURIComponent(id)}?cluster=${encodeURIComponent(cluster)}`);
      const [from, to] = [range === "all" ? Date.parse(gpu.first_seen) : Date.parse(gpu.last_seen) - 3600_000, Date.parse(gpu.last_seen)];
      const query = new URLSearchParams({ cluster, metric, start_time: new Date(from).toISOString(), end_time: new Date(to).toISOString(), limit: "10000" });
      const asked = await page.evaluate(
        ([id, from]) => performance.getEntriesByType("resource").map((entry) => new URL(entry.name)).findLast((at) => at.pathname.endsWith(`/gpus/${encodeURIComponent(id)}/telemetry`) && at.searchParams.get("start_time") === from)?.search,
        [id, new Date(from).toISOString()],
      );
      assert.ok(asked, "the page asked for this range");
      for (const name of ["step", "agg"]) {
        const value = new URLSearchParams(asked).get(name);
        if (value) query.set(name, value);
      }
      assert.equal(query.has("step"), to - from > 1000_000, "a long range is asked for in steps");
      const wanted = (await api(`gpus/${encodeURIComponent(id)}/telemetry?${query}`)).map((row) => [row.timestamp, row.value === null ? null : String(row.value)]);
      const shown = await chart.locator("tr[data-time]").evaluateAll((rows) => rows.map((row) => [row.dataset.time, row.dataset.value ?? null]));
      assert.ok(wanted.length > 0, "there is data in the range");
      assert.deepEqual(shown, wanted);
      assert.equal(await chart.getAttribute("data-points"), String(wanted.length));
      const latest = await page.locator("tr[data-metric]").evaluateAll((rows) => rows.map((row) => `${row.dataset.metric} ${row.dataset.value}`).sort());
      assert.deepEqual(latest, gpu.latest.map((row) => `${row.metric_name} ${row.value}`).sort());
    });
    await chart.locator("summary").click();
  });
}

test("a link opens the same view", async () => {
  const link = page.url();
  const other = await page.context().newPage();
  if (!token) {
    await other.goto(link);
    await other.locator(".gpu:not([hidden]) .chart canvas").first().waitFor();
    assert.equal(await other.locator("#gpu-title").textContent(), await page.locator("#gpu-title").textContent());
    assert.equal(await other.locator("#metric").inputValue(), await shownMetric());
  }
  await other.close();
});

test("a screenshot with a GPU open", { skip: !process.env.SCREENSHOT }, async () => {
  const names = (await page.locator("tr[data-metric]").evaluateAll((rows) => rows.map((row) => row.dataset.metric))).slice(0, 2);
  await page.locator("#metric").selectOption(names[0]);
  await page.locator(".cell[data-value]").first().waitFor();
  // A busy GPU near the top makes the better picture.
  const cells = await page.locator('.cell[data-state="value"]').evaluateAll((cells) => cells.slice(0, 80).map((cell) => Number(cell.dataset.value)));
  await page.locator('.cell[data-state="value"]').nth(cells.indexOf(Math.max(...cells))).click();
  await page.locator('.ranges input[value="all"]').check({ force: true });
  for (const name of names) {
    const toggle = page.locator(`tr[data-metric="${name}"] .toggle`);
    if ((await toggle.getAttribute("aria-pressed")) === "false") await toggle.click();
    await page.locator(`.chart[data-metric="${name}"] canvas`).waitFor();
  }
  await page.evaluate(() => (scrollTo(0, 0), document.activeElement?.blur()));
  await page.mouse.move(4, 400);
  await page.locator("#pause").click();
  await page.getByText(/^Updated/).first().waitFor();
  await page.screenshot({ path: process.env.SCREENSHOT });
});

test("nothing went wrong on the way", () => {
  assert.deepEqual(wrong, []);
});
