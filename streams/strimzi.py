"""Topics as resources of Strimzi's topic operator, for clusters that declare topics and do not create them."""

import io
import re
from collections.abc import Iterable

from ruamel.yaml import YAML

from streams.topics import Topic

API_VERSION = "kafka.strimzi.io/v1"


def manifests(topics: Iterable[Topic], partitions: int, replication: int, cluster: str) -> str:
    """KafkaTopic resources as YAML documents. cluster: name of the Kafka resource that has the topics."""
    yaml = YAML()
    yaml.explicit_start = True
    yaml.width = 120
    text = io.StringIO()
    yaml.dump_all([_resource(topic, partitions, replication, cluster) for topic in topics], text)
    return text.getvalue()


def _resource(topic: Topic, partitions: int, replication: int, cluster: str) -> dict[str, object]:
    name = re.sub(r"[^a-z0-9.-]+", "-", topic.name.lower()).strip("-.")
    own: dict[str, object] = {"topicName": topic.name} if name != topic.name else {}
    config: dict[str, object] = {"max.message.bytes": topic.max_message_bytes}
    if topic.compacted:
        config["cleanup.policy"] = "compact"
    if replication > 1:
        config["min.insync.replicas"] = replication - 1
    return {
        "apiVersion": API_VERSION,
        "kind": "KafkaTopic",
        "metadata": {"name": name, "labels": {"strimzi.io/cluster": cluster}},
        "spec": own | {"partitions": partitions, "replicas": replication, "config": config},
    }
