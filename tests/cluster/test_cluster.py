"""cluster.yaml and .rayignore, judged by Ray's own code and launched against a simulated AWS.

The launch runs the real `ray up` and `ray down` in their own processes. They find an EC2 and IAM
server (moto) at 127.0.0.1, a home below tmp_path, and two small programs named ssh and rsync that
record what they are asked to do. Nothing is executed on a node: that the recorded commands do their
job on a real machine is beyond this test.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from moto.server import ThreadedMotoServer
from ray._private.runtime_env.packaging import create_package
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.tags import NODE_KIND_WORKER, TAG_RAY_NODE_KIND, TAG_RAY_USER_NODE_TYPE
from repository import PATIENCE_S, REPOSITORY

MIB = 2**20


SHIM = """#!/bin/sh
printf '%s\\n' "${0##*/} $*" >> "$SHIM_DIR/calls.log"
for argument in "$@"; do
    case "$argument" in */ray-bootstrap-*) cp "$argument" "$SHIM_DIR/bootstrap.json" ;; esac
done
"""


def load_cluster() -> dict[str, Any]:
    return dict(yaml.safe_load((REPOSITORY / "cluster.yaml").read_text()))


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    """The configuration as Ray sees it: cluster.yaml over Ray's AWS defaults, validated."""
    config = prepare_config(load_cluster())
    validate_config(config)
    return dict(config)


def worker_types(cluster: dict[str, Any]) -> dict[str, dict[str, Any]]:
    types = cluster["available_node_types"]
    return {name: spec for name, spec in types.items() if name != cluster["head_node_type"]}


def start_command(commands: list[str]) -> str:
    (command,) = [command for command in commands if "ray start" in command]
    return command


# What the file says -------------------------------------------------------------------------------


def test_the_head_does_no_work(cluster: dict[str, Any]) -> None:
    head = cluster["available_node_types"][cluster["head_node_type"]]
    assert head["resources"]["CPU"] == 0
    assert head["resources"]["GPU"] == 0
    assert head["max_workers"] == 0


def test_workers_start_at_zero_and_have_a_ceiling(cluster: dict[str, Any]) -> None:
    workers = worker_types(cluster)
    assert workers.keys() == {"cpu", "gpu"}
    for spec in workers.values():
        assert spec["min_workers"] == 0
        assert 0 < spec["max_workers"] <= cluster["max_workers"]
    assert 0 < cluster["idle_timeout_minutes"] <= 30


def test_stopped_nodes_keep_no_disks(cluster: dict[str, Any]) -> None:
    assert cluster["provider"]["cache_stopped_nodes"] is False


def test_spot_is_for_work_that_can_resume(cluster: dict[str, Any]) -> None:
    types = cluster["available_node_types"]
    spot = {name for name, spec in types.items() if "InstanceMarketOptions" in spec["node_config"]}
    assert spot == {"cpu"}


def test_every_type_names_its_own_security_group_image_and_role(cluster: dict[str, Any]) -> None:
    # Without the group Ray opens port 22 to the world; without the role workers cannot write to S3.
    for spec in cluster["available_node_types"].values():
        node = spec["node_config"]
        assert len(node["SecurityGroupIds"]) == 1
        assert node["ImageId"].startswith("ami-")
        assert node["IamInstanceProfile"] == {"Name": "longva-ray"}
        assert node["MetadataOptions"]["HttpTokens"] == "required"


