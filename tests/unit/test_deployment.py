"""Compose file, images, manifests, alerts: held against the code, since no engine is at hand to try them."""

from __future__ import annotations

import fnmatch
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

import rsembed.core.settings
import workers.settings
from rsembed.embedders.catalog import MODEL_SPECS
from workers.cli.group import fleet
from workers.metrics import METRICS, PREFIX
from workers.process import GRACE_S
from workers.queues import infer_queue

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
IMAGES = {"rsembed-io": "docker/io.Dockerfile", "rsembed-gpu": "docker/gpu.Dockerfile"}
REFERENCE = re.compile(r"\$\{(?P<name>[A-Z_]+)(?::(?P<kind>[?-])(?P<rest>[^}]*))?\}")
SECRET = re.compile(r"PASSWORD|_USER$|^DATABASE_URL$|_DATABASE_URL$|^REDIS_URL$")
# What the images of others, and libraries in ours, read.
FOREIGN = re.compile(r"^(POSTGRES_|GF_|REDISCLI_AUTH$|HF_HOME$|NVIDIA_|OMP_NUM_THREADS$|PATH$|PYTHONUNBUFFERED$)")


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


COMPOSE = load(ROOT / "docker-compose.yml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"] in IMAGES}
MANIFESTS: list[dict[str, Any]] = [
    document
    for name in load(DOCKER / "k8s" / "kustomization.yaml")["resources"]
    for document in yaml.safe_load_all((DOCKER / "k8s" / name).read_text(encoding="utf-8"))
]


def of_kind(kind: str) -> dict[str, dict[str, Any]]:
    """Manifests of one kind by name."""
    return {found["metadata"]["name"]: found for found in MANIFESTS if found["kind"] == kind}


def pods() -> dict[str, dict[str, Any]]:
    """Name -> the pod's spec of each Deployment and Job."""
    found = {**of_kind("Deployment"), **of_kind("Job")}
    return {name: manifest["spec"]["template"]["spec"] for name, manifest in found.items()}


def containers() -> dict[str, dict[str, Any]]:
    return {name: container for name, pod in pods().items() for container in pod["containers"]}


def documented() -> set[str]:
    """Every variable that our two settings modules describe."""
    text = (workers.settings.__doc__ or "") + (rsembed.core.settings.__doc__ or "")
    return set(re.findall(r"``([A-Z][A-Z_]+)``", text))


def assert_runs(arguments: Sequence[str]) -> None:
    """``rsembed`` with these arguments is a command of ours, and its options are known."""
    assert arguments[0] == "fleet", arguments
    command: click.Command = fleet
    context = fleet.make_context("fleet", list(arguments[1:]))
    rest = list(arguments[1:])
    while isinstance(command, click.Group):
        _, found, rest = command.resolve_command(context, rest)
        assert found is not None
        command = found
        context = command.make_context(command.name, list(rest), parent=context)


# Compose


@pytest.mark.parametrize("name", sorted(OURS))
def test_compose_when_a_service_is_ours_then_its_command_exists(name: str) -> None:
    service = OURS[name]
    if name == "fleet":
        assert service["entrypoint"] == ["rsembed", "fleet"]
    else:
        assert_runs(service["command"])


def test_compose_when_read_then_every_part_of_the_fleet_is_there() -> None:
    commands = {name: service.get("command") for name, service in OURS.items()}
    assert commands["migrate"] == ["fleet", "db", "upgrade"]
    assert commands["dispatcher"] == ["fleet", "dispatcher"]
    assert commands["flower"] == ["fleet", "flower"]
    assert {kind: commands[kind] for kind in ("io", "gpu", "cpu")} == {
        kind: ["fleet", "worker", kind] for kind in ("io", "gpu", "cpu")
    }
    assert {"postgres", "redis", "prometheus", "grafana"} < set(SERVICES)


def test_compose_when_a_service_is_ours_then_it_is_built_from_its_dockerfile() -> None:
    assert {service["image"]: service["build"]["dockerfile"] for service in OURS.values()} == IMAGES


