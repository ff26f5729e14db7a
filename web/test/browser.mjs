// A browser for the tests, and a page that remembers whatever went wrong on it.

import { chromium } from "playwright-core";

/** Longest wait for anything on the page, in milliseconds. */
export const PATIENCE_MS = 20_000;

export function launch() {
  return chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: process.getuid?.() === 0 ? ["--no-sandbox"] : [],
  });
}

/** Opens the page; `wrong` collects console errors, policy violations, failed scripts and requests to other origins. */
export async function open(browser, url, { path = "", expectFailures = false, ...options } = {}) {
  const context = await browser.newContext({ viewport: { width: 1440, height: 1000 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE_MS);
  const wrong = [];
  await page.exposeFunction("reportViolation", (text) => wrong.push(`content security policy: ${text}`));
  await page.addInitScript(() => {
    addEventListener("securitypolicyviolation", (event) => window.reportViolation(`${event.violatedDirective} ${event.blockedURI}`));
  });
  page.on("console", (message) => {
    const failedRequest = message.text().startsWith("Failed to load resource");
    if (message.type() === "error" && !(expectFailures && failedRequest)) wrong.push(`console: ${message.text()}`);
  });
  page.on("pageerror", (error) => wrong.push(`script: ${error.message}`));
  page.on("request", (request) => {
    if (new URL(request.url()).origin !== new URL(url).origin) wrong.push(`request to another origin: ${request.url()}`);
  });
  await page.goto(new URL(path, url).href);
  return { page, wrong, close: () => context.close() };
}
