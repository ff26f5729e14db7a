"""What NetworkPolicies let through, by the rules of Kubernetes: for the policies and pods that are there."""

import ipaddress


def selects(selector, labels):
    if selector is None:
        return False
    good = all(labels.get(k) == v for k, v in selector.get("matchLabels", {}).items())
    for e in selector.get("matchExpressions", []):
        there = e["key"] in labels
        good &= {
            "In": there and labels.get(e["key"]) in e.get("values", []),
            "NotIn": not there or labels[e["key"]] not in e.get("values", []),
            "Exists": there,
            "DoesNotExist": not there,
        }[e["operator"]]
    return good


class End:
    """One end of a connection: a pod of the namespace, or an address outside."""

    def __init__(self, address, labels=None, ports=()):
        self.address, self.labels, self.ports = address, labels, dict(ports)


def peer_matches(peer, end):
    if "ipBlock" in peer:
        block = peer["ipBlock"]
        address = ipaddress.ip_address(end.address)
        return address in ipaddress.ip_network(block["cidr"]) and not any(address in ipaddress.ip_network(e) for e in block.get("except", []))
    # Namespaces other than the pods' own are strangers here.
    return end.labels is not None and "namespaceSelector" not in peer and selects(peer.get("podSelector"), end.labels)


def rule_matches(rule, peers, end, to, port, protocol):
    if rule.get(peers) and not any(peer_matches(peer, end) for peer in rule[peers]):
        return False
    if not rule.get("ports"):
        return True
    for wanted in rule["ports"]:
        number = wanted.get("port")
        number = to.ports.get(number, -1) if isinstance(number, str) else number
        if wanted.get("protocol", "TCP") == protocol and (number is None or number <= port <= wanted.get("endPort", number)):
            return True
    return False


def one_way(policies, kind, own, other, to, port, protocol):
    """Whether `own` may begin (Egress) or take (Ingress) it."""
    if own.labels is None:
        return True
    chosen = [p["spec"] for p in policies if selects(p["spec"]["podSelector"], own.labels) and kind in p["spec"].get("policyTypes", ["Ingress"])]
    peers = {"Egress": "to", "Ingress": "from"}[kind]
    return not chosen or any(rule_matches(rule, peers, other, to, port, protocol) for p in chosen for rule in p.get(kind.lower(), []))


def allowed(policies, source, to, port, protocol="TCP"):
    return one_way(policies, "Egress", source, to, to, port, protocol) and one_way(policies, "Ingress", to, source, to, port, protocol)