@pytest.mark.parametrize("role", ["head", "worker"])
def test_start_commands_demand_the_token(cluster: dict[str, Any], role: str) -> None:
    command = start_command(cluster[f"{role}_start_ray_commands"])
    before, _, _ = command.partition("ray start")
    assert "export RAY_AUTH_MODE=token" in before
    assert "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=1" in before
    assert "unset OMP_NUM_THREADS" in before
    assert "ulimit -n 65536" in before
    assert cluster["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


def test_the_dashboard_listens_on_loopback_and_the_head_scales(cluster: dict[str, Any]) -> None:
    options = shlex.split(start_command(cluster["head_start_ray_commands"]))
    assert [o for o in options if o.startswith("--dashboard-host")] == [
        "--dashboard-host=127.0.0.1"
    ]
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in options


@pytest.mark.parametrize("role", ["head", "worker"])
def test_set_up_installs_this_project_with_its_constraints(
    cluster: dict[str, Any], role: str
) -> None:
    commands = cluster[f"{role}_setup_commands"]
    installs = [c for c in commands if "pip install" in c and "-c constraints.txt" in c]
    assert any("--reinstall-package longva-ray" in c and '".[aws]"' in c for c in installs)
    assert any('".[gpu]"' in c for c in installs) == (role == "worker")
    # Ray's AWS defaults would bring a nightly wheel of Ray 3.
    assert not any("ray-wheels" in c for c in commands)


def test_mounts_hold_all_that_the_installation_reads(cluster: dict[str, Any]) -> None:
    mounted = {local for remote, local in cluster["file_mounts"].items() if "longva-ray/" in remote}
    assert mounted == {"pyproject.toml", "constraints.txt", "README.md", "LICENSE", "longva_ray"}
    assert [name for name in sorted(mounted) if not (REPOSITORY / name).exists()] == []


# What `ray job submit --working-dir .` uploads ----------------------------------------------------


def test_rayignore_keeps_the_upload_small_and_complete(tmp_path: Path) -> None:
    """The zip Ray would upload, if it added neither .gitignore nor its own default exclusions."""
    archive = tmp_path / "upload.zip"
    create_package(str(REPOSITORY), archive, include_gitignore=False)

    assert archive.stat().st_size < 5 * MIB
    names = set(zipfile.ZipFile(archive).namelist())
    assert {"pyproject.toml", "longva_ray/__init__.py", "longva_ray/py.typed"} <= names
    top = {Path(name).parts[0] for name in names}
    assert {"jobs", "longva_ray"} <= top
    assert not top & {".git", ".venv", "outputs", "build", "tests", "docs", ".mypy_cache"}
    assert not any("__pycache__" in name for name in names)


def test_rayignore_hides_data_but_nothing_inside_the_package(tmp_path: Path) -> None:
    working_dir = tmp_path / "checkout"
    kept = ["longva_ray/video/decode.py", "longva_ray/assets/tiny.safetensors", "jobs/serve.py"]
    hidden = ["film.mp4", "clips/a.webm", "shards/a.arrow", "outputs/x.txt", "jobs/train.log"]
    hidden += [".venv/lib/a.py", ".git/HEAD", "longva_ray/__pycache__/a.pyc"]
    for name in kept + hidden:
        path = working_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    shutil.copy(REPOSITORY / ".rayignore", working_dir)

    archive = tmp_path / "upload.zip"
    create_package(str(working_dir), archive, include_gitignore=False)

    files = {name for name in zipfile.ZipFile(archive).namelist() if not name.endswith("/")}
    assert files == {*kept, ".rayignore"}


# A launch against a simulated AWS -----------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SimulatedAws:
    """A moto server, an account prepared as docs/cluster.md says, and a home to launch from."""

    ec2: Any
    config_path: Path
    shim_dir: Path
    env: dict[str, str]

    def ray(self, *arguments: str) -> None:
        """Run `ray ARGUMENTS` at the repository root; its output appears if it fails."""
        done = subprocess.run(
            [sys.executable, "-m", "ray.scripts.scripts", *arguments],
            cwd=REPOSITORY,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, f"ray {arguments} failed:\n{done.stdout}\n{done.stderr}"

    def running_instances(self) -> list[dict[str, Any]]:
        running = [{"Name": "instance-state-name", "Values": ["pending", "running"]}]
        reservations = self.ec2.describe_instances(Filters=running)["Reservations"]
        return [instance for r in reservations for instance in r["Instances"]]

    def calls(self) -> str:
        """What ssh and rsync were asked to do, with the quoting of ssh's shells taken off."""
        return (self.shim_dir / "calls.log").read_text().replace("'\"'\"'", "'")

    def launch_workers(self, config: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """One instance of each worker type, by the provider and settings the head would use."""
        provider: Any = AWSNodeProvider(  # type: ignore[no-untyped-call]
            config["provider"], config["cluster_name"]
        )
        for name, spec in worker_types(config).items():
            tags = {TAG_RAY_NODE_KIND: NODE_KIND_WORKER, TAG_RAY_USER_NODE_TYPE: name}
            provider.create_node(spec["node_config"], tags, 1)
        worker_ids = provider.non_terminated_nodes({TAG_RAY_NODE_KIND: NODE_KIND_WORKER})
        types = {id_: provider.node_tags(id_)[TAG_RAY_USER_NODE_TYPE] for id_ in worker_ids}
        instances = self.running_instances()
        return {types[i["InstanceId"]]: i for i in instances if i["InstanceId"] in types}


def write_launch_files(home: Path, shim_dir: Path) -> None:
    (home / ".ray").mkdir(parents=True)
    (home / ".ray" / "auth_token").write_text("0123456789abcdef0123456789abcdef")
    shim_dir.mkdir()
    (shim_dir / "calls.log").touch()
    for name in ("ssh", "rsync"):
        (shim_dir / name).write_text(SHIM)
        (shim_dir / name).chmod(0o755)


def prepare_account(session: boto3.Session) -> dict[str, Any]:
    """Create what docs/cluster.md asks for; return cluster.yaml with its EDIT lines filled in."""
    iam, ec2 = session.client("iam"), session.client("ec2")
    iam.create_role(RoleName="longva-ray", AssumeRolePolicyDocument="{}")
    iam.create_instance_profile(InstanceProfileName="longva-ray")
    iam.add_role_to_instance_profile(InstanceProfileName="longva-ray", RoleName="longva-ray")
    vpc_id = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
    group = ec2.create_security_group(GroupName="longva-ray", Description="-", VpcId=vpc_id)
    images = ec2.describe_images(Owners=["099720109477"])["Images"]
    config = load_cluster()
    for spec in config["available_node_types"].values():
        spec["node_config"]["SecurityGroupIds"] = [group["GroupId"]]
        spec["node_config"]["ImageId"] = images[0]["ImageId"]
    return config


def isolated_environment(tmp_path: Path, endpoint: str) -> dict[str, str]:
    """Built from nothing, so that no key, profile or proxy of this machine is within reach."""
    return {
        "PATH": os.pathsep.join([str(tmp_path / "shims"), "/usr/bin", "/bin"]),
        "HOME": str(tmp_path / "home"),
        "TMPDIR": str(tmp_path),
        # Ray names a folder for ssh's sockets after the user; see remove_socket_folder.
        "USER": tmp_path.name,
        "LOGNAME": tmp_path.name,
        "SHIM_DIR": str(tmp_path / "shims"),
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "NO_PROXY": "127.0.0.1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def remove_socket_folder(calls: str) -> None:
    """Ray keeps ssh's sockets at a path below /tmp that it offers no way to change."""
    for folder in set(re.findall(r"ControlPath=(/tmp/ray_ssh_\w+)/", calls)):
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatedAws]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        env = isolated_environment(tmp_path, f"http://{host}:{port}")
        monkeypatch.delenv("AWS_PROFILE", raising=False)
        for name in [name for name in env if name.startswith(("AWS_", "NO_PROXY"))]:
            monkeypatch.setenv(name, env[name])
        write_launch_files(tmp_path / "home", tmp_path / "shims")
        session = boto3.Session(region_name=load_cluster()["provider"]["region"])
        config = prepare_account(session)
        (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(config))
        aws = SimulatedAws(
            ec2=session.client("ec2"),
            config_path=tmp_path / "cluster.yaml",
            shim_dir=tmp_path / "shims",
            env=env,
        )
        yield aws
        remove_socket_folder(aws.calls())
    finally:
        server.stop()


def test_ray_up_and_down(aws: SimulatedAws) -> None:
    # With a real ssh first on PATH the launch would try to reach an address that moto made up.
    assert shutil.which("ssh", path=aws.env["PATH"]) == str(aws.shim_dir / "ssh")

    aws.ray("up", "-y", "--no-config-cache", str(aws.config_path))

    (head,) = aws.running_instances()
    tags = {tag["Key"]: tag["Value"] for tag in head["Tags"]}
    expected = load_cluster()["available_node_types"]["head"]["node_config"]
    assert head["InstanceType"] == expected["InstanceType"]
    assert tags["ray-user-node-type"] == "head"
    assert tags["ray-node-status"] == "up-to-date"
    groups = aws.ec2.describe_security_groups()["SecurityGroups"]
    assert not [g for g in groups if g["GroupName"].startswith("ray-autoscaler")]

    calls = aws.calls()
    order = ["uptime", "auth_token", "uv venv", '".[aws]"', "ray stop", "ray start --head"]
    positions = [calls.index(step) for step in order]
    assert positions == sorted(positions)
    start = next(line for line in calls.splitlines() if "ray start --head" in line)
    assert "RAY_AUTH_MODE=token" in start
    assert "--dashboard-host=127.0.0.1" in start
    assert 'RAY_OVERRIDE_RESOURCES=\'{"CPU":0,"GPU":0' in start

    # The file by which the head will launch workers.
    bootstrap = json.loads((aws.shim_dir / "bootstrap.json").read_text())
    types = bootstrap["available_node_types"]
    assert types["gpu"]["resources"]["GPU"] > 0
    assert types["cpu"]["resources"]["CPU"] > 0
    assert "GPU" not in types["cpu"]["resources"]
    workers = aws.launch_workers(bootstrap)
    assert workers["cpu"]["InstanceLifecycle"] == "spot"
    assert "InstanceLifecycle" not in workers["gpu"]
    for node in (head, *workers.values()):
        assert node["IamInstanceProfile"]["Arn"].endswith("longva-ray")
        assert [group["GroupName"] for group in node["SecurityGroups"]] == ["longva-ray"]

    aws.ray("down", "-y", str(aws.config_path))
    assert aws.running_instances() == []
