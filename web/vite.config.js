import { defineConfig } from "vite";

// Where `npm run dev` sends what is not the page itself: a running `telemetry serve`, or the mock.
const server = process.env.TELEMETRY_URL ?? "http://127.0.0.1:8080";

export default defineConfig({
  // Relative, so that the page also works behind a proxy that adds a path.
  base: "./",
  build: {
    target: "es2022",
    // The content security policy allows no data: scripts or styles, and hashed files are cached anyway.
    assetsInlineLimit: 0,
    // The notices of the packages in the bundle go with it, served as /licenses.txt.
    license: { fileName: "licenses.txt" },
    modulePreload: { polyfill: false },
  },
  server: {
    proxy: { "/api": server, "/docs": server, "/openapi.json": server },
  },
});
