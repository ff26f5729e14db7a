// What the page says when there is nothing, when the store is away, and when a token is needed; and that many hosts do not
// freeze it. Against servers of its own (dev/mock.mjs).

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { mock } from "../dev/mock.mjs";
import { launch, open } from "./browser.mjs";

let browser;
before(async () => {
  browser = await launch();
});
after(() => browser.close());

async function on(options, body, pageOptions = {}) {
  const server = mock(options);
  const url = await server.listen();
  const opened = await open(browser, url, pageOptions);
  try {
    await body(opened.page, server);
    assert.deepEqual(opened.wrong, []);
  } finally {
    await opened.close();
    server.close();
  }
}

test("an empty store says how to fill it", () =>
  on({ empty: true }, async (page) => {
    await page.getByRole("heading", { name: "Nothing is stored yet" }).waitFor();
    await page.getByText("telemetry stream --csv").waitFor();
  }));

test("a store that is away is said, and asked again when it wants to be", () =>
  on({ away: true }, async (page, server) => {
    await page.getByRole("alert").getByText("connection refused").waitFor();
    await page.getByText(/Retrying in \d s/).waitFor();
    assert.equal(await page.locator(".cell").count(), 0, "no number is made up");
    server.options.away = false;
    await page.locator(".cell[data-value]").first().waitFor();
    await page.getByRole("alert").waitFor({ state: "hidden" });
  }, { expectFailures: true }));

test("data that was shown stays when the store goes away", () =>
  on({}, async (page, server) => {
    await page.locator(".cell[data-value]").first().waitFor();
    const before = await page.locator(".cell[data-value]").count();
    server.options.away = true;
    await page.locator("#refresh").click();
    await page.getByText("The page shows older data.").waitFor();
    assert.equal(await page.locator(".cell[data-value]").count(), before);
  }, { expectFailures: true }));

test("a token is asked for, a wrong one again, and the right one is kept for the tab", () =>
  on({ token: "right" }, async (page) => {
    await page.getByRole("textbox", { name: "Token" }).fill("wrong");
    await page.getByRole("button", { name: "Use this token" }).click();
    await page.getByText("does not accept this token").waitFor();
    await page.getByRole("textbox", { name: "Token" }).fill("right");
    await page.getByRole("button", { name: "Use this token" }).click();
    await page.locator(".cell[data-value]").first().waitFor();
    await page.reload();
    await page.locator(".cell[data-value]").first().waitFor();
    assert.equal(await page.evaluate(() => localStorage.getItem("telemetry.token")), null);
    assert.ok(!page.url().includes("right"));
  }, { expectFailures: true }));

test("a GPU that is unknown is said to be", () =>
  on({}, async (page) => {
    await page.locator(".gpu .message").getByText("no such thing").waitFor();
    await page.locator(".cell[data-value]").first().waitFor();
  }, { expectFailures: true, path: "/#gpu=GPU-unknown" }));

test("what is absent is n/a or no GPU, never 0; what lags is stale", () =>
  on({}, async (page) => {
    await page.locator(".cell[data-value]").first().waitFor();
    assert.equal(await page.locator('.cell[aria-label="dgx-berlin-012 GPU 6: no GPU"]').textContent(), "");
    assert.equal(await page.locator('.cell[data-state="stale"]').count(), 3);
    await page.locator("#metric").selectOption("DCGM_FI_DEV_XID_ERRORS");
    await page.locator('.cell[aria-label="dgx-eoslo-001 GPU 0: n/a"], .cell[aria-label="dgx-e-oslo-001 GPU 0: n/a"], .cell[aria-label$="oslo-001 GPU 0: n/a"]').first().waitFor();
    assert.equal(await page.locator('.cell[data-cluster="edge-oslo"][data-value]').count(), 0);
    assert.equal(await page.locator('.cell[data-cluster="edge-oslo"][data-state="absent"]').first().textContent(), "n/a");
  }));

test("a GPU without a uuid opens as host:index", () =>
  on({}, async (page) => {
    const cell = page.locator('.cell[data-gpu="lab-lab-003:1"]');
    await cell.click();
    await page.locator(".gpu .chart canvas").first().waitFor();
    assert.equal(await page.locator("#gpu-title").textContent(), "lab-lab-003 · GPU 1");
  }));

test("refreshing can be paused, and stays paused", () =>
  on({}, async (page) => {
    await page.locator(".cell[data-value]").first().waitFor();
    await page.clock.install();
    await page.locator("#pause").click();
    let asked = 0;
    page.on("request", () => (asked += 1));
    await page.clock.runFor(35_000);
    assert.equal(asked, 0);
    await page.locator("#pause").click();
    await page.waitForRequest(/clusters/);
  }));

test("two thousand hosts: the first thousand at once, the rest when asked", () =>
  on({ hosts: 2000 }, async (page) => {
    await page.locator(".cell[data-value]").first().waitFor();
    assert.equal(await page.locator(".line .host:not(.head)").count(), 1000);
    await page.getByRole("button", { name: /^Show/ }).first().click();
    await page.waitForFunction(() => document.querySelectorAll(".line .host:not(.head)").length === 2000);
    await page.locator("#host").fill("berlin-1999");
    await page.waitForFunction(() => document.querySelectorAll(".line .host:not(.head)").length === 1);
  }));
