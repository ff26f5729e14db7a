"""Exports that grow while the test goes on, in the directories that nodes export to."""

import threading

from clusters import sh


class Load:
    """A file on each node, to which rows are appended."""

    def __init__(self, test, cluster, nodes, rows_per_second, gpus=4):
        self.test, self.cluster, self.rows = test, cluster, rows_per_second
        self.stopping, self.paused, self.writing = threading.Event(), threading.Event(), threading.Lock()
        self.written = 0
        self.files = []
        for number, node in enumerate(nodes):
            directory = test.edge.run / "nodes" / node / "var/lib/dcgm"
            directory.mkdir(parents=True, exist_ok=True)
            # Two hours of rows are more than is ever appended.
            text = sh(test.telemetry, "generate", "--gpus", gpus, "--duration", "2h", "--interval", "1s", "--seed", 100 + number).stdout
            lines = text.replace("gpu-node-", f"{node}-").splitlines(keepends=True)
            self.files.append([directory / "dcgm.csv", lines, 1])
            (directory / "dcgm.csv").write_text(lines[0])
        self.thread = threading.Thread(target=self.work, daemon=True)

    def start(self):
        self.thread.start()
        return self

    def work(self):
        while not self.stopping.wait(0.25):
            if self.paused.is_set():
                continue
            with self.writing:
                self.append()

    def append(self):
        for entry in self.files:
            path, lines, at = entry
            step = lines[at:at + max(1, self.rows // 4 // len(self.files))]
            with path.open("a") as file:
                file.write("".join(step))
            entry[2] += len(step)
            self.written += len(step)

    def pause(self):
        """No more rows for now; what was written is expected."""
        self.paused.set()
        with self.writing:
            self.test.rows.forget(self.cluster)
            for path, _, _ in self.files:
                self.test.rows.add(self.cluster, path.read_text())

    def go_on(self):
        self.paused.clear()

    def stop(self):
        self.pause()
        self.stopping.set()
        self.thread.join()
