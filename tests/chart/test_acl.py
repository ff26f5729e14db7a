"""The rights of each side (charts/redis-cluster/acl.yaml) on a real Redis, with the real roles: each does its whole work, Redis' own log of
refusals stays empty, every right is one that the work needs, and what is not its work is refused."""

import json
import os
import re
import socket
import threading
import urllib.request

import pytest

from support import REDIS_CLUSTER, TELEMETRY, Postgres, Process, free_ports, materialize, one, render, run, until

EDGE, CENTRAL, ADMIN = "edge-pass/w#rd?@%", "central:pass%word", "admin \"pass"
SIDES = {"auth.edge.password": EDGE, "auth.central.password": CENTRAL, "auth.admin.password": ADMIN, "tls.enabled": False}
# By these MONITOR tells the sides apart.
ADDRESSES = {"edge": "127.0.0.11", "central": "127.0.0.12"}
# What only a cluster asks for: tests/chart/test_redis_cluster.py takes these away.
OF_A_CLUSTER = {"+cluster|slots", "+cluster|info"}
# Rights that only programs of the release before need: an ACL is replaced before or after the programs, never with all of them.
OF_RELEASE_0_1_0 = {"+role", "+hgetall"}


class Way:
    """A way to Redis with an address of its own."""

    def __init__(self, side, port):
        self.there, self.source = port, (ADDRESSES[side], 0)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
                far = socket.create_connection(("127.0.0.1", self.there), source_address=self.source)
            except OSError:
                return
            for one_way in ((near, far), (far, near)):
                threading.Thread(target=self.pump, args=one_way, daemon=True).start()

    @staticmethod
    def pump(source, target):
        try:
            while data := source.recv(65536):
                target.sendall(data)
        except OSError:
            pass
        for end in (source, target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def url(self):
        return f"redis://127.0.0.1:{self.port}"


class Redis:
    """One server with the chart's ACL file, as the chart's own script writes it."""

    def __init__(self, directory, **values):
        docs = render(REDIS_CLUSTER, values or SIDES)
        self.rules = dict(line.split(" ", 1) for line in one(docs, "ConfigMap")["data"]["acl.rules"].splitlines() if " " in line)
        spec = one(docs, "StatefulSet")["spec"]["template"]["spec"]
        made = materialize(docs, spec, spec["containers"][0], directory)
        paths = {"CONFIG": made["/etc/redis/config"], "AUTH": made["/etc/redis/auth"], "RUN": made["/run/redis"]}
        (paths["RUN"] / "keeper").write_text("here")
        users = run("sh", "-c", '. "$CONFIG/common.sh"; write_users', env={**os.environ, **{k: str(v) for k, v in paths.items()}}).stdout
        (paths["RUN"] / "users.acl").write_text(users)
        self.port = free_ports(2)
        self.directory, self.running = directory, []
        self.options = ["--bind", "127.0.0.1", "--save", "", "--aclfile", paths["RUN"] / "users.acl"]
        self.start()

    def start(self, *options):
        command = ["redis-server", "--port", self.port, *self.options, "--dir", self.directory, *options]
        self.running.append(Process(command, self.directory / f"redis-{len(self.running)}.log"))
        until(lambda: self.ask("PING") == "PONG", "Redis answers")

    def replicate(self):
        """A replica, for WAIT."""
        directory, port = self.directory / "replica", self.port + 1
        directory.mkdir()
        self.running.append(Process(["redis-server", "--port", port, *self.options, "--dir", directory], directory / "redis.log"))
        until(lambda: self.ask("PING", port=port) == "PONG", "the replica answers")
        for setting in (("CONFIG", "SET", "masteruser", "admin", "masterauth", ADMIN), ("REPLICAOF", "127.0.0.1", self.port)):
            self.ask(*setting, port=port)
        until(lambda: "master_link_status:up" in self.ask("INFO", "replication", port=port), "the replica is in step")

    def ask(self, *command, user="admin", password=ADMIN, port=None, ok=True, stdin=None):
        return run("redis-cli", "--no-auth-warning", "--user", user, "-p", port or self.port, *command, env={**os.environ, "REDISCLI_AUTH": password},
                   ok=ok, input=stdin).stdout.strip()

    def refusals(self):
        return [f"{e['username']}: {e['object']} ({e['context']}, {e['reason']})" for e in json.loads(self.ask("--json", "ACL", "LOG"))]

    def stop(self):
        for process in reversed(self.running):
            process.stop()


class Spy:
    """What each side says to Redis, scripts' own commands too."""

    def __init__(self, redis, log):
        env = {**os.environ, "REDISCLI_AUTH": ADMIN}
        self.process = Process(["redis-cli", "--no-auth-warning", "--user", "admin", "-p", redis.port, "MONITOR"], log, env)
        until(lambda: self.process.text().startswith("OK"), "Redis is listened to")

    def said(self):
        """{side: {what it is: the command as redis-cli takes it}}."""
        sides = {address: side for side, address in ADDRESSES.items()}
        said, who = {side: {} for side in ADDRESSES}, None
        for line in self.process.text().splitlines():
            found = re.match(r'[\d.]+ \[\d+ (?:(lua)|([\d.]+):\d+)\] (.*)', line)
            if not found:
                continue
            # A script is named before what it does.
            who = who if found[1] else sides.get(found[2])
            if who is None:
                continue
            words = [word if len(word) < 200 else '"x"' for word in re.findall(r'"(?:[^"\\]|\\.)*"', found[3])]
            name = words[0].strip('"').lower()
            if name in ("xinfo", "xgroup", "client", "cluster", "script", "acl"):
                name += "|" + words[1].strip('"').lower()
            keys = tuple(re.sub(r"\{\w+:\d+\}", "", word).split(":")[1].strip('"') for word in words if word.startswith('"{telemetry:'))
            # Scripts may be sent whole.
            said[who].setdefault((name, keys), " ".join(words))
        return said

    def heard(self, side, command):
        return any(name == command for name, _ in self.said()[side])

    def times(self, command):
        return self.process.text().count(f'"{command}"')


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
        redis.stop()
        if postgres:
            postgres.stop()
        for log in sorted(tmp_path.glob("*.log")):
            if log.name != "said.log":
                print(f"--- {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-15:]))


def less_by_one(rules):
    """(what was taken away, the rest) for every command, and every pattern of keys, of every selector."""
    parts = re.findall(r"\([^)]*\)|\S+", rules)
    for i, part in enumerate(parts):
        words = part.strip("()").split()
        for word in words:
            rest = [w for w in words if w != word]
            kept = [f"({' '.join(rest)})"] if part.startswith("(") else rest
            yield (word, part if part.startswith("(") else None), parts[:i] + kept + parts[i + 1:]


def needless(redis, side, said):
    """Rights without which everything that the side said would be permitted, too."""
    taken, script = [], []
    commands = list(said.values())
    for right, rest in less_by_one(redis.rules[side]):
        quoted = " ".join(f'"{word}"' for word in rest)
        taken.append(right)
        script += [f"ACL SETUSER less reset on nopass {quoted}", *[f"ACL DRYRUN less {command}" for command in commands]]
    answers = iter(redis.ask(stdin="\n".join(script) + "\n").splitlines())
    found = []
    for right in taken:
        made, *verdicts = [next(answers) for _ in range(len(commands) + 1)]
        assert made == "OK", made
        if all(verdict == "OK" for verdict in verdicts):
            found.append(right)
    return found


def stop_writes(postgres, log):
    """Holds every table of the store until its backend is ended."""
    lock = "DO $$ DECLARE t text; BEGIN FOR t IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', t); END LOOP; END $$"
    holder = Process(["psql", "-X", "-h", "127.0.0.1", "-p", postgres.port, "-U", "telemetry", "-d", "telemetry", "-c", "BEGIN", "-c", lock, "-c", "SELECT 'held'", "-c", "SELECT pg_sleep(600)"],
                     log, {**os.environ, "PGPASSWORD": postgres.password})
    until(lambda: "held" in holder.text(), "the store is held")
    return holder


@pytest.mark.parametrize("count", [2, 3, 5])
def test_each_side_does_its_work_and_nothing_more(servers, tmp_path, count):
    redis, postgres, running = servers
    redis.replicate()
    spy = Spy(redis, tmp_path / "said.log")
    running.append(spy.process)
    ways = {side: Way(side, redis.port) for side in ADDRESSES}
    base = {"PATH": os.environ["PATH"], "TELEMETRY__REDIS__PARTITIONS": str(count), "TELEMETRY__REDIS__CLAIM_IDLE": "2s"}
    edge = {**base, "REDIS_URL": ways["edge"].url(), "REDIS_USERNAME": "edge", "REDIS_PASSWORD": EDGE, "CLUSTER_NAME": "edge-a"}
    central = {**base, "REDIS_URL": ways["central"].url(), "REDIS_USERNAME": "central", "REDIS_PASSWORD": CENTRAL, "CLUSTER_NAME": "central",
               "DB_PASSWORD": postgres.password, "DATABASE_URL": f"postgres://telemetry@127.0.0.1:{postgres.port}/telemetry"}
    sample = tmp_path / "sample.csv"
    sample.write_text(run(TELEMETRY, "generate", "--gpus", "8", "--duration", "2m", "--interval", "1s").stdout)
    rows = len(sample.read_text().splitlines()) - 1
    partitions = [f"{{telemetry:{number}}}" for number in range(count)]

    def start(name, *command, **env):
        running.append(Process([TELEMETRY, *command], tmp_path / f"{name}.log", env))
        return running[-1]

    def ends_well(process, what, seconds=120):
        until(lambda: not process.alive(), what, seconds)
        assert process.child.returncode == 0, f"{process.text()}{redis.refusals()}"

    def central_does(*command):
        done = run(TELEMETRY, *command, env=central, ok=False)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}{redis.refusals()}"
        return done.stdout

    def in_all(*command):
        return sum(int(redis.ask(command[0], f"{partition}:{command[1]}", *command[2:]) or 0) for partition in partitions)

    # A queue that is full: the edge waits, and goes on when central has caught up.
    waiting = start("stream-full", "stream", "--csv", sample, "--until", "stored", **edge, TELEMETRY__REDIS__MAX_BACKLOG="2", TELEMETRY__BATCH__MAX_ROWS="500")
    until(lambda: in_all("XLEN", "stream") >= 2 or not waiting.alive(), "the queue is full")
    assert waiting.alive(), f"{waiting.text()}{redis.refusals()}"
    # Redis forgets its scripts, here and below: they are sent again.
    assert redis.ask("SCRIPT", "FLUSH") == "OK"
    until(lambda: spy.heard("edge", "eval"), "the edge sends a script again")
    first = start("collect-a", "collect", "--admin-listen", "off", **central)
    second = start("collect-b", "collect", "--admin-listen", "off", **central)
    ends_well(waiting, "everything is stored")
    assert postgres.sql("SELECT count(*) FROM samples") == str(rows)
    assert redis.ask("SCRIPT", "FLUSH") == "OK"
    until(lambda: spy.heard("central", "eval"), "central sends a script again")

    # The store does not answer: what is in hand is kept. A collector dies, another takes over what it had.
    holder = stop_writes(postgres, tmp_path / "holder.log")
    kept = spy.times("XCLAIM")
    more = start("stream-held", "stream", "--csv", sample, "--source-id", "second", "--until", "stored", **edge, TELEMETRY__BATCH__MAX_ROWS="300")
    until(lambda: spy.times("XCLAIM") > kept, "entries in hand are kept")
    first.stop(signal=9)
    postgres.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'", "postgres")
    until(lambda: not holder.alive(), "the store is let go")
    ends_well(more, "it is stored all the same")
    # One that ends well takes its leave.
    assert second.stop() == 0, second.text()

    # Dictionaries that nothing refers to any more are swept, now and then.
    for partition in partitions:
        redis.ask("HSET", f"{partition}:dicts", "0" * 32, "1-1")
        redis.ask("SET", f"{partition}:dict:{'0' * 32}", "old")
    third = start("collect-c", "collect", "--admin-listen", "off", **central, TELEMETRY__COLLECT__GROUP_ROWS="1")
    ends_well(start("stream-small", "stream", "--csv", sample, "--source-id", "third", "--until", "stored", **edge, TELEMETRY__BATCH__MAX_ROWS="60"), "small batches are stored")
    until(lambda: in_all("EXISTS", f"dict:{'0' * 32}") < count, "the old dictionary is gone")

    # One that does not wait for the store waits for Redis' replicas.
    ends_well(start("stream-accepted", "stream", "--csv", sample, "--source-id", "fourth", **edge), "it is safely in Redis")

    # What else central does: the API, the account, sending again, another group and its end.
    api = free_ports(1)
    start("serve", "serve", "--listen", f"127.0.0.1:{api}", "--admin-listen", "off", **central)
    pipeline = until(lambda: json.load(urllib.request.urlopen(f"http://127.0.0.1:{api}/api/v1/pipeline", timeout=10)), "the API shows the queue")
    assert len(str(pipeline)) > 50
    central_does("audit")
    for command in (["dead-letters", "list"], ["top", "--once"], ["groups", "list"]):
        central_does(*command)
    source = next(s for partition in partitions for s in redis.ask("HKEYS", f"{partition}:positions").split())
    central_does("replay", "--source", source)
    central_does("replay", "--all")
    # Edges that follow, two replicas: leases.
    followers = [start(f"follow-{n}", "stream", "--csv", sample, "--follow", "--admin-listen", "off", **edge) for n in "ab"]
    until(lambda: third.alive() and in_all("HLEN", "committed:collectors") >= 1, "it is sent again")
    for follower in followers:
        assert follower.alive(), follower.text()
        follower.stop()
    assert postgres.sql("SELECT count(*) FROM samples") == str(rows), "and stored once"
    another = start("collect-another", "collect", "--admin-listen", "off", **central, TELEMETRY__REDIS__GROUP="another")
    until(lambda: all("another" in redis.ask("XINFO", "GROUPS", f"{partition}:stream") for partition in partitions) or not another.alive(),
          "there is another group")
    third.stop()
    assert another.stop() == 0, f"{another.text()}{redis.refusals()}"
    for group in ("another", "collectors"):
        central_does("groups", "retire", group, "--force")
    assert redis.refusals() == []

    # It knows its rights.
    for side in (edge, central):
        done = run(TELEMETRY, "check", env=side, ok=False)
        assert done.returncode == 0 and "is permitted on" in done.stdout, f"{done.stdout}{done.stderr}"
    assert redis.refusals() == []
    keys = redis.ask("KEYS", "*").split()
    assert keys and all(key.startswith("{telemetry:") for key in keys), keys

    # And has none that it does not need: without any one of them, something of the above would have been refused.
    for side, said in spy.said().items():
        # MONITOR does not show what administers.
        said["acl|dryrun", ()] = f'"ACL" "DRYRUN" "{side}" "PING"'
        assert [right for right in needless(redis, side, said) if right[0] not in OF_A_CLUSTER | OF_RELEASE_0_1_0] == [], side


# user, command, whether it may
MAY = [
    ("edge", "XADD {telemetry:3}:stream * s x", True),
    # Reading what others sent, by whatever command shows it.
    ("edge", "XREADGROUP GROUP g c STREAMS {telemetry:3}:stream >", False),
    ("edge", "XREAD STREAMS {telemetry:3}:stream 0", False),
    ("edge", "XRANGE {telemetry:3}:stream - +", False),
    ("edge", "XREVRANGE {telemetry:3}:stream + -", False),
    ("edge", "XINFO STREAM {telemetry:3}:stream", False),
    ("edge", "XINFO STREAM {telemetry:3}:stream FULL COUNT 0", False),
    ("edge", "XCLAIM {telemetry:3}:stream g c 0 1-0", False),
    ("edge", "XAUTOCLAIM {telemetry:3}:stream g c 0 0", False),
    ("edge", "DUMP {telemetry:3}:stream", False),
    ("edge", "COPY {telemetry:3}:stream {telemetry:3}:other", False),
    ("edge", "GET {telemetry:3}:dict:x", False),
    ("edge", "SET {telemetry:3}:dict:x y GET", False),
    ("edge", "GETSET {telemetry:3}:dict:x y", False),
    # Taking it away.
    ("edge", "XACK {telemetry:3}:stream g 1-0", False),
    ("edge", "XDEL {telemetry:3}:stream 1-0", False),
    ("edge", "XTRIM {telemetry:3}:stream MAXLEN 0", False),
    ("edge", "XGROUP DESTROY {telemetry:3}:stream g", False),
    ("edge", "XGROUP SETID {telemetry:3}:stream g $", False),
    ("edge", "DEL {telemetry:3}:stream", False),
    ("edge", "UNLINK {telemetry:3}:stream", False),
    ("edge", "EXPIRE {telemetry:3}:stream 1", False),
    ("edge", "RENAME {telemetry:3}:stream {telemetry:3}:other", False),
    ("edge", "DEL {telemetry:3}:positions", False),
    ("edge", "HDEL {telemetry:3}:positions a", False),
    ("edge", "SET {telemetry:3}:dict:x y", False),
    ("edge", "DEL {telemetry:3}:dict:x", False),
    ("edge", "HSET {telemetry:3}:committed:collectors a 1", False),
    ("edge", "SET other x", False),
    ("edge", "XADD {others:3}:stream * s x", False),
    ("central", "XREADGROUP GROUP g c STREAMS {telemetry:3}:stream >", True),
    # Publishing.
    ("central", "XADD {telemetry:3}:stream * s x", False),
    ("central", "HSET {telemetry:3}:positions a 1", False),
    ("central", "SET {telemetry:3}:dict:x y", False),
    ("central", "SETNX {telemetry:3}:dict:x y", False),
    ("central", "HSET {telemetry:3}:dicts x y", False),
    ("central", "RPUSH {telemetry:3}:registry:x y", False),
    ("central", "SET {telemetry:3}:lease:x y", False),
    ("central", "DEL {telemetry:3}:stream", False),
    ("central", "RESTORE {telemetry:3}:stream 0 x", False),
    ("central", "GET other", False),
    *[(user, command, False) for user in ("edge", "central") for command in (
        "FLUSHALL", "KEYS *", "CONFIG GET masterauth", "CONFIG SET maxmemory 1", "ACL SETUSER x", "ACL LIST", "SHUTDOWN", "DEBUG SLEEP 1", "REPLICAOF NO ONE",
        "CLUSTER RESET", "CLUSTER FAILOVER", "MONITOR", "CLIENT KILL TYPE normal", "SCRIPT FLUSH", "SCRIPT KILL", "FUNCTION LIST", "FUNCTION LOAD x", "MIGRATE h 1 k 0 1", "SAVE", "MODULE LIST", "SUBSCRIBE x", "PUBLISH x y")],
]


def test_what_each_side_may(tmp_path):
    redis = Redis(tmp_path)
    try:
        for user, command, may in MAY:
            said = redis.ask("ACL", "DRYRUN", user, *command.split())
            assert (said == "OK") == may, f"{user}: {command}: {said}"
        # Scripts have no more rights than who runs them.
        redis.ask("XADD", "{telemetry:0}:stream", "*", "d", "of another edge")
        for user, password, script in (("edge", EDGE, "return redis.call('XRANGE', KEYS[1], '-', '+')"), ("edge", EDGE, "return redis.call('XINFO', 'STREAM', KEYS[1], 'FULL')"),
                                       ("edge", EDGE, "return redis.call('XTRIM', KEYS[1], 'MAXLEN', 0)"), ("central", CENTRAL, "return redis.call('XADD', KEYS[1], '*', 's', 'x')")):
            said = redis.ask("EVAL", script, "1", "{telemetry:0}:stream", user=user, password=password, ok=False)
            assert "NOPERM" in said or "can't run this command" in said or "no permissions" in said.lower(), f"{user}: {script}: {said}"
        assert redis.ask("XLEN", "{telemetry:0}:stream") == "1"
        assert redis.ask("PING", user="edge", password=EDGE) == "PONG"
    finally:
        redis.stop()


@pytest.mark.parametrize("user, password, values", [("edge", EDGE, SIDES), ("default", EDGE, {"auth.password": EDGE, "auth.admin.password": ADMIN, "tls.enabled": False})],
                         ids=["an edge's user", "the default user"])
def test_what_is_queued_survives_a_restart(user, password, values, tmp_path):
    """Redis reads its append-only file as the default user, and looks at that one's rights."""
    redis = Redis(tmp_path, **values)
    running = []
    try:
        redis.ask("CONFIG", "SET", "appendonly", "yes")
        until(lambda: "aof_rewrite_in_progress:0" in redis.ask("INFO", "persistence"), "from here on all of it is in the file")
        sample = tmp_path / "sample.csv"
        sample.write_text(run(TELEMETRY, "generate", "--gpus", "4", "--duration", "1m", "--interval", "1s").stdout)
        env = {"PATH": os.environ["PATH"], "REDIS_URL": f"redis://127.0.0.1:{redis.port}", "REDIS_PASSWORD": password, "TELEMETRY__REDIS__LEASE_TTL": "1s",
               **({} if user == "default" else {"REDIS_USERNAME": user})}
        running.append(Process([TELEMETRY, "stream", "--csv", sample, "--follow", "--admin-listen", "off"], tmp_path / "stream.log", env))
        until(lambda: "cmdstat_xadd:" in redis.ask("INFO", "commandstats") and "cmdstat_pexpire:" in redis.ask("INFO", "commandstats"), f"it streams, and keeps its lease: {running[0].text()}")
        running[0].stop(signal=9)
        keys = sorted(redis.ask("KEYS", "*").split())
        streams = [key for key in keys if key.endswith(":stream")]
        before = [redis.ask("XLEN", key) for key in streams]
        assert any(length != "0" for length in before)

        redis.running[0].stop(signal=9)
        redis.start("--appendonly", "yes")
        assert [redis.ask("XLEN", key) for key in streams] == before
        # The lease ends by itself.
        left = lambda names: [name for name in names if ":lease:" not in name]  # noqa: E731
        assert left(sorted(redis.ask("KEYS", "*").split())) == left(keys)
        assert redis.refusals() == []
    finally:
        for process in running:
            process.stop()
        redis.stop()
