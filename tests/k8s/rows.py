"""Every row that was written, and every row that the API gives."""

import collections
import csv
import gzip
import io
import json
import urllib.parse
import urllib.request
from datetime import datetime, timezone


class Rows:
    """What files hold, by cluster and GPU; and whether the API gives exactly that."""

    def __init__(self):
        self.expected = collections.defaultdict(collections.Counter)

    def add(self, cluster, text):
        for row in csv.DictReader(io.StringIO(text)):
            moment = datetime.fromisoformat(row["timestamp"].replace("Z", "+00:00"))
            self.expected[cluster, row["uuid"]][moment, row["metric_name"], float(row["value"])] += 1

    def forget(self, cluster):
        for key in [key for key in self.expected if key[0] == cluster]:
            del self.expected[key]

    def count(self):
        return sum(counter.total() for counter in self.expected.values())


class Api:
    """An API, at the address of its Service."""

    def __init__(self, cluster, release, token=None):
        service = cluster.get("service", "--namespace", "telemetry-system", f"{release}-api-gateway")
        self.base = f"http://{service['spec']['clusterIP']}:{service['spec']['ports'][0]['port']}"
        self.token = token

    def get(self, path, accept="application/json"):
        headers = {"Accept": accept, "Accept-Encoding": "gzip"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        with urllib.request.urlopen(urllib.request.Request(self.base + path, headers=headers), timeout=30) as answer:
            body = answer.read()
            return (gzip.decompress(body) if answer.headers.get("Content-Encoding") == "gzip" else body).decode()

    def gpus(self):
        found, cursor = [], ""
        while True:
            page = json.loads(self.get(f"/api/v1/gpus?limit=1000{cursor}"))
            found += page["data"]
            if not page["next_cursor"]:
                return found
            cursor = "&cursor=" + urllib.parse.quote(page["next_cursor"])

    def rows(self):
        """(cluster, GPU) → its rows, each as often as it is there."""
        found = {}
        for gpu in self.gpus():
            text = self.get(f"/api/v1/gpus/{gpu['uuid']}/telemetry?cluster={gpu['cluster']}", "text/csv")
            counter = collections.Counter()
            for row in csv.DictReader(io.StringIO(text)):
                moment = datetime.fromisoformat(row["timestamp"].replace("Z", "+00:00")).astimezone(timezone.utc)
                counter[moment, row["metric_name"], float(row["value"])] += 1
            found[gpu["cluster"], gpu["uuid"]] = counter
        return found


def differences(rows, found):
    """In words; nothing when there is none."""
    out = []
    for key in sorted(set(rows.expected) | set(found)):
        wanted, there = rows.expected.get(key, collections.Counter()), found.get(key, collections.Counter())
        if wanted != there:
            out.append(f"{key[0]}/{key[1]}: {(wanted - there).total()} missing, {(there - wanted).total()} too many")
    return out
