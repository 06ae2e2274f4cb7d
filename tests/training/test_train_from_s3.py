"""Training as multi-node does it: from and to the object store, on two nodes whose launchers Kubeflow's Trainer set up.

The nodes are two torchrun launchers on this machine, started as the manifest starts them and given the variables that
the Trainer gives its pods; what they exchange goes over the loopback network.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from test_interrupted import SETTINGS, base_model, data_set, trained  # noqa: F401  fixtures

from components.storage import ObjectStore, local_folder
from pipelines.local_services import free_port

pytestmark = pytest.mark.slow


def node(rank: int, port: int, *arguments: str) -> "subprocess.Popen[str]":
    given = {
        "PET_NNODES": "2", "PET_NPROC_PER_NODE": "1", "PET_NODE_RANK": str(rank),
        "PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": str(port),
    }  # fmt: skip
    programs = Path(sys.executable).parent
    found = f"{programs}{os.pathsep}{os.environ['PATH']}"
    return subprocess.Popen(
        [str(programs / "torchrun"), "--no-python", "everbert", "train", *arguments], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | given | {"OMP_NUM_THREADS": "1", "PATH": found},
    )  # fmt: skip


def test_two_nodes_give_what_one_process_gives_and_leave_it_in_the_store(
    data_set: Path,  # noqa: F811
    base_model: Path,  # noqa: F811
    bucket: ObjectStore,
    tmp_path: Path,
) -> None:
    bucket.upload_folder(data_set, "datasets/one")
    settings = ("--base-model", str(base_model), *SETTINGS)
    places = ("--data", bucket.uri("datasets/one"), "--output", bucket.uri("models/large"), "--resume")
    port = free_port()
    nodes = [node(rank, port, *places, *settings) for rank in (0, 1)]
    said = [process.communicate(timeout=500)[1] for process in nodes]
    assert [process.returncode for process in nodes] == [0, 0], said
    alone = trained(data_set, base_model, tmp_path / "alone")
    with local_folder(bucket.uri("models/large")) as folder:
        assert (folder / "everbert.json").is_file()
        together = load_file(folder / "model.safetensors")
    assert together.keys() == alone.keys()
    for name, expected in alone.items():
        assert abs(together[name] - expected).max() < 2e-4, name