def references(value: object) -> Iterator[re.Match[str]]:
    """Every variable that compose would put into ``value``."""
    if isinstance(value, str):
        yield from REFERENCE.finditer(value)
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_compose_when_a_value_is_secret_then_it_has_no_default() -> None:
    for name, service in SERVICES.items():
        for key, value in service.get("environment", {}).items():
            if SECRET.search(key) and key not in {"POSTGRES_USER", "RSEMBED_USER"}:
                found = list(references(value))
                assert found, f"{name}: {key} has a value of its own"
                assert all(match["kind"] == "?" for match in found), f"{name}: {key} may be empty"
    assert '"${' not in str(COMPOSE["secrets"])


def test_compose_when_it_refers_to_a_variable_then_the_example_has_it_empty() -> None:
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    example = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert set(example.values()) == {""}
    asked = {match["name"] for match in references(COMPOSE)} | {s["environment"] for s in COMPOSE["secrets"].values()}
    assert asked == set(example)


def test_compose_when_the_example_is_not_filled_in_then_the_core_refuses_to_start() -> None:
    required = {match["name"] for match in references(COMPOSE) if match["kind"] == "?"}
    assert required == {
        "POSTGRES_PASSWORD",
        "REDIS_PASSWORD",
        "RSEMBED_FLOWER_USER",
        "RSEMBED_FLOWER_PASSWORD",
        "GRAFANA_PASSWORD",
        "RSEMBED_DATA",
    }


def test_compose_when_a_variable_is_set_then_somebody_reads_it() -> None:
    for name, service in SERVICES.items():
        unknown = {key for key in service.get("environment", {}) if not FOREIGN.match(key)} - documented()
        assert not unknown, name


def test_compose_when_a_port_is_published_then_on_this_machine_only() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_compose_when_a_service_runs_on_then_its_health_is_looked_at() -> None:
    short = {"migrate", "fleet"}
    assert [name for name, service in SERVICES.items() if name not in short and "healthcheck" not in service] == []
    for name, service in OURS.items():
        test = service.get("healthcheck", {}).get("test", ["CMD", "python"])
        if test[1] == "rsembed":
            assert_runs(test[2:])
        assert name in short or test[0] == "CMD"


