"""The schemas of Kubernetes and of the custom resources, as strict JSON schemas."""

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import jsonschema

from deploy.check.documents import load_all
from deploy.check.paths import TOOLS

SETS = ("kubernetes", "keda", "prometheus-operator", "strimzi")
_OWNERS = {"keda.sh": "keda", "monitoring.coreos.com": "prometheus-operator", "kafka.strimzi.io": "strimzi"}


def owner(document: Any) -> str:
    """Which set of schemas knows the kind of a manifest."""
    group = document["apiVersion"].rpartition("/")[0]
    return _OWNERS.get(group, "kubernetes")


def mistakes(document: Any) -> Iterator[str]:
    """What the schema says against a manifest; unknown fields are mistakes."""
    name = f"{document['kind']} {document['metadata']['name']}"
    schema = _schema(owner(document), document["apiVersion"], document["kind"])
    if schema is None:
        yield f"{name}: {document['apiVersion']} has no such kind"
        return
    for error in jsonschema.Draft202012Validator(schema).iter_errors(document):
        place = ".".join(map(str, error.absolute_path))
        yield f"{name}: {place}: {error.message[:200]}"


@cache
def _schema(name: str, api_version: str, kind: str) -> Any:
    group, _, version = api_version.rpartition("/")
    if name == "kubernetes":
        file = TOOLS / name / (f"apis__{group}__{version}_openapi.json" if group else f"api__{version}_openapi.json")
        return _built_in(json.loads(file.read_text(encoding="utf-8")), group, version, kind) if file.exists() else None
    for file in sorted((TOOLS / name).glob("*.yaml")):
        for definition in load_all(file):
            if definition["spec"]["names"]["kind"] == kind and definition["spec"]["group"] == group:
                for served in definition["spec"]["versions"]:
                    if served["name"] == version and served["served"]:
                        return _custom(served["schema"]["openAPIV3Schema"])
    return None


def _built_in(openapi: Any, group: str, version: str, kind: str) -> Any:
    wanted = {"group": group, "version": version, "kind": kind}
    schemas = openapi["components"]["schemas"]
    for name, schema in schemas.items():
        if wanted in schema.get("x-kubernetes-group-version-kind", ()):
            strict = {key: _strict(value) for key, value in schemas.items()}
            return {"$ref": f"#/components/schemas/{name}", "components": {"schemas": strict}}
    return None


def _custom(schema: Any) -> Any:
    strict = _strict(schema)
    strict["properties"] |= {"apiVersion": {}, "kind": {}, "metadata": {"type": "object"}}
    return strict


def _strict(schema: Any) -> Any:
    """The same with unknown fields forbidden wherever fields are named."""
    if isinstance(schema, list):
        return [_strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: value if key in {"default", "enum", "example"} else _strict(value) for key, value in schema.items()}
    named = isinstance(strict.get("properties"), dict) and "type" in strict
    if named and "additionalProperties" not in strict and not schema.get("x-kubernetes-preserve-unknown-fields"):
        strict["additionalProperties"] = False
    if schema.get("nullable") and isinstance(schema.get("type"), str):
        strict["type"] = [schema["type"], "null"]
    return strict
