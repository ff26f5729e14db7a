"""A whole release as its pods would run it: the rendered Redis, streamer, collector and gateway as processes with their rendered arguments,
variables and files, against a real PostgreSQL. Changed are only addresses: what Services and pods of their own would give."""

import json
import os
import urllib.request

import pytest

from support import PIPELINE, ROOT, TELEMETRY, Authority, Postgres, Process, free_ports, materialize, pods, relocate, render, run, until



class Release:
    def __init__(self, directory, tls):
        self.directory, self.running = directory, []
        self.postgres = Postgres(directory / "postgres")
        first = free_ports(5)
        self.ports = {name: first + i for i, name in enumerate(("redis", "streamer", "collector", "api-gateway", "http"))}
        values = {"postgresql.auth.password": self.postgres.password, "redis.auth.password": "of-the-release%", "apiGateway.preStopSeconds": 0,
                  "streamer.csv.configMap.data": {"gpus.csv": (ROOT / "examples/gpus.csv").read_text()}}
        self.secrets = {}
        if tls:
            values |= {"redis.tls.enabled": True, "redis.tls.existingSecret": "redis-tls", "redis.tls.existingSecretKeys.cert": "tls.crt",
                       "redis.tls.existingSecretKeys.key": "tls.key", "redis.tls.serverName": "t-redis"}
            self.secrets["redis-tls"] = Authority(directory / "pki").issue(["t-redis"])
        self.docs = render(PIPELINE, values)

    def address(self, text, component):
        for old, new in (("t-redis:6379", f"127.0.0.1:{self.ports['redis']}"), ("t-postgresql:5432", f"127.0.0.1:{self.postgres.port}"),
                         ("0.0.0.0:9464", f"127.0.0.1:{self.ports.get(component, 0)}"), ("0.0.0.0:8080", f"127.0.0.1:{self.ports['http']}")):
            text = text.replace(old, new)
        return text

    def start(self, workload, component):
        spec = next(spec for name, spec in pods(self.docs) if name == workload)
        c = spec["containers"][0]
        root = self.directory / component
        made = materialize(self.docs, spec, c, root, self.secrets)
        place = lambda text: self.address(relocate(text, made), component)  # noqa: E731
        for path in made.values():
            for file in path.iterdir():
                if file.suffix in (".toml", ".conf", ".sh"):
                    text = place(file.read_text()).replace("port 6379", f"port {self.ports['redis']}").replace("redis-cli", f"redis-cli -p {self.ports['redis']}")
                    file.write_text(text.replace("bind * -::*", "bind 127.0.0.1"))
        env = {"PATH": os.environ["PATH"], **{v["name"]: place(v["value"]) for v in c.get("env", [])}}
        command = [place(part) for part in c.get("command", [TELEMETRY]) + c.get("args", [])]
        process = Process(command, self.directory / f"{component}.log", env)
        self.running.append(process)
        self.made = made
        return process, [place(part) for part in c["readinessProbe"].get("exec", {}).get("command", [])], env

    def ready(self, component):
        return urllib.request.urlopen(f"http://127.0.0.1:{self.ports[component]}/readyz", timeout=5).status == 200

    def stop(self):
        for process in reversed(self.running):
            process.stop()
            print(f"--- {process.log.name}\n" + "\n".join(process.text().splitlines()[-12:]))
        self.postgres.stop()


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_rows_come_from_the_config_map_to_the_api(tmp_path, tls):
    release = Release(tmp_path, tls)
    try:
        redis, ping, env = release.start("StatefulSet t-redis", "redis")
        until(lambda: run(*ping, env=env, ok=False).returncode == 0, "Redis is ready")
        # The password is asked for, and nothing of it is in an argument.
        flags = ["--tls", "--insecure"] if tls else []
        assert "NOAUTH" in run("redis-cli", "-p", release.ports["redis"], *flags, "PING", ok=False).stdout
        assert b"of-the-release" not in open(f"/proc/{redis.child.pid}/cmdline", "rb").read()

        for component in ("collector", "streamer", "api-gateway"):
            release.start(f"Deployment t-{component}", component)
        for component in ("collector", "streamer", "api-gateway"):
            until(lambda: release.ready(component), f"{component} is ready")
        rows = len((ROOT / "examples/gpus.csv").read_text().splitlines()) - 1
        until(lambda: release.postgres.sql("SELECT count(*) FROM samples WHERE cluster = 't'") == str(rows), "all rows are stored")
        gpus = json.load(urllib.request.urlopen(f"http://127.0.0.1:{release.ports['http']}/api/v1/gpus", timeout=10))
        assert len(gpus["data"]) > 0
    finally:
        release.stop()
