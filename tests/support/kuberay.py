"""Schemas of the custom resources in `infra/kubernetes`, for Kubernetes' own do not know them.

By the API references of KubeRay 1.6 (ray.io/v1) and the Prometheus operator
(monitoring.coreos.com/v1): the fields that we use and their like, each closed, so that a name that
is misspelt is found. Pod templates are Kubernetes', and are checked as such.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

TEXT, COUNT, SWITCH = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
ANY = {"type": "object"}  # a piece of Kubernetes' own


def closed(required: str = "", **properties: Schema) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }


def many(schema: Schema) -> Schema:
    return {"type": "array", "items": schema, "minItems": 1}


def resource(group: str, kind: str, spec: Schema) -> Schema:
    return closed(
        "apiVersion kind metadata spec",
        apiVersion={"const": group},
        kind={"const": kind},
        metadata={"type": "object", "required": ["name", "namespace"]},
        spec=spec,
    )


RAY_CLUSTER = closed(
    "headGroupSpec rayVersion",
    rayVersion=TEXT,
    authOptions=closed("mode", mode={"enum": ["disabled", "token"]}),
    gcsFaultToleranceOptions=closed(
        "redisAddress",
        redisAddress=TEXT,
        redisUsername=ANY,
        redisPassword=closed("valueFrom", valueFrom=ANY),  # `value` would be a secret in a manifest
        externalStorageNamespace=TEXT,
    ),
    enableInTreeAutoscaling=SWITCH,
    autoscalerOptions=closed(
        version={"enum": ["v1", "v2"]},
        upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
        idleTimeoutSeconds=COUNT,
        resources=ANY,
        securityContext=ANY,
    ),
    headGroupSpec=closed(
        "template",
        serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
        enableIngress=SWITCH,
        rayStartParams=TEXTS,
        template=ANY,
    ),
    workerGroupSpecs=many(
        closed(
            "groupName template",
            groupName=TEXT,
            replicas=COUNT,
            minReplicas=COUNT,
            maxReplicas=COUNT,
            numOfHosts=COUNT,
            idleTimeoutSeconds=COUNT,
            rayStartParams=TEXTS,
            template=ANY,
        )
    ),
)
RAY_JOB = closed(
    "entrypoint rayClusterSpec",
    backoffLimit=COUNT,
    activeDeadlineSeconds={"type": "integer", "minimum": 1},
    shutdownAfterJobFinishes=SWITCH,
    ttlSecondsAfterFinished=COUNT,
    entrypoint=TEXT,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
    submitterPodTemplate=ANY,
    rayClusterSpec=RAY_CLUSTER,
)
POD_MONITOR = closed(
    "selector podMetricsEndpoints",
    selector=ANY,
    podMetricsEndpoints=many(closed("port", port=TEXT, interval=TEXT, path=TEXT)),
)
RULE = closed(
    "alert expr", **{"alert": TEXT, "expr": TEXT, "for": TEXT}, labels=TEXTS, annotations=TEXTS
)
PROMETHEUS_RULE = closed("groups", groups=many(closed("name rules", name=TEXT, rules=many(RULE))))

SCHEMAS = {
    "RayCluster": resource("ray.io/v1", "RayCluster", RAY_CLUSTER),
    "RayJob": resource("ray.io/v1", "RayJob", RAY_JOB),
    "PodMonitor": resource("monitoring.coreos.com/v1", "PodMonitor", POD_MONITOR),
    "PrometheusRule": resource("monitoring.coreos.com/v1", "PrometheusRule", PROMETHEUS_RULE),
}


def pod_templates(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Every pod that a document asks for."""
    spec = document.get("spec", {})
    if document["kind"] == "Deployment":
        return [spec["template"]]
    templates = []
    if document["kind"] == "RayJob":
        templates.append(spec["submitterPodTemplate"])
        spec = spec["rayClusterSpec"]
    if document["kind"] in {"RayCluster", "RayJob"}:
        templates.append(spec["headGroupSpec"]["template"])
        templates += [group["template"] for group in spec["workerGroupSpecs"]]
    return templates
