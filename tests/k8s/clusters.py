"""Clusters on this machine: for each an etcd, an API server with RBAC, controllers, a scheduler and the test kubelet."""

import json
import os
import pathlib
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Failed(AssertionError):
    """A command that ended with an error."""


def until(done, what, seconds=60, every=0.3):
    """Waits until `done()` is true, and gives what it gave."""
    end = time.monotonic() + seconds
    last = None
    while time.monotonic() < end:
        try:
            if value := done():
                return value
            last = value
        except (OSError, Failed, ValueError, KeyError, IndexError) as error:
            last = error
        time.sleep(every)
    raise AssertionError(f"not within {seconds} s: {what} (last: {last})")


def sh(*command, stdin=None, check=True, **more):
    result = subprocess.run([str(word) for word in command], input=stdin, capture_output=True, text=True, check=False, **more)
    if check and result.returncode:
        raise Failed(f"{' '.join(str(w) for w in command)}: exit code {result.returncode}\n{result.stdout}{result.stderr}")
    return result


class Authority:
    """Makes certificates."""

    def __init__(self, directory, name):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.certificate = self.directory / f"{name}.crt"
        self.key = self.directory / f"{name}.key"
        sh("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "90", "-subj", f"/CN={name}",
           "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign",
           "-keyout", self.key, "-out", self.certificate)

    def issue(self, name, subject, names=(), addresses=()):
        key, request, certificate = (self.directory / f"{name}.{end}" for end in ("key", "csr", "crt"))
        sh("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", subject, "-keyout", key, "-out", request)
        alternatives = [f"DNS:{n}" for n in names] + [f"IP:{a}" for a in addresses]
        extensions = self.directory / f"{name}.ext"
        extensions.write_text(
            (f"subjectAltName={','.join(alternatives)}\n" if alternatives else "") + "extendedKeyUsage=serverAuth,clientAuth\n"
            "keyUsage=critical,digitalSignature\n")
        sh("openssl", "x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self.key, "-CAcreateserial", "-days", "90",
           "-extfile", extensions, "-out", certificate)
        return certificate, key