def test_compose_when_workers_start_then_the_ledger_has_been_migrated() -> None:
    for name, service in OURS.items():
        if name != "migrate":
            assert service["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
    assert OURS["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert "healthcheck" in SERVICES["postgres"]


def test_compose_when_a_worker_is_stopped_then_it_has_time_to_give_back_its_work() -> None:
    assert all(int(service["stop_grace_period"].removesuffix("s")) > GRACE_S + 5 for service in OURS.values())


def test_compose_when_redis_is_full_then_it_evicts_nothing() -> None:
    command = SERVICES["redis"]["command"]
    assert command[command.index("--maxmemory-policy") + 1] == "noeviction"
    assert "--requirepass" in command


def test_compose_when_a_folder_of_the_repository_is_mounted_then_it_exists() -> None:
    mounts = [volume for service in SERVICES.values() for volume in service.get("volumes", ()) if volume[0] == "."]
    assert mounts
    assert [mount for mount in mounts if not (ROOT / mount.split(":")[0]).exists()] == []


# Images


def instructions(path: Path) -> list[tuple[str, str]]:
    """(INSTRUCTION, rest) of a Dockerfile, continued lines joined."""
    text = re.sub(r"\\\n\s*", " ", path.read_text(encoding="utf-8"))
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in lines]


def installed_extras(path: Path) -> set[str]:
    found = re.findall(r"'\.\[([a-z,]+)\]'", path.read_text(encoding="utf-8"))
    assert len(found) == 1
    return set(found[0].split(","))


DOCKERFILES = [ROOT / path for path in IMAGES.values()]


def test_image_when_it_is_for_io_then_it_has_no_torch_and_the_other_has() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    io, gpu = (installed_extras(ROOT / IMAGES[image]) for image in ("rsembed-io", "rsembed-gpu"))
    assert "torch" not in io
    assert not io & {"all", "dev"}
    assert gpu == io | {"torch"}
    assert gpu <= set(extras)
    for extra in io:
        assert not [name for name in extras[extra] if re.match(r"torch|safetensors", name)]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_image_when_started_then_it_runs_a_worker_as_an_ordinary_user(path: Path) -> None:
    found = dict(instructions(path))
    assert json.loads(found["ENTRYPOINT"]) == ["rsembed"]
    assert_runs(json.loads(found["CMD"]))
    assert found["USER"] == "10001:10001"
    assert found["STOPSIGNAL"] == "SIGTERM"


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_image_when_it_copies_from_the_repository_then_the_context_has_it(path: Path) -> None:
    allowed = [
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        if line.startswith("!")
    ]
    copied = [
        name
        for kind, rest in instructions(path)
        if kind == "COPY" and "--from" not in rest
        for name in rest.split()[:-1]
    ]
    assert {"constraints.txt", "migrations", "rsembed", "workers"} <= set(copied)
    assert [name for name in copied if not (ROOT / name).exists()] == []
    assert [name for name in copied if not any(fnmatch.fnmatch(name, pattern) for pattern in allowed)] == []


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_image_when_it_sets_a_variable_then_somebody_reads_it(path: Path) -> None:
    names = [pair.split("=")[0] for kind, rest in instructions(path) if kind == "ENV" for pair in rest.split()]
    assert [name for name in names if not FOREIGN.match(name) and name not in documented()] == []


# Kubernetes


@pytest.mark.parametrize("name", sorted(containers()))
def test_manifest_when_a_container_is_ours_then_its_commands_exist(name: str) -> None:
    container = containers()[name]
    assert container["image"] in IMAGES
    assert_runs(container["args"])
    probe = container.get("livenessProbe", {}).get("exec", {}).get("command")
    if probe:
        assert probe[0] == "rsembed"
        assert_runs(probe[1:])


def test_manifest_when_a_worker_is_stopped_then_it_has_time_to_give_back_its_work() -> None:
    workers_ = {name: pod for name, pod in pods().items() if "worker" in pod["containers"][0]["args"]}
    assert len(workers_) >= 2
    assert all(pod["terminationGracePeriodSeconds"] > GRACE_S + 5 for pod in workers_.values())


def test_manifest_when_a_variable_is_set_then_somebody_reads_it() -> None:
    names = {key for found in of_kind("ConfigMap").values() for key in found["data"]}
    names |= {entry["name"] for container in containers().values() for entry in container.get("env", ())}
    names |= {key for secret in secrets() for key in secret["stringData"]}
    assert names - documented() == set()


def secrets() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DOCKER / "k8s" / "secret.example.yaml").read_text(encoding="utf-8")))


def test_manifest_when_it_names_a_secret_then_the_example_has_it_empty() -> None:
    keys = {secret["metadata"]["name"]: secret["stringData"] for secret in secrets()}
    assert {value for entries in keys.values() for value in entries.values()} == {""}
    named = {
        source["secretRef"]["name"]
        for container in containers().values()
        for source in container["envFrom"]
        if "secretRef" in source
    }
    assert named == set(keys)
    for found in of_kind("TriggerAuthentication").values():
        assert all(entry["key"] in keys[entry["name"]] for entry in found["spec"]["secretTargetRef"])


def test_manifest_when_a_pod_runs_then_not_as_root_and_without_privileges() -> None:
    for name, pod in pods().items():
        assert pod["securityContext"]["runAsNonRoot"], name
        assert all(not c["securityContext"]["allowPrivilegeEscalation"] for c in pod["containers"]), name


