"""Trainings as tasks of a real scheduler with worker processes."""

import os
import signal
import threading

import dask.distributed
import numpy as np
import pytest

from kwslib import tasks
from kwslib.architecture import SETTINGS, Setting
from kwslib.runs import Parameters

STREAM, CONTROL = Setting("student3", "stream"), Setting("student1", "labels")
TRAINED = [setting for setting in SETTINGS if not setting.int8]
CHAIN = ["baseline", "baseline-stream", "student3", "student3-stream"]


@pytest.fixture(scope="module")
def parameters(tiny_corpus, tmp_path_factory, data_root, write_wav):
    """parameters(run): of a smoke run of the tiny corpus, with a little talk."""
    folder = tmp_path_factory.mktemp("tasks")
    for number, noise in enumerate(np.random.default_rng(0).normal(0, 0.1, (5, 16000))):
        write_wav(folder / "talk" / f"speaker{number}" / "1.wav", noise)

    def parameters(run):
        of_talk, place = str(folder / "talk"), str(folder / run)
        return Parameters(str(tiny_corpus), "sheila", of_talk, "smoke", "speaker", 0, place)

    return parameters


@pytest.fixture(scope="module")
def alone(parameters):
    """Bytes of the checkpoints of a run in one process, and the lines that it said."""
    lines = []
    tasks.train_all(parameters("alone"), [STREAM], say=lines.append)
    return contents(parameters("alone")), lines


def contents(of):
    return {path.stem: path.read_bytes() for path in (of.folder / "checkpoints").iterdir()}


def test_a_training_comes_after_all_that_it_needs():
    for settings in (TRAINED, TRAINED[::-1]):
        ordered = tasks.in_order(settings)
        assert sorted(map(str, ordered)) == sorted(map(str, TRAINED))
        for place, setting in enumerate(ordered):
            assert set(tasks.needs(setting)) <= set(ordered[:place])
    assert sorted(map(str, tasks.in_order([STREAM]))) == CHAIN
    assert tasks.needs(STREAM) == [Setting("student3"), Setting("baseline", "stream")]
    assert tasks.in_order([CONTROL]) == [CONTROL]


def test_in_one_process_all_that_is_needed_is_trained_once(alone, parameters):
    checkpoints, lines = alone
    assert sorted(checkpoints) == CHAIN and lines[0] == "4 networks to train"
    assert [line.split(":")[0] for line in lines[1:]] == [f"trained {n} of 4" for n in (1, 2, 3, 4)]
    tasks.train_all(parameters("alone"), [STREAM], workers=2, say=lines.append)
    assert len(lines) == 5 and contents(parameters("alone")) == checkpoints


@pytest.fixture
def killer(monkeypatch):
    """killer(folder) watches a run in a thread. Once a training has saved its first epoch, it kills
    the worker process that trains, and appends its pid to the list that it returned."""
    start, clients, over = dask.distributed.Client, [], threading.Event()

    def client(**options):
        clients.append(start(**options))
        return clients[0]

    def watch(folder, killed):
        while not killed and not over.wait(0.002):
            for resume in (folder / "resume").glob("*.safetensors"):
                workers = clients[0].cluster.scheduler.workers.values()
                busy = [worker.pid for worker in workers if worker.processing]
                if len(busy) == 1 and not killed:
                    os.kill(busy[0], signal.SIGSTOP)
                    is_over = (folder / "checkpoints" / resume.name).exists()
                    killed += [] if is_over else busy
                    os.kill(busy[0], signal.SIGCONT if is_over else signal.SIGKILL)

    def killer(folder):
        killed = []
        threading.Thread(target=watch, args=(folder, killed), daemon=True).start()
        return killed

    monkeypatch.setattr(dask.distributed, "Client", client)
    yield killer
    over.set()


def test_two_workers_one_of_them_killed_train_the_same_networks(alone, parameters, killer):
    of, lines = parameters("killed"), []
    killed = killer(of.folder)
    tasks.train_all(of, [STREAM], workers=2, say=lines.append)
    assert len(killed) == 1, "all trainings ended too soon: the test proves nothing"
    assert len(lines) == 5 and contents(of) == alone[0]


def test_workers_of_a_scheduler_elsewhere_train(alone, parameters):
    of = parameters("elsewhere")
    here = {"n_workers": 1, "processes": False, "dashboard_address": ":0"}
    with dask.distributed.LocalCluster(**here) as cluster:
        tasks.train_all(of, [Setting("baseline")], scheduler=cluster.scheduler_address)
    assert contents(of)["baseline"] == alone[0]["baseline"]


@pytest.mark.parametrize("scheduler", ["tcp://127.0.0.1:1", "nowhere://"])
def test_a_scheduler_that_is_not_there_is_one_line(parameters, monkeypatch, scheduler):
    monkeypatch.setattr(tasks, "PATIENCE", "0.2s")
    with pytest.raises(ValueError, match=f"no Dask scheduler at {scheduler}") as raised:
        tasks.train_all(parameters("none"), [STREAM], scheduler=scheduler)
    assert "\n" not in str(raised.value)
