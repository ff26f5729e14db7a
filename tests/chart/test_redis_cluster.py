"""charts/redis-cluster for real: its rendered scripts, configuration and Secrets run as pods would run them, one process for each
container. Only three things are not as in Kubernetes: pods share a host (so each node has a port of its own, as with NodePort), DNS is a
file, and the address that a node binds to is its pod's."""

import json
import os
import re
import urllib.request

import pytest

from support import REDIS_CLUSTER, ROOT, TELEMETRY, WORKER, Authority, Postgres, Process, free_ports, materialize, one, render, run, until
from test_acl import OF_A_CLUSTER

PASSWORD = 'a "quoted\\ pass$word'


class Pod:
    def __init__(self, cluster, number, address):
        self.cluster, self.number, self.address = cluster, number, address
        self.root = cluster.directory / f"{cluster.name}-{number}"
        self.processes = {}
        self.mount()

    def mount(self):
        """As a kubelet does, now and when a Secret changed."""
        docs = self.cluster.docs
        spec = one(docs, "StatefulSet")["spec"]["template"]["spec"]
        self.containers = {c["name"]: c for c in spec["containers"]}
        made = materialize(docs, spec, self.containers["redis"], self.root, self.cluster.secrets)
        config = made["/etc/redis/config"] / "redis.conf"
        config.write_text(config.read_text().replace("bind * -::*", f"bind {self.address} 127.0.0.1"))
        self.made = made

    def environment(self, container, extra=None):
        env = {k: v for k, v in os.environ.items() if k in ("HOME", "LANG")}
        env["PATH"] = f"{self.cluster.directory}/bin:{os.environ['PATH']}"
        fields = {"metadata.name": f"{self.cluster.name}-{self.number}", "status.podIP": self.address}
        for variable in container["env"]:
            env[variable["name"]] = variable.get("value") or fields[variable["valueFrom"]["fieldRef"]["fieldPath"]]
        env.update(CONFIG=self.made["/etc/redis/config"], AUTH=self.made["/etc/redis/auth"], CERTS=self.made["/etc/redis/tls"],
                   RUN=self.made["/run/redis"], DATA=self.made.get("/data", ""), HOSTS=self.cluster.directory / "hosts", KEEP_SECONDS="1")
        return {k: str(v) for k, v in {**env, **(extra or {})}.items()}

    def command(self, command):
        return [str(self.made["/etc/redis/config"] / c.rsplit("/", 1)[1]) if c.startswith("/etc/redis/config/") else c for c in command]

    def start(self):
        for name in ("redis", "keeper"):
            container = self.containers[name]
            self.processes[name] = Process(self.command(container["command"]), self.root / f"{name}.log", self.environment(container))
        return self

    def probe(self, name):
        container = self.containers["redis"]
        return run(*self.command(container[name]["exec"]["command"]), env=self.environment(container), ok=False).returncode == 0

    def stop(self, hand_over=True):
        if hand_over:
            container = self.containers["redis"]
            done = run(*self.command(container["lifecycle"]["preStop"]["exec"]["command"]), env=self.environment(container), ok=False)
            assert done.returncode == 0, done.stderr
            print(f"--- {self.number} stopped: {done.stderr}")
        for process in self.processes.values():
            process.stop(signal=15 if hand_over else 9)
        self.cluster.resolve(self.number, None)

    def cli(self, *command, user="admin", password=None, ok=True):
        env = {**os.environ, "REDISCLI_AUTH": password or self.cluster.password}
        tls = self.cluster.tls_flags()
        return run("redis-cli", "--no-auth-warning", "--user", user, "-h", self.address, "-p", self.cluster.port + self.number, *tls, *command,
                   env=env, ok=ok).stdout.strip()