class Cluster:
    """`number` tells clusters apart in ports and addresses."""

    def __init__(self, work, number, name, context, pods, nodes, balancers=(), world=None):
        self.work = work / name
        self.work.mkdir(parents=True)
        self.number, self.name, self.context, self.pods, self.nodes, self.balancers = number, name, context, pods, nodes, list(balancers)
        self.port = 6440 + number
        self.services = f"10.{number}.0.0/16"
        self.node_ip, self.dns = f"10.10{number}.0.1", f"10.10{number}.0.10"
        self.world = world
        self.processes = []

    def spawn(self, name, *command, **env):
        log = (self.work / f"{name}.log").open("ab")
        # A session of its own: Ctrl-C is for the test, with which everything ends.
        process = subprocess.Popen([str(word) for word in command], stdout=log, stderr=log, stdin=subprocess.DEVNULL, env={**os.environ, **env}, start_new_session=True)
        self.processes.append((name, process))
        return process

    def start_control_plane(self):
        for address in (self.node_ip, self.dns):
            sh("ip", "address", "add", f"{address}/32", "dev", "lo")
        authority = Authority(self.work / "pki", "ca")
        self.authority = authority
        server = authority.issue("apiserver", "/CN=kube-apiserver", ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"],
                                 ["127.0.0.1", f"10.{self.number}.0.1", self.node_ip])
        kubelet_client = authority.issue("kubelet-client", "/O=system:masters/CN=kube-apiserver-kubelet-client")
        self.kubelet_server = authority.issue("kubelet", "/CN=test-kubelet", addresses=[self.node_ip])
        sh("openssl", "genrsa", "-out", self.work / "pki/sa.key", "2048")
        for user, subject in {"admin": "/O=system:masters/CN=admin", "controllers": "/CN=system:kube-controller-manager", "scheduler": "/CN=system:kube-scheduler"}.items():
            self.kubeconfig(user, authority.issue(user, subject))
        peer = 23800 + self.number
        client = f"http://127.0.0.1:{23790 + self.number}"
        self.spawn("etcd", "etcd", "--name", self.name, "--data-dir", self.work / "etcd", "--listen-client-urls", client, "--advertise-client-urls", client,
                   "--listen-peer-urls", f"http://127.0.0.1:{peer}", "--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}",
                   "--initial-cluster", f"{self.name}=http://127.0.0.1:{peer}", "--unsafe-no-fsync")
        pki = self.work / "pki"
        self.spawn(
            "apiserver", "kube-apiserver", "--bind-address=127.0.0.1", f"--advertise-address={self.node_ip}", f"--secure-port={self.port}", f"--etcd-servers={client}",
            f"--service-cluster-ip-range={self.services}", "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={pki}/sa.key", f"--service-account-signing-key-file={pki}/sa.key", f"--client-ca-file={authority.certificate}",
            f"--tls-cert-file={server[0]}", f"--tls-private-key-file={server[1]}", "--authorization-mode=Node,RBAC", "--allow-privileged=true",
            f"--kubelet-client-certificate={kubelet_client[0]}", f"--kubelet-client-key={kubelet_client[1]}",
            f"--kubelet-certificate-authority={authority.certificate}", "--kubelet-preferred-address-types=InternalIP", "--endpoint-reconciler-type=none",
            f"--requestheader-client-ca-file={Authority(pki, 'front').certificate}")

    def kubeconfig(self, user, pair):
        path = self.work / f"{user}.kubeconfig"
        path.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": self.context,
            "clusters": [{"name": self.context, "cluster": {"server": f"https://127.0.0.1:{self.port}", "certificate-authority": str(self.authority.certificate)}}],
            "users": [{"name": f"{user}-{self.name}", "user": {"client-certificate": str(pair[0]), "client-key": str(pair[1])}}],
            "contexts": [{"name": self.context, "context": {"cluster": self.context, "user": f"{user}-{self.name}"}}],
        }))
        return path

    def start_rest(self):
        until(lambda: self.alive() or self.kubectl("get", "--raw", "/readyz").stdout == "ok", f"the API server of {self.name} is ready", 180)
        assert not self.alive(), self.alive()
        pki = self.work / "pki"
        config = self.work / "controllers.kubeconfig"
        self.spawn("controllers", "kube-controller-manager", f"--kubeconfig={config}", f"--authentication-kubeconfig={config}", f"--authorization-kubeconfig={config}",
                   f"--service-account-private-key-file={pki}/sa.key", f"--root-ca-file={self.authority.certificate}", "--use-service-account-credentials=true",
                   "--leader-elect=false", "--bind-address=127.0.0.1", f"--secure-port={10100 + self.number}", f"--cluster-name={self.name}")
        config = self.work / "scheduler.kubeconfig"
        self.spawn("scheduler", "kube-scheduler", f"--kubeconfig={config}", f"--authentication-kubeconfig={config}", f"--authorization-kubeconfig={config}",
                   "--leader-elect=false", "--bind-address=127.0.0.1", f"--secure-port={10200 + self.number}")
        self.kubectl("apply", "-f", os.environ["CRDS"], "--server-side")
        self.kubectl("apply", "-f", "-", stdin=json.dumps({
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "provisioner": "test.local/directory", "volumeBindingMode": "Immediate",
            "metadata": {"name": "standard", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}}))
        until(lambda: self.kubectl("get", "namespace", "kube-node-lease").returncode == 0, "the namespace of leases")
        settings = self.work / "kubelet.json"
        self.run = self.work / "run"
        settings.write_text(json.dumps({
            "cluster": self.name, "kubeconfig": str(self.work / "admin.kubeconfig"), "run": str(self.run), "world": str(self.world),
            "images": str(self.world.parent / "images"), "pods": self.pods, "dns": self.dns, "node_ip": self.node_ip, "balancers": self.balancers,
            "nodes": self.nodes, "port": 10250, "certificate": str(self.kubelet_server[0]), "key": str(self.kubelet_server[1])}))
        self.spawn("kubelet", os.environ["KUBELET"], settings)
        until(lambda: self.alive() or len(self.ready_nodes()) == len(self.nodes), f"the nodes of {self.name} are ready", 60)

    def ready_nodes(self):
        nodes = self.get("nodes")
        return [n for n in nodes if any(c["type"] == "Ready" and c["status"] == "True" for c in n.get("status", {}).get("conditions", []))
                and not any(t["key"].startswith("node.kubernetes.io/") for t in n["spec"].get("taints", []))]

    def kubectl(self, *arguments, stdin=None, check=True):
        return sh("kubectl", "--kubeconfig", self.work / "admin.kubeconfig", *arguments, stdin=stdin, check=check)

    def get(self, *what):
        result = json.loads(self.kubectl("get", *what, "--output", "json").stdout)
        return result["items"] if result["kind"].endswith("List") else result

    def pods_of(self, namespace, selector=""):
        return [p for p in self.get("pods", "--namespace", namespace, "--selector", selector)]

    def journal(self):
        path = self.run / "journal"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def alive(self):
        return [f"{self.name}: {name} ended with {p.returncode}" for name, p in self.processes if p.poll() is not None]


def network(clusters):
    """The world between clusters: none reaches another's pods, but by load balancers."""
    sh("ip", "link", "set", "lo", "up")
    pathlib.Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    sh("ip", "link", "add", "world", "type", "bridge")
    sh("ip", "link", "set", "world", "up")
    sh("ip", "address", "add", "10.100.0.1/32", "dev", "world")
    sh("ip", "route", "add", "default", "dev", "world")
    pods = [c.pods for c in clusters]
    lines = ["ct state established,related accept"]
    for own in pods:
        others = ", ".join(p for p in pods if p != own)
        lines += [f"ip saddr {own} ip daddr {{ {others} }} ct status dnat accept", f"ip saddr {own} ip daddr {{ {others} }} drop"]
    rules = "\n    ".join(lines)
    sh("nft", "-f", "-", stdin=f"table ip between {{\n  chain between {{\n    type filter hook forward priority 10\n    {rules}\n  }}\n}}\n")
