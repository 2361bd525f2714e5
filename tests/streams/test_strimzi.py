from ruamel.yaml import YAML

from streams.strimzi import manifests
from streams.topics import Topic


def test_a_topic_as_a_resource() -> None:
    text = manifests([Topic("calls.documents", "documents", 1000, compacted=True)], 12, 3, "main")
    assert list(YAML(typ="safe").load_all(text)) == [
        {
            "apiVersion": "kafka.strimzi.io/v1",
            "kind": "KafkaTopic",
            "metadata": {"name": "calls.documents", "labels": {"strimzi.io/cluster": "main"}},
            "spec": {
                "partitions": 12,
                "replicas": 3,
                "config": {"max.message.bytes": 1000, "cleanup.policy": "compact", "min.insync.replicas": 2},
            },
        }
    ]


def test_names_that_kubernetes_does_not_take() -> None:
    (resource,) = YAML(typ="safe").load_all(manifests([Topic("My_Topic", "x")], 1, 1, "main"))
    assert resource["metadata"]["name"] == "my-topic"
    assert resource["spec"]["topicName"] == "My_Topic"
    assert "min.insync.replicas" not in resource["spec"]["config"]