class Cluster:
    """A release of the chart."""

    def __init__(self, directory, **values):
        self.directory, self.name = directory, "redis-cluster"
        self.port = free_ports(16)
        self.password, self.secrets, self.addresses, self.pods = PASSWORD, {}, {}, []
        self.values = {"auth.password": PASSWORD, "external.enabled": True, "external.type": "NodePort", "external.domain": "example.test",
                       "external.nodePortBase": self.port, "cluster.nodeTimeout": 2000, "maxmemory": "64mb", **values}
        self.generation = 0
        self.authority = Authority(directory / "pki")
        binary = directory / "bin"
        binary.mkdir()
        # DNS: what `getent hosts` says.
        (binary / "getent").write_text('#!/bin/sh\ngrep " $2$" "$HOSTS" || exit 2\n')
        (binary / "getent").chmod(0o755)
        self.upgrade_values()

    def upgrade_values(self, **values):
        self.values.update(values)
        self.docs = render(REDIS_CLUSTER, self.values, release=self.name, namespace="shared")
        self.count = one(self.docs, "StatefulSet")["spec"]["replicas"]
        certificate = one(self.docs, "Certificate", self.name)["spec"]
        names = certificate["dnsNames"]
        if "redis-cluster-tls" not in self.secrets or set(names) - set(self.names):
            self.secrets["redis-cluster-tls"] = self.authority.issue(names, certificate["ipAddresses"])
        self.names = names

    def tls_flags(self):
        pki = self.directory / "client"
        pki.mkdir(exist_ok=True)
        for name, text in self.secrets["redis-cluster-tls"].items():
            # Only what changed: roles read these files at any time.
            if not (pki / name).exists() or (pki / name).read_text() != text:
                (pki / name).write_text(text)
        return ["--tls", "--cacert", pki / "ca.crt"]

    def resolve(self, number, address):
        self.addresses[number] = address
        lines = [f"{a} {self.name}-{n}.{self.name}-headless.shared.svc.cluster.local\n" for n, a in self.addresses.items() if a]
        (self.directory / "hosts").write_text("".join(lines))

    def add(self, number):
        address = f"127.{41 + WORKER}.{self.generation}.{number + 1}"
        pod = Pod(self, number, address).start()
        self.resolve(number, address)
        return pod

    def scale(self):
        """As the StatefulSet's controller does."""
        while len(self.pods) > self.count:
            self.pods.pop().stop()
        while len(self.pods) < self.count:
            self.pods.append(self.add(len(self.pods)))

    def job(self, what):
        docs, name = self.docs, f"{self.name}-{what}"
        container = one(docs, "Job", name)["spec"]["template"]["spec"]["containers"][0]
        pod = self.pods[0]
        run_directory = self.directory / f"job-{what}"
        run_directory.mkdir(exist_ok=True)
        done = run(*pod.command(container["command"]), env=pod.environment(container, {"RUN": run_directory}), ok=False)
        assert done.returncode == 0, f"{what}: {done.stderr}"
        return done.stderr

    def remount(self):
        for pod in self.pods:
            pod.mount()

    def upgrade(self, **values):
        self.upgrade_values(**values)
        self.job("shrink")
        self.remount()
        self.scale()
        return self.job("grow")

    def nodes(self, by=0):
        """[(number, role, has slots, healthy)], as a node sees them."""
        seen = []
        for line in self.pods[by].cli("CLUSTER", "NODES").splitlines():
            words = line.split()
            number = int(words[1].split("@")[0].rsplit(":", 1)[1]) - self.port
            seen.append((number, "replica" if "slave" in words[2] else "master", len(words) > 8, words[7] == "connected" and "fail" not in words[2]))
        return sorted(seen)

    def masters(self):
        return [number for number, role, slots, _ in self.nodes() if role == "master" and slots]

    def settled(self):
        return all(pod.probe("readinessProbe") for pod in self.pods) and all(healthy for *_, healthy in self.nodes())

    def ask(self, *command):
        """As a client does: goes where it is sent. Names are announced; here they stand for ports."""
        said = self.pods[0].cli(*command, ok=False)
        if said.startswith("MOVED"):
            name, port = said.split()[2].rsplit(":", 1)
            number = int(port) - self.port
            assert name == f"redis-cluster-{number}.example.test", said
            said = self.pods[number].cli(*command)
        return said

    def write(self, count, mark):
        for i in range(count):
            assert self.ask("SET", f"{{telemetry:{i}}}:{mark}", str(i)) == "OK"

    def read(self, count, mark):
        for i in range(count):
            assert self.ask("GET", f"{{telemetry:{i}}}:{mark}") == str(i), (i, mark)

    def stop(self):
        for pod in self.pods:
            pod.stop(hand_over=False)


@pytest.fixture
def cluster(tmp_path, request):
    made = Cluster(tmp_path, **getattr(request, "param", {}))
    try:
        made.scale()
        yield made
    finally:
        made.stop()
        # Shown by pytest where the test failed.
        for pod in made.pods:
            for name in ("redis", "keeper"):
                print(f"--- {pod.number} {name}\n" + "\n".join(pod.processes[name].text().splitlines()[-12:]))


