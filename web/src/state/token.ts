// The bearer token, kept for this tab only.

const TOKEN = "telemetry.token";
let held: string | null = null;

export function token(): string | null {
  try {
    held ??= sessionStorage.getItem(TOKEN);
  } catch {
    // A browser may forbid storage: the token then lives as long as the page.
  }
  return held;
}

export function setToken(value: string): void {
  held = value;
  try {
    sessionStorage.setItem(TOKEN, value);
  } catch {
    // As above.
  }
}