def scaled() -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Name -> (ScaledObject's spec, its container)."""
    found = of_kind("ScaledObject")
    return {name: (item["spec"], containers()[item["spec"]["scaleTargetRef"]["name"]]) for name, item in found.items()}


def test_manifest_when_gpu_workers_scale_then_to_zero_by_the_ready_shards_of_their_model() -> None:
    models = []
    for name, (spec, container) in scaled().items():
        if container["image"] != "rsembed-gpu":
            continue
        model = container["args"][container["args"].index("--models") + 1]
        models.append(model)
        assert model in MODEL_SPECS
        assert name == f"rsembed-gpu-{model}"
        assert spec["minReplicaCount"] == 0
        (trigger,) = spec["triggers"]
        assert trigger["type"] == "postgresql"
        assert f"'{infer_queue(model, 'onthefly')}'" in trigger["metadata"]["query"]
        assert trigger["authenticationRef"]["name"] in of_kind("TriggerAuthentication")
    assert models
    config = of_kind("ConfigMap")["rsembed"]["data"]
    assert config["RSEMBED_AUTOSCALED_MODELS"].split(",") == models


def test_manifest_when_workers_scale_then_nobody_else_sets_their_number() -> None:
    for name, (spec, _) in scaled().items():
        assert "replicas" not in of_kind("Deployment")[spec["scaleTargetRef"]["name"]]["spec"], name


# Prometheus and Grafana


def metrics_in(text: str) -> set[str]:
    return set(re.findall(rf"\b{PREFIX}[a-z_]+\b", text))


def test_alerts_when_they_name_a_metric_then_the_endpoint_has_it() -> None:
    rules = [rule for group in load(DOCKER / "prometheus" / "alerts.yml")["groups"] for rule in group["rules"]]
    assert len(rules) > 8
    known = {PREFIX + name for name in METRICS}
    for rule in rules:
        assert metrics_in(rule["expr"]) <= known, rule["alert"]
        assert rule["annotations"]["summary"]
        assert rule["labels"]["severity"] in {"warning", "critical"}


def test_alert_when_a_worker_idles_then_it_fires_within_two_minutes() -> None:
    rules = {r["alert"]: r for group in load(DOCKER / "prometheus" / "alerts.yml")["groups"] for r in group["rules"]}
    rule = rules["WorkerIdle"]
    times = load(DOCKER / "prometheus" / "prometheus.yml")["global"]
    waits = [rule["for"], times["scrape_interval"], times["evaluation_interval"]]
    threshold_s = float(rule["expr"].rpartition(">")[2])
    assert "rsembed_worker_idle_seconds" in rule["expr"]
    assert threshold_s + sum(float(wait.removesuffix("s")) for wait in waits) <= 120


def test_dashboard_when_it_names_a_metric_then_the_endpoint_has_it() -> None:
    board = json.loads((DOCKER / "grafana" / "dashboards" / "rsembed.json").read_text(encoding="utf-8"))
    expressions = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    named = set().union(*map(metrics_in, expressions))
    assert all(metrics_in(expression) for expression in expressions)
    assert named <= {PREFIX + name for name in METRICS}


def test_prometheus_when_it_scrapes_then_where_compose_serves() -> None:
    config = load(DOCKER / "prometheus" / "prometheus.yml")
    assert config["rule_files"] == ["alerts.yml"]
    targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in config["scrape_configs"]}
    ports = {
        "rsembed": ("dispatcher", OURS["dispatcher"]["environment"]["RSEMBED_METRICS_PORT"]),
        "flower": ("flower", OURS["flower"]["environment"]["RSEMBED_FLOWER_PORT"]),
    }
    assert targets == {job: [f"{host}:{port}"] for job, (host, port) in ports.items()}


def test_prometheus_when_it_asks_flower_then_with_the_password() -> None:
    (job,) = [j for j in load(DOCKER / "prometheus" / "prometheus.yml")["scrape_configs"] if j["job_name"] == "flower"]
    files = {Path(path).name for path in job["basic_auth"].values()}
    assert files == set(SERVICES["prometheus"]["secrets"]) == set(COMPOSE["secrets"])
