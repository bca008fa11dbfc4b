"""What is deployed: files that parse, and that name routes, settings, metrics and sources that are there."""

from __future__ import annotations

import configparser
import dataclasses
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from octavo.config import Settings
from octavo.server.app import create_app
from server.harness import ENGINE, mock_context, running

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
ROUTES = {path for path, operations in create_app(mock_context()[0]).openapi()["paths"].items() if "get" in operations}
SETTINGS = {f"OCTAVO_{field.name.upper()}" for field in dataclasses.fields(Settings)}
YAML = sorted({*DEPLOY.rglob("*.yaml"), *DEPLOY.rglob("*.yml")})


def read(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))


def files() -> Iterator[Path]:
    return (path for path in DEPLOY.rglob("*") if path.is_file())


def unit() -> configparser.SectionProxy:
    """The section of the service; of keys that stand there more than once, the last."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(DEPLOY / "systemd" / "octavo.service", encoding="utf-8")
    return parser["Service"]


@pytest.mark.parametrize("path", YAML, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_it_is_yaml(path: Path) -> None:
    assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict)


def test_every_setting_in_them_is_one() -> None:
    named = {name for path in files() for name in re.findall(r"\bOCTAVO_[A-Z_]+", path.read_text(encoding="utf-8"))}
    assert named <= SETTINGS
    assert {"OCTAVO_SHUTDOWN_TIMEOUT", "OCTAVO_CRASH_DIR", "OCTAVO_MODEL"} <= named


def test_images_are_named_with_a_version_and_without_a_host() -> None:
    images = [service["image"] for service in read("compose.yaml")["services"].values()]
    images += re.findall(r"^FROM (\S+)", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    for image in images:
        assert re.fullmatch(r"[a-z]+(/[a-z]+)?:v?\d+\.\d+[\w.-]*", image), image


def metrics() -> dict[str, set[str]]:
    """Names of samples in /metrics, with their labels, after a request."""
    with running(engine={"max_num_seqs": ENGINE.max_num_seqs}) as server:
        assert server.http.post("/v1/completions", json={"prompt": [1], "max_tokens": 2}).status_code == 200
        text = server.http.get("/metrics").text
        (told,) = re.findall(r"^# TYPE (octavo:worker_restarts_total) counter$", text, flags=re.MULTILINE)
    found = {told: {"model_name", "engine", "cause"}}  # it has a sample once a worker has died
    for name, labels in re.findall(r"^([a-z0-9_:]+)(?:\{(.*)\})? \S+$", text, flags=re.MULTILINE):
        found.setdefault(name, set()).update(re.findall(r"(\w+)=\"", labels))
    return found


def expressions() -> list[str]:
    board = json.loads((DEPLOY / "grafana" / "dashboards" / "octavo.json").read_text(encoding="utf-8"))
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    asked += [each["expr"] for each in board["annotations"]["list"]]
    asked += [each["query"] for each in board["templating"]["list"]]
    return asked + [rule["expr"] for group in read("prometheus/alerts.yml")["groups"] for rule in group["rules"]]


def test_every_metric_that_is_asked_for_is_there_with_its_labels() -> None:
    there = metrics()
    asked = expressions()
    named = {name for text in asked for name in re.findall(r"\b(?:vllm|octavo):\w+|\b(?:http|process)_\w+", text)}
    assert len(named) > 20
    assert named <= there.keys()
    given = {"instance", "job", "le"}
    for text in asked:
        for name, labels in re.findall(r"([\w:]+)\{([^}]*)\}", text):
            known = there.get(name, set()) | given
            assert set(re.findall(r"(\w+)=", labels)) <= known, (name, labels)


def test_panels_do_not_overlap() -> None:
    board = json.loads((DEPLOY / "grafana" / "dashboards" / "octavo.json").read_text(encoding="utf-8"))
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in board["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) == 23
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_compose_finds_what_it_mounts_and_lets_the_server_drain() -> None:
    services = read("compose.yaml")["services"]
    for service in services.values():
        for volume in service["volumes"]:
            source = volume.partition(":")[0]
            assert (DEPLOY / source).exists() if source.startswith(".") else source in read("compose.yaml")["volumes"]
    octavo = services["octavo"]
    assert (DEPLOY / octavo["build"]["context"] / octavo["build"]["dockerfile"]).samefile(DEPLOY / "Dockerfile")
    assert float(octavo["environment"]["OCTAVO_SHUTDOWN_TIMEOUT"]) < float(octavo["stop_grace_period"].rstrip("s"))
    (scraped,) = read("prometheus/prometheus.yml")["scrape_configs"]
    assert scraped["static_configs"] == [{"targets": ["octavo:8000"]}]
    assert scraped["metrics_path"] in ROUTES
    assert set(read("compose.gpu.yaml")["services"]) <= set(services)


def test_the_image_runs_as_nobody_and_says_whether_it_is_well() -> None:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    lines = re.sub(r"\\\n", " ", text).splitlines()
    steps = [tuple(line.split(maxsplit=1)) for line in lines if line and not line.startswith("#")]
    last = [(word, rest) for word, rest in steps[steps.index([s for s in steps if s[0] == "FROM"][-1]) :]]
    users = [rest for word, rest in last if word == "USER"]
    assert users == ["10001:10001"]
    (check,) = [rest for word, rest in last if word == "HEALTHCHECK"]
    (route,) = re.findall(r"127\.0\.0\.1:8000(/\w+)", check)
    assert route in ROUTES
    for word, rest in steps:
        if word == "COPY" and "--from" not in rest:
            assert all((ROOT / source).exists() for source in rest.split()[:-1]), rest
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").split()
    assert {line[1:] for line in ignored if line.startswith("!")} == {
        source for word, rest in steps if word == "COPY" and "--from" not in rest for source in rest.split()[:-1]
    }
    assert steps[-1] == ("ENTRYPOINT", '["octavo", "serve"]')


def test_the_image_takes_what_was_measured() -> None:
    """The versions of all results of GPUs, and none from elsewhere."""
    lines = (DEPLOY / "measured.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    sources = [json.loads(path.read_text())["provenance"] for path in (ROOT / "benchmarks" / "results").glob("*.json")]
    measured = [{name: source[name] for name in ("torch", "triton")} for source in sources if source["gpu"] != "none"]
    assert len(measured) > 20
    assert all(versions == pins for versions in measured)
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    (pattern,) = re.findall(r"grep --invert-match --extended-regexp '([^']+)'", text)
    assert {line.split("==")[0] for line in constraints if re.search(pattern, line)} == pins.keys()


def test_kubernetes_knows_when_a_pod_starts_serves_and_lives_and_lets_it_drain() -> None:
    listed = read("kubernetes/kustomization.yaml")["resources"]
    assert {*listed, "kustomization.yaml"} == {path.name for path in (DEPLOY / "kubernetes").iterdir()}
    pod = read("kubernetes/deployment.yaml")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")}
    assert all(probe["path"] in ROUTES and probe["port"] == "http" for probe in probes.values())
    assert probes["readiness"]["path"] == "/ready"
    assert probes["liveness"]["path"] != "/health", "that is 503 in the middle of a recovery"
    env = {each["name"]: each.get("value") for each in container["env"]}
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pause + float(env["OCTAVO_SHUTDOWN_TIMEOUT"]) < pod["terminationGracePeriodSeconds"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    assert pod["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    (port,) = read("kubernetes/service.yaml")["spec"]["ports"]
    assert port["targetPort"] in {each["name"] for each in container["ports"]}


def test_systemd_leaves_the_workers_to_the_server() -> None:
    service = unit()
    assert (service["KillMode"], service["OOMPolicy"], service["Restart"]) == ("mixed", "continue", "on-failure")
    (drain,) = re.findall(r"OCTAVO_SHUTDOWN_TIMEOUT=(\d+)", service["Environment"])
    assert int(drain) < int(service["TimeoutStopSec"])
    assert service["ExecStart"].split()[1] == "serve"


def test_the_tools_that_are_here_find_nothing_wrong(tmp_path: Path) -> None:
    """Whichever of them this machine has; each reads the files as what will run them does."""
    if shutil.which("systemd-analyze"):
        copy = tmp_path / "octavo.service"
        text = (DEPLOY / "systemd" / "octavo.service").read_text(encoding="utf-8")
        copy.write_text(text.replace("/opt/octavo/bin/octavo", "/usr/bin/env"))  # it must be there
        told = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True)
        assert (told.returncode, [line for line in told.stderr.splitlines() if "octavo.service" in line]) == (0, [])
    if shutil.which("kubectl"):
        told = subprocess.run(["kubectl", "kustomize", DEPLOY / "kubernetes"], capture_output=True, text=True)
        assert told.returncode == 0, told.stderr
        kinds = [part["kind"] for part in yaml.safe_load_all(told.stdout)]
        assert sorted(kinds) == ["Deployment", "PersistentVolumeClaim", "PodDisruptionBudget", "Service"]
