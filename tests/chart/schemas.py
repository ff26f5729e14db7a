"""schemas.py OUT MODULE…: JSON schemas for kubeconform. Those of Kubernetes come from the package kubernetes-validate, those of custom
resources from the definitions in Go modules."""

import json
import sys
from pathlib import Path

import kubernetes_validate
import yaml

VERSIONS = range(28, 37)


def kubernetes(out):
    source = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
    for minor in VERSIONS:
        target = out / f"v1.{minor}.0"
        target.mkdir(parents=True)
        for file in (source / f"v1.{minor}.0-local-strict").glob("*.json"):
            schema = json.loads(file.read_text())
            # It would make the references absolute.
            schema.pop("$id", None)
            (target / file.name).write_text(json.dumps(schema).replace("/api/_definitions.json", "_definitions.json"))


def strict(schema):
    """As the API server sees it with strict field validation: what is not described is refused."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    if made.pop("x-kubernetes-int-or-string", False):
        made.pop("type", None)
        made["type"] = ["integer", "string"]
    open_ended = made.pop("x-kubernetes-preserve-unknown-fields", False)
    if isinstance(made.get("properties"), dict) and made.get("type", "object") == "object" and not open_ended and "additionalProperties" not in made:
        made["additionalProperties"] = False
    return made


def definitions(out, module):
    """Custom resources in a module: files that begin like one, templates excluded."""
    for file in sorted(Path(module).rglob("*.yaml")):
        if "test" in file.parts or file.stat().st_size > 5_000_000:
            continue
        text = file.read_text(errors="replace")
        if "kind: CustomResourceDefinition" not in text or "{{" in text.split("spec:")[0]:
            continue
        try:
            documents = list(yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
        except yaml.YAMLError:
            continue
        for crd in documents:
            if not crd or crd.get("kind") != "CustomResourceDefinition":
                continue
            spec = crd["spec"]
            for version in spec["versions"]:
                schema = version.get("schema", {}).get("openAPIV3Schema")
                name = f"{spec['names']['kind'].lower()}-{spec['group'].split('.')[0]}-{version['name']}.json"
                if schema and not (out / name).exists():
                    schema = strict(schema)
                    schema["properties"].update(metadata={"type": "object"}, apiVersion={"type": "string"}, kind={"type": "string"})
                    (out / name).write_text(json.dumps(schema))


def main():
    out = Path(sys.argv[1])
    kubernetes(out)
    (out / "crds").mkdir()
    for module in sys.argv[2:]:
        definitions(out / "crds", module)
    for needed in ("servicemonitor-monitoring-v1", "prometheusrule-monitoring-v1", "certificate-cert-manager-v1", "issuer-cert-manager-v1", "scaledobject-keda-v1alpha1"):
        assert (out / "crds" / f"{needed}.json").exists(), f"no module defines {needed}"


main()
