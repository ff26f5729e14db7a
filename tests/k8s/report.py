"""What the test says: on standard output and in a file."""

import time
import traceback


class Report:
    def __init__(self, path):
        self.file = path.open("w", encoding="utf-8")
        self.failures = []
        self.begun = time.monotonic()
        self.timings = []

    def say(self, text=""):
        print(text, flush=True)
        print(text, file=self.file, flush=True)

    def step(self, name, function, *arguments):
        self.say(f"\n== {name}")
        begun = time.monotonic()
        function(*arguments)
        took = time.monotonic() - begun
        self.timings.append((name, took))
        self.say(f"   ({took:.0f} s)")

    def command(self, text):
        self.say("   $ " + text.strip().replace("\n", "\n     "))

    def good(self, text):
        self.say(f"   ok: {text}")

    def quote(self, text, lines=30):
        for line in text.strip().splitlines()[:lines]:
            self.say(f"   | {line}")

    def check(self, good, text, detail=""):
        if good:
            self.good(text)
        else:
            self.failures.append(text)
            self.say(f"   FAILED: {text} {detail}")

    def failed(self, error):
        self.failures.append(str(error).splitlines()[0] if str(error) else type(error).__name__)
        self.say("   FAILED: " + "".join(traceback.format_exception(error)))

    def leftovers(self, test):
        """What a reader wants to see after a failure."""
        for cluster in test.clusters:
            for line in cluster.alive():
                self.say(f"   | {line}")
            pods = cluster.kubectl("get", "pods", "--all-namespaces", "--output", "wide", "--request-timeout", "10s", check=False)
            self.quote(f"{cluster.name}:\n{pods.stdout}{pods.stderr}", 60)
            self.quote(cluster.kubectl("get", "events", "--all-namespaces", "--field-selector", "type=Warning", "--sort-by=.lastTimestamp", "--request-timeout", "10s", check=False).stdout, 60)

    def end(self):
        self.say("\n== timings")
        for name, took in self.timings:
            self.say(f"   {took:6.0f} s  {name}")
        self.say(f"   {time.monotonic() - self.begun:6.0f} s  in all")
        for failure in self.failures:
            self.say(f"FAILED: {failure}")
        self.say("FAILED" if self.failures else "everything is well")
