"""The rights of each side (charts/redis-cluster/acl.yaml) on a real Redis, with the real roles: each does its whole work, Redis' own log of
refusals stays empty, and what is not its work is refused."""

import json
import os
import urllib.request

import pytest

from support import REDIS_CLUSTER, TELEMETRY, Postgres, Process, awaited, free_ports, materialize, one, render, run, until

EDGE, CENTRAL, ADMIN = "edge-pass/w#rd?@%", "central:pass%word", "admin \"pass"


class Redis:
    """One server with the chart's ACL file, as the chart's own script writes it."""

    def __init__(self, directory):
        docs = render(REDIS_CLUSTER, {"auth.edge.password": EDGE, "auth.central.password": CENTRAL, "auth.admin.password": ADMIN, "tls.enabled": False})
        spec = one(docs, "StatefulSet")["spec"]["template"]["spec"]
        made = materialize(docs, spec, spec["containers"][0], directory)
        paths = {"CONFIG": made["/etc/redis/config"], "AUTH": made["/etc/redis/auth"], "RUN": made["/run/redis"]}
        (paths["RUN"] / "keeper").write_text("here")
        users = run("sh", "-c", '. "$CONFIG/common.sh"; write_users', env={**os.environ, **{k: str(v) for k, v in paths.items()}}).stdout
        (paths["RUN"] / "users.acl").write_text(users)
        self.port = free_ports(1)
        self.process = Process(["redis-server", "--port", self.port, "--bind", "127.0.0.1", "--save", "", "--aclfile", paths["RUN"] / "users.acl", "--dir", directory], directory / "redis.log")
        until(lambda: self.ask("PING") == "PONG", "Redis answers")

    def ask(self, *command, user="admin", password=ADMIN):
        return run("redis-cli", "--no-auth-warning", "--user", user, "-p", self.port, *command, env={**os.environ, "REDISCLI_AUTH": password}).stdout.strip()

    def url(self):
        return f"redis://127.0.0.1:{self.port}"