def test_it_is_made_once_grows_and_shrinks_and_keeps_what_it_holds(cluster):
    # Ready before there is a cluster: the Job waits for `helm install --wait`, and that for readiness.
    until(lambda: all(pod.probe("readinessProbe") for pod in cluster.pods), "nodes without a cluster are ready")
    said = cluster.job("grow")
    assert "the cluster is ok: 3 masters, 3 replicas" in said
    assert cluster.masters() == [0, 1, 2] and len(cluster.nodes()) == 6
    until(cluster.settled, "all are ready")
    cluster.write(40, "a")

    # What the documentation and the chart's notes say for looking at it.
    documented = next(c for c in (ROOT / "docs/deployment.md").read_text().splitlines() if "CLUSTER NODES" in c)
    notes = (REDIS_CLUSTER / "templates/NOTES.txt").read_text()
    script = re.search(r"-- sh -c '([^']*)'", documented)[1]
    assert script in notes
    pod = cluster.pods[0]
    said = run("sh", "-c", script.replace("/etc/redis/config", str(pod.made["/etc/redis/config"])), env=pod.environment(pod.containers["redis"])).stdout
    assert len(said.splitlines()) == 6

    before = cluster.nodes()
    again = cluster.job("grow")
    assert "becomes" not in again and "joins" not in again and cluster.nodes() == before, again

    said = cluster.upgrade(**{"cluster.shards": 4})
    assert len(cluster.masters()) == 4 and "slots move to the new masters" in said, said
    cluster.read(40, "a")
    cluster.write(40, "b")

    cluster.upgrade(**{"cluster.shards": 3})
    assert len(cluster.masters()) == 3 and len(cluster.nodes()) == 6, cluster.nodes()
    until(cluster.settled, "all are ready")
    cluster.read(40, "a")
    cluster.read(40, "b")


def test_nodes_are_replaced_one_by_one_and_all_at_once(cluster):
    cluster.job("grow")
    until(cluster.settled, "all are ready")
    cluster.write(20, "a")

    # A rolling update, with new addresses: a master hands over before it ends, so every write is there.
    cluster.generation = 1
    for number in reversed(range(6)):
        was_master = number in cluster.masters()
        cluster.pods[number].stop()
        other = cluster.pods[(number + 1) % 6]
        flags = lambda: next(w[2] for w in map(str.split, other.cli("CLUSTER", "NODES").splitlines()) if f":{cluster.port + number}@" in w[1])  # noqa: E731,B023
        if was_master:
            until(lambda: "master" not in flags(), f"node {number} has handed over")
        cluster.pods[number] = cluster.add(number)
        until(lambda: cluster.pods[number].probe("readinessProbe"), f"node {number} is back")
    cluster.read(20, "a")

    # A power cut: all are gone, and come back with other addresses than they knew of each other.
    for pod in cluster.pods:
        pod.stop(hand_over=False)
    cluster.generation = 2
    cluster.pods = [cluster.add(number) for number in range(6)]
    until(cluster.settled, "all find each other", 120)
    cluster.read(20, "a")


def test_passwords_and_certificates_are_read_again(cluster):
    cluster.job("grow")
    until(cluster.settled, "all are ready")
    old = cluster.password
    cluster.authority = Authority(cluster.directory / "pki2", "another")
    cluster.secrets["redis-cluster-tls"] = cluster.authority.issue(cluster.names)
    cluster.upgrade_values(**{"auth.password": "new'one"})
    cluster.password = "new'one"
    cluster.remount()
    until(lambda: all(pod.cli("PING") == "PONG" for pod in cluster.pods), "the new password and the new certificate are in effect")
    assert all(pod.cli("PING", password=old, ok=False) != "PONG" for pod in cluster.pods), "the old password is gone"
    until(cluster.settled, "they still serve each other")
    # A replica that must connect anew uses the new password.
    replica = next(n for n, role, *_ in cluster.nodes() if role == "replica")
    cluster.pods[replica].cli("CLIENT", "KILL", "TYPE", "master")
    until(lambda: "master_link_status:up" in cluster.pods[replica].cli("INFO", "replication"), "its link is back")


def test_a_wrong_password_gets_in_nowhere(cluster):
    until(lambda: cluster.pods[0].cli("PING") == "PONG", "the first node answers")
    assert "NOAUTH" in cluster.pods[0].cli("PING", password="wrong", ok=False)
    assert "NOAUTH" in cluster.pods[0].cli("PING", user="edge", ok=False), "there is no user edge without a password for it"
    assert cluster.pods[0].cli("PING", user="default") == "PONG"
    assert "NOPERM" in cluster.pods[0].cli("FLUSHALL", user="default", ok=False)


