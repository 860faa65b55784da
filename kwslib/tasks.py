"""Trainings as tasks: every setting in every fold, a student after its teacher, side by side.

The graph is Dask's. `--workers 2` starts two processes on this machine with one thread each;
`--scheduler tcp://...` uses workers that run elsewhere and see the same folders. A task writes what
it made, so a killed worker costs only the epochs since its last save: Dask gives the task to
another worker, which goes on from there.
"""

import contextlib
import time
from collections.abc import Callable

from . import experiment, training
from .architecture import Setting
from .runs import Parameters

PATIENCE = "20s"  # for a scheduler to answer


THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def needs(setting: Setting) -> list[Setting]:
    """The trained settings that a training reads: what it starts from and who teaches it."""
    return [each for each in (training.start_of(setting), training.teacher_of(setting)) if each]


def in_order(settings: list[Setting]) -> list[Setting]:
    """The settings and all that they need, each after what it needs."""
    ordered: list[Setting] = []
    for setting in settings:
        for each in [*in_order(needs(setting)), setting]:
            if each not in ordered:
                ordered.append(each)
    return ordered


def train_one(parameters: Parameters, setting: Setting, fold: int, *_after) -> float:
    """Trains a setting in a fold if that is not yet done; returns the seconds it took."""
    begun = time.perf_counter()
    experiment.open_cached(parameters).train_fold(setting, fold)
    return time.perf_counter() - begun


def train_all(
    parameters: Parameters,
    settings: list[Setting],
    workers: int = 1,
    scheduler: str | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Trains settings, and what they need, in every fold; what is done is passed over.

    workers: processes on this machine, where no scheduler is named. With one, the trainings run in
    this process. say: called with a line whenever a training is done.
    """
    opened = experiment.open_cached(parameters)
    waiting = [
        (setting, fold)
        for setting in in_order(settings)
        for fold in range(len(opened.folds))
        if not opened.is_trained(setting, fold)
    ]
    if not waiting:
        return
    say(f"{len(waiting)} networks to train")
    if scheduler is None and min(workers, len(waiting)) == 1:
        for number, (setting, fold) in enumerate(waiting, 1):
            seconds = train_one(parameters, setting, fold)
            say(_line(number, len(waiting), setting, fold, seconds))
        return
    with _client(min(workers, len(waiting)), scheduler) as client:
        _run(client, parameters, waiting, say)


def _run(client, parameters: Parameters, waiting: list, say) -> None:
    from dask.distributed import as_completed

    futures, names = {}, {}
    for number, (setting, fold) in enumerate(waiting):
        after = [futures[each, fold] for each in needs(setting) if (each, fold) in futures]
        future = client.submit(
            train_one, parameters, setting, fold, *after, pure=False, priority=-number
        )
        futures[setting, fold], names[future.key] = future, (setting, fold)
    for number, future in enumerate(as_completed(futures.values()), 1):
        say(_line(number, len(waiting), *names[future.key], future.result()))


@contextlib.contextmanager
def _client(workers: int, scheduler: str | None):
    """A client of a scheduler, or of worker processes of our own, which end with this one."""
    import dask
    from dask.distributed import Client, LocalCluster

    if scheduler:
        try:
            client = Client(scheduler, timeout=PATIENCE)
        except (OSError, ValueError) as error:
            raise ValueError(f"no Dask scheduler at {scheduler} ({error})") from None
        with client:
            yield client
        return
    # Dask's own setting has malloc give memory back at every step: a third more processor time.
    environment = {"distributed.nanny.pre-spawn-environ": dict.fromkeys(THREADS, "1")}
    with (
        dask.config.set(environment),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            dashboard_address=":0",
            memory_limit=0,
            silence_logs="ERROR",
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def _line(number: int, count: int, setting: Setting, fold: int, seconds: float) -> str:
    return f"trained {number} of {count}: {setting}, fold {fold}, {seconds:.0f} s"
