"""What the chart tests share: helm, rendered objects, servers of their own, pods that are made of rendered objects."""

import base64
import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
PIPELINE = ROOT / "charts/telemetry-pipeline"
REDIS_CLUSTER = ROOT / "charts/redis-cluster"
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
TOOLS = TARGET / "chart-tools"
TELEMETRY = os.environ.get("TELEMETRY_BIN", str(TARGET / "debug/telemetry"))
HELMS = {"helm 4": TOOLS / "bin/helm4", "helm 3": TOOLS / "bin/helm3"}
HELM = HELMS["helm 4"]
KUBERNETES = "1.36.0"


def run(*command, ok=True, **more):
    """The finished process, its output as text."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **more)
    assert not ok or done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done


def sets(values):
    """`--set` for {"a.b": value}; text stays text."""
    flags = []
    for key, value in values.items():
        flags += ["--set-json", f"{key}={json.dumps(value)}"]
    return flags


def template(chart, values=None, *more, release="t", helm=HELM, kubernetes=KUBERNETES, files=(), ok=True, namespace="telemetry-system"):
    """What `helm template` gives: the text."""
    flags = [flag for file in files for flag in ("--values", file)]
    done = run(helm, "template", release, chart, "--namespace", namespace, "--kube-version", kubernetes, *flags, *sets(values or {}), *more, ok=ok)
    return done.stdout if ok else done


def objects(text):
    return [one for one in yaml.safe_load_all(text) if one]


def render(*what, **how):
    return objects(template(*what, **how))


def refused(chart, values, **how):
    """Why helm refuses these values."""
    done = template(chart, values, ok=False, **how)
    assert done.returncode != 0, f"{values} were not refused"
    return done.stderr


def find(docs, kind, name=None):
    return [d for d in docs if d["kind"] == kind and (name is None or d["metadata"]["name"] == name)]


def one(docs, kind, name=None):
    found = find(docs, kind, name)
    assert len(found) == 1, f"{kind} {name}: {[(d['kind'], d['metadata']['name']) for d in docs]}"
    return found[0]


WORKLOADS = ("Deployment", "DaemonSet", "StatefulSet", "Job")


def pods(docs):
    """(name, pod spec) of everything that runs."""
    for d in docs:
        if d["kind"] in WORKLOADS:
            yield f"{d['kind']} {d['metadata']['name']}", d["spec"]["template"]["spec"]
        elif d["kind"] == "Pod":
            yield f"Pod {d['metadata']['name']}", d["spec"]


# Which of the workers that share the tests this is, from 0 on: each has ports and addresses of its own.
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])


def free_ports(count):
    """The first of `count` ports in a row that are free, those 10000 higher too."""
    for base in range(21000 + WORKER % 4 * 2500 + os.getpid() % 1000, 21000 + (WORKER % 4 + 1) * 2500, 50):
        with contextlib.ExitStack() as stack:
            try:
                for port in range(base, base + count):
                    for p in (port, port + 10000):
                        s = stack.enter_context(socket.socket())
                        s.bind(("", p))
                return base
            except OSError:
                continue
    raise AssertionError("no free ports")


def until(condition, what, seconds=60):
    """Waits until a condition holds, and gives what it gave."""
    end = time.monotonic() + seconds
    last = None
    while time.monotonic() < end:
        try:
            last = condition()
            if last:
                return last
        except (AssertionError, OSError, subprocess.SubprocessError) as error:
            last = error
        time.sleep(0.2)
    raise AssertionError(f"{what}: not within {seconds} s; last: {last}")


def materialize(docs, spec, container, root, secrets=None):
    """Lays the volumes of a container out below `root`, as a kubelet does. Returns {mount path: directory}."""
    secrets = secrets or {}
    made = {}
    volumes = {v["name"]: v for v in spec.get("volumes", [])}
    for mount in container.get("volumeMounts", []):
        path = root / mount["mountPath"].lstrip("/")
        path.mkdir(parents=True, exist_ok=True)
        made[mount["mountPath"]] = path
        volume = volumes.get(mount["name"], {})
        if "configMap" in volume:
            source = find(docs, "ConfigMap", volume["configMap"]["name"])
            if not source:
                assert volume["configMap"].get("optional"), f"there is no ConfigMap {volume['configMap']['name']}"
                continue
            data, items = source[0]["data"], volume["configMap"].get("items")
        elif "secret" in volume:
            name = volume["secret"]["secretName"]
            source = find(docs, "Secret", name)
            if name in secrets:
                data = secrets[name]
            else:
                assert source, f"there is no Secret {name}"
                data = {k: base64.b64decode(v).decode() for k, v in source[0]["data"].items()}
            items = volume["secret"].get("items")
        else:
            continue
        for key, name in ([(i["key"], i["path"]) for i in items] if items else [(k, k) for k in data]):
            assert key in data, f"the volume {mount['name']} wants the key {key}"
            (path / name).write_text(data[key])
    return made


def relocate(text, made):
    """Mount paths in a text → the directories made for them."""
    if not made:
        return text
    paths = "|".join(re.escape(path) for path in sorted(made, key=len, reverse=True))
    return re.sub(rf"({paths})(?![\w-])", lambda found: str(made[found[1]]), text)


class Authority:
    """A certificate authority, by openssl."""

    def __init__(self, directory, name="authority"):
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.ca, self.key = self.directory / "ca.crt", self.directory / "ca.key"
        run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30", "-subj", f"/CN={name}",
            "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign", "-keyout", self.key, "-out", self.ca)
        self.number = 0

    def issue(self, names, addresses=("127.0.0.1",)):
        """{ca.crt, tls.crt, tls.key} for these names."""
        self.number += 1
        base = self.directory / f"{self.number}"
        alternatives = ",".join([f"DNS:{n}" for n in names] + [f"IP:{a}" for a in addresses])
        run("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN=node {self.number}",
            "-keyout", f"{base}.key", "-out", f"{base}.csr")
        extensions = base.with_suffix(".ext")
        extensions.write_text(f"subjectAltName={alternatives}\nextendedKeyUsage=serverAuth,clientAuth\n")
        run("openssl", "x509", "-req", "-in", f"{base}.csr", "-CA", self.ca, "-CAkey", self.key, "-set_serial", str(self.number), "-days", "30",
            "-extfile", extensions, "-out", f"{base}.crt")
        return {"ca.crt": self.ca.read_text(), "tls.crt": Path(f"{base}.crt").read_text(), "tls.key": Path(f"{base}.key").read_text()}


class Process:
    """A program that runs until it is stopped, with its output in a file."""

    def __init__(self, command, log, env=None):
        self.log = Path(log)
        self.file = open(self.log, "ab")
        self.child = subprocess.Popen([str(c) for c in command], stdout=self.file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=env)

    def alive(self):
        return self.child.poll() is None

    def stop(self, seconds=30, signal=15):
        if self.alive():
            self.child.send_signal(signal)
            try:
                self.child.wait(seconds)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()
        self.file.close()
        return self.child.returncode

    def text(self):
        return self.log.read_text(errors="replace")


def postgres_bin():
    found = shutil.which("postgres")
    if found:
        return Path(found).parent
    return sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1]


class Postgres:
    """A PostgreSQL of its own, on a free port."""

    def __init__(self, directory):
        self.directory = Path(directory)
        self.directory.mkdir(parents=True)
        self.port = free_ports(1)
        self.user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
        if self.user:
            shutil.chown(self.directory, "postgres")
            for parent in self.directory.parents:
                if parent.stat().st_mode & 0o001 == 0:
                    parent.chmod(parent.stat().st_mode | 0o011)
        binary, data = postgres_bin(), self.directory / "data"
        self.password = "db pass/'word"
        secret = self.directory / "password"
        secret.write_text(self.password)
        if self.user:
            shutil.chown(secret, "postgres")
        run(*self.user, binary / "initdb", "-D", data, "-U", "telemetry", "-A", "scram-sha-256", f"--pwfile={secret}", "-E", "UTF8", "--no-sync")
        self.process = Process([*self.user, binary / "postgres", "-D", data, "-p", self.port, "-h", "127.0.0.1", "-k", self.directory, "-c", "fsync=off"],
                               Path(f"{self.directory}.log"))
        until(lambda: self.sql("SELECT 1", "postgres") == "1", "PostgreSQL answers")
        self.sql("CREATE DATABASE telemetry", "postgres")

    def sql(self, text, database="telemetry"):
        return run("psql", "-X", "-A", "-t", "-h", "127.0.0.1", "-p", self.port, "-U", "telemetry", "-d", database, "-c", text,
                   env={**os.environ, "PGPASSWORD": self.password}).stdout.strip()

    def stop(self):
        self.process.stop(signal=2)
