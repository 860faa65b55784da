"""Trainings as tasks: every setting in every fold, a student after its teacher, side by side.

The graph is Dask's: processes of one thread on this machine, or workers of any scheduler that see
the same folders. A killed worker costs the epochs since its last save: another one goes on.
"""

import contextlib
import time
from collections.abc import Callable, Iterator

from . import experiment, training
from .architecture import Setting
from .runs import Parameters

PATIENCE = "20s"  # for a scheduler to answer
LOCAL = {"threads_per_worker": 1, "memory_limit": 0}
LOCAL |= {"dashboard_address": ":0", "silence_logs": "ERROR"}
# Dask's own setting has malloc give memory back at every step: a third more processor time.
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
ENVIRONMENT = {"distributed.nanny.pre-spawn-environ": THREADS}


def needs(setting: Setting) -> list[Setting]:
    """The trained settings that a training reads: what it starts from and who teaches it."""
    return [each for each in (training.start_of(setting), training.teacher_of(setting)) if each]


def in_order(settings: list[Setting]) -> list[Setting]:
    """The settings and all that they need, each after what it needs."""
    ordered = [each for setting in settings for each in [*in_order(needs(setting)), setting]]
    return list(dict.fromkeys(ordered))


def train_one(parameters: Parameters, setting: Setting, fold: int, *_after) -> str:
    """Trains a setting in a fold if that is not yet done; returns which, and the seconds."""
    begun = time.perf_counter()
    experiment.open_cached(parameters).train_fold(setting, fold)
    return f"{setting}, fold {fold}, {time.perf_counter() - begun:.0f} s"


def train_all(
    parameters: Parameters,
    settings: list[Setting],
    workers: int = 1,
    scheduler: str | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Trains settings, and what they need, in every fold; what is done is passed over. workers:
    processes on this machine, where no scheduler is named; one is this process."""
    opened = experiment.open_cached(parameters)
    pairs = [(s, fold) for s in in_order(settings) for fold in range(len(opened.folds))]
    waiting = [pair for pair in pairs if not opened.is_trained(*pair)]
    if not waiting:
        return
    say(f"{len(waiting)} networks to train")
    workers = min(workers, len(waiting))
    is_alone = scheduler is None and workers == 1
    with contextlib.nullcontext() if is_alone else _client(workers, scheduler) as client:
        one_by_one = (train_one(parameters, *pair) for pair in waiting)
        done = one_by_one if is_alone else _side_by_side(client, parameters, waiting)
        for number, line in enumerate(done, 1):
            say(f"trained {number} of {len(waiting)}: {line}")


def _side_by_side(client, parameters: Parameters, waiting: list) -> Iterator[str]:
    from dask.distributed import as_completed

    futures = {}
    for number, (setting, fold) in enumerate(waiting):
        after = [futures[each, fold] for each in needs(setting) if (each, fold) in futures]
        given, order = (parameters, setting, fold, *after), {"pure": False, "priority": -number}
        futures[setting, fold] = client.submit(train_one, *given, **order)
    return (future.result() for future in as_completed(futures.values()))


def _client(workers: int, scheduler: str | None):
    """A client of a scheduler, or of worker processes of our own, which end with this one."""
    import dask
    from dask.distributed import Client

    if not scheduler:
        with dask.config.set(ENVIRONMENT):
            return Client(n_workers=workers, **LOCAL)
    try:
        return Client(scheduler, timeout=PATIENCE)
    except (OSError, ValueError) as error:
        raise ValueError(f"no Dask scheduler at {scheduler} ({error})") from None