SIDES = {"auth.password": "", "auth.admin.password": PASSWORD, "auth.edge.password": "edge%/pass", "auth.central.password": "central%/pass",
         "external.domain": "", "external.hostnames": ["localhost"] * 6}


@pytest.mark.parametrize("cluster", [SIDES], indirect=True, ids=["sides"])
def test_the_real_roles_over_tls_with_their_own_users(cluster, tmp_path):
    """An edge publishes and central stores while nodes are replaced: each row once."""
    cluster.job("grow")
    until(cluster.settled, "all are ready")
    cluster.tls_flags()
    base = {"PATH": os.environ["PATH"], "REDIS_URL": f"rediss://localhost:{cluster.port + 3}", "REDIS_CA_CERT": str(tmp_path / "client/ca.crt")}
    postgres = Postgres(tmp_path / "postgres")
    running = []
    try:
        central = {**base, "REDIS_USERNAME": "central", "REDIS_PASSWORD": "central%/pass", "DB_PASSWORD": postgres.password,
                   "DATABASE_URL": f"postgres://telemetry@127.0.0.1:{postgres.port}/telemetry"}
        sample = tmp_path / "sample.csv"
        sample.write_text(run(TELEMETRY, "generate", "--gpus", "16", "--duration", "5m", "--interval", "1s").stdout)
        rows = len(sample.read_text().splitlines()) - 1
        collect = Process([TELEMETRY, "collect", "--admin-listen", "off"], tmp_path / "collect.log", central)
        running.append(collect)
        edge = {**base, "REDIS_USERNAME": "edge", "REDIS_PASSWORD": "edge%/pass", "TELEMETRY__BATCH__MAX_ROWS": "500", "TELEMETRY__STREAM__RATE": str(rows // 20)}
        stream = Process([TELEMETRY, "stream", "--csv", sample, "--until", "stored"], tmp_path / "stream.log", edge)
        running.append(stream)
        cluster.generation = 1
        for number in cluster.masters():
            cluster.pods[number].stop()
            cluster.pods[number] = cluster.add(number)
            until(lambda: cluster.pods[number].probe("readinessProbe"), f"node {number} is back")
        until(lambda: not stream.alive(), "all is stored", 150)
        assert stream.child.returncode == 0, stream.text()
        assert postgres.sql("SELECT count(*) FROM samples") == str(rows)
        until(cluster.settled, "all are ready")

        # What else each side does, on every node with the rights of its own user and no more.
        probe = free_ports(1)
        running.append(Process([TELEMETRY, "probe", "--admin-listen", f"127.0.0.1:{probe}"], tmp_path / "probe.log", edge))
        until(lambda: b"telemetry_probe_seconds_count" in urllib.request.urlopen(f"http://127.0.0.1:{probe}/metrics", timeout=5).read(), "the way is measured")
        for env, *command in ((edge, "check"), (central, "check"), (central, "audit"), (central, "top", "--once"), (central, "groups", "list"), (central, "replay", "--all")):
            done = run(TELEMETRY, *command, env=env, ok=False)
            assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        collect.stop()
        done = run(TELEMETRY, "groups", "retire", "collectors", "--force", env=central, ok=False)
        assert done.returncode == 0, done.stderr
        for pod in cluster.pods:
            assert json.loads(pod.cli("--json", "ACL", "LOG")) == [], pod.number

        # Those that only a cluster asks for: without any of them, something is refused (the others: test_acl.py).
        for right in OF_A_CLUSTER:
            for user, env in (("edge", edge), ("central", central)):
                for pod in cluster.pods:
                    pod.cli("ACL", "SETUSER", user, f"-{right[1:]}")
                run(TELEMETRY, "check", env=env, ok=False)
                refused = [(e["username"], e["object"]) for pod in cluster.pods for e in json.loads(pod.cli("--json", "ACL", "LOG"))]
                assert (user, right[1:]) in refused, refused
                for pod in cluster.pods:
                    pod.cli("ACL", "SETUSER", user, right)
    finally:
        for process in running:
            process.stop()
            print(f"--- {process.log.name}\n" + "\n".join(process.text().splitlines()[-15:]))
        postgres.stop()
