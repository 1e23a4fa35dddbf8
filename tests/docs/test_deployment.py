"""The manifests of the page about deployment: they parse, and fit what the worker does."""

import configparser
import re
import shlex
from pathlib import Path
from typing import Any

import yaml

from asynctasq.config import Settings

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "deploy-workers.md").read_text()
STOP_S_LEAST = Settings.model_fields["shutdown_timeout_s"].default + 5
PATHS = {"startupProbe": "/ready", "livenessProbe": "/live", "readinessProbe": "/ready"}


def block(language: str, index: int = 0) -> str:
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    return found[index]


def check_settings(names: set[str]) -> None:
    assert {name.removeprefix("ASYNCTASQ_").lower() for name in names} <= set(Settings.model_fields)


def test_the_pod_is_given_the_time_to_stop_and_probed_where_the_worker_answers() -> None:
    pod: Any = yaml.safe_load(block("yaml"))["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    variables = {each["name"]: each.get("value", "") for each in container["env"]}

    assert pod["terminationGracePeriodSeconds"] >= STOP_S_LEAST
    assert container["command"][:2] == ["asynctasq", "worker"]
    check_settings(set(variables))
    (port,) = container["ports"]
    assert variables["ASYNCTASQ_HEALTH"] == f"0.0.0.0:{port['containerPort']}"
    probes = {name: probe["httpGet"] for name, probe in container.items() if name.endswith("Probe")}
    assert {name: probe["path"] for name, probe in probes.items()} == PATHS
    assert {probe["port"] for probe in probes.values()} == {port["name"]}


def test_what_is_scaled_is_the_deployment() -> None:
    deployment: Any = yaml.safe_load(block("yaml"))
    scaled: Any = yaml.safe_load(block("yaml", 1))

    assert scaled["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert scaled["spec"]["minReplicaCount"] >= 1


def test_the_unit_is_given_the_time_to_stop() -> None:
    unit = configparser.ConfigParser()
    unit.read_string(block("ini"))

    assert unit.getint("Service", "TimeoutStopSec") >= STOP_S_LEAST
    assert shlex.split(unit["Service"]["ExecStart"])[1:3] == ["worker", "--app"]


def test_the_image_asks_the_port_that_it_sets() -> None:
    text = block("dockerfile")
    variables = dict(re.findall(r"(ASYNCTASQ_\w+)=(\S+)", text))

    check_settings(set(variables))
    assert f"127.0.0.1:{variables['ASYNCTASQ_HEALTH']}/live" in text