@pytest.fixture
def servers(tmp_path):
    redis = Redis(tmp_path / "redis")
    postgres = None
    running = []
    try:
        postgres = Postgres(tmp_path / "postgres")
        yield redis, postgres, running
    finally:
        for process in running:
            process.stop()
        redis.process.stop()
        if postgres:
            postgres.stop()
        for log in sorted(tmp_path.glob("*.log")):
            print(f"--- {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-15:]))


def test_each_side_does_its_work_and_nothing_more(servers, tmp_path):
    redis, postgres, running = servers
    base = {"PATH": os.environ["PATH"], "REDIS_URL": redis.url(), "TELEMETRY__REDIS__PARTITIONS": "2"}
    edge = {**base, "REDIS_USERNAME": "edge", "REDIS_PASSWORD": EDGE, "CLUSTER_NAME": "edge-a"}
    central = {**base, "REDIS_USERNAME": "central", "REDIS_PASSWORD": CENTRAL, "CLUSTER_NAME": "central", "DB_PASSWORD": postgres.password,
               "DATABASE_URL": f"postgres://telemetry@127.0.0.1:{postgres.port}/telemetry"}
    sample = tmp_path / "sample.csv"
    sample.write_text(run(TELEMETRY, "generate", "--gpus", "8", "--duration", "2m", "--interval", "1s").stdout)
    rows = len(sample.read_text().splitlines()) - 1

    def stream(*more, **variables):
        return run(TELEMETRY, "stream", "--csv", sample, *more, env={**edge, **variables}, ok=False, timeout=120)

    def collector(name):
        process = Process([TELEMETRY, "collect", "--admin-listen", "off"], tmp_path / f"collect-{name}.log", central)
        running.append(process)
        return process

    def refusals():
        log = run("redis-cli", "--no-auth-warning", "--user", "admin", "-p", redis.port, "--json", "ACL", "LOG",
                  env={**os.environ, "REDISCLI_AUTH": ADMIN}, ok=False).stdout
        return [f"{e['username']}: {e['object']} ({e['context']}, {e['reason']})" for e in json.loads(log)]

    # A queue that is full: the edge waits, trims, and goes on when central has caught up.
    waiting = Process([TELEMETRY, "stream", "--csv", sample, "--until", "stored"], tmp_path / "stream-full.log",
                      {**edge, "TELEMETRY__REDIS__MAX_BACKLOG": "2", "TELEMETRY__BATCH__MAX_ROWS": "500"})
    running.append(waiting)
    until(lambda: "XLEN" and int(redis.ask("XLEN", "{telemetry:0}:stream") or 0) + int(redis.ask("XLEN", "{telemetry:1}:stream") or 0) >= 2 or not waiting.alive(), "the queue is full")
    assert waiting.alive(), f"{waiting.text()}{refusals()}"
    first, second = collector("a"), collector("b")
    until(lambda: not waiting.alive(), "everything is stored", 120)
    assert waiting.child.returncode == 0, f"{waiting.text()}{first.text()}{refusals()}"
    assert postgres.sql("SELECT count(*) FROM samples") == str(rows)

    # A collector dies, another takes over what it had; one that ends well takes its leave.
    first.stop(signal=9)
    done = stream("--until", "stored", "--source-id", "second", TELEMETRY__BATCH__MAX_ROWS="300")
    assert done.returncode == 0, f"{done.stderr}{refusals()}"
    assert second.stop() == 0, second.text()

    # What else central does: the API, the account, sending again.
    third = collector("c")
    api, admin = free_ports(1), "off"
    serve = Process([TELEMETRY, "serve", "--listen", f"127.0.0.1:{api}", "--admin-listen", admin], tmp_path / "serve.log", central)
    running.append(serve)
    pipeline = until(lambda: json.load(urllib.request.urlopen(f"http://127.0.0.1:{api}/api/v1/pipeline", timeout=10)), "the API shows the queue")
    assert len(str(pipeline)) > 50
    audit = run(TELEMETRY, "audit", env=central, ok=False)
    assert audit.returncode == 0, f"{audit.stdout}{audit.stderr}{refusals()}"
    for command in (["dead-letters", "list"], ["replay", "--all"]):
        done = run(TELEMETRY, *command, env=central, ok=False)
        assert done.returncode == 0, f"{command}: {done.stderr}{refusals()}"
    # Edges that follow, two replicas: leases.
    followers = [Process([TELEMETRY, "stream", "--csv", sample, "--follow", "--admin-listen", "off"], tmp_path / f"follow-{n}.log", edge) for n in "ab"]
    running += followers
    until(lambda: third.alive() and int(redis.ask("HLEN", "{telemetry:0}:committed:collectors")) + int(redis.ask("HLEN", "{telemetry:1}:committed:collectors")) >= 1, "it is sent again")
    for follower in followers:
        assert follower.alive(), follower.text()
        follower.stop()
    assert postgres.sql("SELECT count(*) FROM samples") == str(rows), "and stored once"
    third.stop()

    commands = run(TELEMETRY, "--help").stdout
    if not awaited("telemetry check", "\n  check " in commands):
        before = refusals()
        for side in (edge, central):
            done = run(TELEMETRY, "check", env=side, ok=False)
            assert done.returncode == 0, f"{done.stdout}{done.stderr}"
        # It may look for more than it needs, and says so as a warning.
        redis.ask("ACL", "LOG", "RESET")
        assert before == [], before
    assert refusals() == []

    keys = redis.ask("KEYS", "*").split()
    assert keys and all(key.startswith("{telemetry:") for key in keys), keys


# user, command, whether it may
MAY = [
    ("edge", "XADD {telemetry:3}:stream * s x", True),
    ("edge", "XREADGROUP GROUP g c STREAMS {telemetry:3}:stream >", False),
    ("edge", "XREAD STREAMS {telemetry:3}:stream 0", False),
    ("edge", "XRANGE {telemetry:3}:stream - +", False),
    ("edge", "XACK {telemetry:3}:stream g 1-0", False),
    ("edge", "XGROUP DESTROY {telemetry:3}:stream g", False),
    ("edge", "DEL {telemetry:3}:stream", False),
    ("edge", "DEL {telemetry:3}:positions", False),
    ("edge", "GET {telemetry:3}:dict:x", False),
    ("edge", "HSET {telemetry:3}:committed:collectors a 1", False),
    ("edge", "SET other x", False),
    ("edge", "XADD {others:3}:stream * s x", False),
    ("central", "XREADGROUP GROUP g c STREAMS {telemetry:3}:stream >", True),
    ("central", "XADD {telemetry:3}:stream * s x", False),
    ("central", "HSET {telemetry:3}:positions a 1", False),
    ("central", "SET {telemetry:3}:dict:x y", False),
    ("central", "SET {telemetry:3}:lease:x y", False),
    ("central", "DEL {telemetry:3}:stream", False),
    ("central", "GET other", False),
    *[(user, command, False) for user in ("edge", "central") for command in (
        "FLUSHALL", "KEYS *", "CONFIG GET masterauth", "CONFIG SET maxmemory 1", "ACL SETUSER x", "ACL LIST", "SHUTDOWN", "DEBUG SLEEP 1", "REPLICAOF NO ONE",
        "CLUSTER RESET", "CLUSTER FAILOVER", "MONITOR", "CLIENT KILL TYPE normal", "SCRIPT FLUSH", "SCRIPT KILL", "FUNCTION LIST", "MODULE LIST", "SUBSCRIBE x", "PUBLISH x y")],
]


def test_what_each_side_may(tmp_path):
    redis = Redis(tmp_path)
    try:
        for user, command, may in MAY:
            said = redis.ask("ACL", "DRYRUN", user, *command.split())
            assert (said == "OK") == may, f"{user}: {command}: {said}"
        # Scripts have no more rights than who runs them.
        said = run("redis-cli", "--no-auth-warning", "--user", "edge", "-p", redis.port, "EVAL", "return redis.call('XRANGE', KEYS[1], '-', '+')", "1", "{telemetry:0}:stream",
                   env={**os.environ, "REDISCLI_AUTH": EDGE}, ok=False).stdout
        assert "NOPERM" in said or "can't run this command" in said or "not permitted" in said or "no permissions" in said.lower(), said
        assert redis.ask("PING", user="edge", password=EDGE) == "PONG"
    finally:
        redis.process.stop()

