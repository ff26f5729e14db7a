"""Exports that grow while the test goes on, in the directories that nodes export to."""

import pathlib
import threading
import time

from clusters import sh


class Load:
    """A file on each node, to which rows are appended."""

    def __init__(self, test, cluster, nodes, rows_per_second, gpus=4):
        self.test, self.cluster, self.rows = test, cluster, rows_per_second
        self.stopping = threading.Event()
        self.written = 0
        self.files = []
        for number, node in enumerate(nodes):
            directory = test.edge.run / "nodes" / node / "var/lib/dcgm"
            directory.mkdir(parents=True, exist_ok=True)
            # A day of rows is more than is ever appended.
            text = sh(test.telemetry, "generate", "--gpus", gpus, "--duration", "1h", "--interval", "1s", "--seed", 100 + number).stdout
            lines = text.replace("gpu-node-", f"{node}-").splitlines(keepends=True)
            self.files.append([directory / "dcgm.csv", lines, 1])
            (directory / "dcgm.csv").write_text(lines[0])
        self.thread = threading.Thread(target=self.work, daemon=True)

    def start(self):
        self.thread.start()
        return self

    def work(self):
        while not self.stopping.wait(0.25):
            for entry in self.files:
                path, lines, at = entry
                step = lines[at:at + max(1, self.rows // 4 // len(self.files))]
                with path.open("a") as file:
                    file.write("".join(step))
                entry[2] += len(step)
                self.written += len(step)

    def stop(self):
        """No more rows; what was written is expected from now on."""
        self.stopping.set()
        self.thread.join()
        for path, _, _ in self.files:
            self.test.rows.add(self.cluster, path.read_text())
