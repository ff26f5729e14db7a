"""The test: `make test-k8s`. Runs inside the namespaces that tests/k8s/run makes."""

import os
import pathlib
import shutil
import sys

import steps
from clusters import ROOT, Authority, Cluster, network
from report import Report
from rows import Rows

GPU = [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}]


def nodes(**zones):
    """Nodes by name: those whose names begin with gpu are for GPUs only."""
    return {
        name.replace("_", "-"): {
            "labels": {"node-type": "gpu" if name.startswith("gpu") else "cpu", "topology.kubernetes.io/zone": f"us-west-2{zone}"},
            "taints": GPU if name.startswith("gpu") else [],
        }
        for name, zone in zones.items()
    }


class Test:
    """The three clusters, and what is known of them."""

    def __init__(self):
        target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
        self.directory = target / "k8s"
        self.work = self.directory / "work"
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)
        self.report = Report(self.directory / "report.txt")
        world = self.work / "world"
        world.mkdir()
        self.edge = Cluster(self.work, 1, "edge", "edge-cluster", "198.51.100.0/24", nodes(gpu_1="a", gpu_2="a", gpu_3="b", cpu_1="a", cpu_2="b", cpu_3="b"), world=world)
        self.central = Cluster(self.work, 2, "central", "central-cluster", "192.0.2.0/24", nodes(cpu_1="a", cpu_2="b", cpu_3="c", cpu_4="a"), world=world)
        self.shared = Cluster(self.work, 3, "shared", "shared-infra-cluster", "10.30.0.0/16", nodes(**{f"cpu_{n}": "abc"[n % 3] for n in range(1, 8)}),
                              balancers=[f"203.0.113.{n}" for n in range(1, 15)], world=world)
        self.clusters = [self.edge, self.central, self.shared]
        self.telemetry = os.environ["TELEMETRY_BIN"]
        self.rows = Rows()
        self.token = None
        # With what needs quoting somewhere on the way.
        self.passwords = {
            "REDIS_PASSWORD": "everybodys/pass%word#1",
            # At first everybody's: as it is where only auth.password is set.
            "ADMIN_PASSWORD": "everybodys/pass%word#1",
            "EDGE_PASSWORD": "edge-pass/w#rd?@%",
            "CENTRAL_PASSWORD": "central:pass%word", "DB_PASSWORD": "store/pass word",
        }
        # What the guide and docs/deployment.md call by these paths.
        self.home = self.work / "home"
        (self.home / "deployments").mkdir(parents=True)
        for link, to in {"charts": "charts", "examples": "examples", "deployments/helm": "charts"}.items():
            (self.home / link).symlink_to(ROOT / to)

    def images(self):
        """Directories of what is below /usr/local in images."""
        images = self.work / "images"
        for name in ("telemetry", "redis"):
            (images / name / "bin").mkdir(parents=True)
        shutil.copytree(ROOT / "tests/k8s/images/postgres", images / "postgres")
        shutil.copy2(self.telemetry, images / "telemetry/bin/telemetry")
        # The authority of Redis' certificate is one that the image trusts, as a public one would be.
        certificates = images / "telemetry/ssl/certs"
        certificates.mkdir(parents=True)
        self.authority = Authority(self.work / "public", "authority")
        shutil.copy2(self.authority.certificate, certificates / "ca-certificates.crt")

    def start(self):
        network(self.clusters)
        self.images()
        for cluster in self.clusters:
            cluster.start_control_plane()
        for cluster in self.clusters:
            cluster.start_rest()


def main():
    test = Test()
    report = test.report
    wanted = sys.argv[1:]
    chosen = steps.STEPS
    if wanted:
        names = [step.__name__ for step in steps.STEPS]
        last = max(names.index(name) for name in wanted)
        chosen = steps.STEPS[: last + 1]
    try:
        report.step("three clusters", test.start)
        for step in chosen:
            report.step(step.__doc__.split("\n")[0].rstrip("."), step, test)
    except KeyboardInterrupt:
        report.check(False, "interrupted")
    # Whatever it is: it is shown, with what there was at that time.
    except Exception as error:
        report.failed(error)
        report.leftovers(test)
    report.end()
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
