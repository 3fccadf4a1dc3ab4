"""All drills, one behind the other, and the table of how they went."""

from collections.abc import Sequence

from sparse_ist_tf.benchmarks.faults import disks, links, meetings, mismatches, signals
from sparse_ist_tf.benchmarks.faults.drill import TITLES, Drill, NotPossible, Result
from sparse_ist_tf.benchmarks.faults.trial import Workshop
from sparse_ist_tf.errors import RequestError, RunError, did_you_mean
from sparse_ist_tf.reports.report import format_table


def all_drills() -> list[Drill]:
    """Every drill, in the order in which they are made."""
    files = (signals, links, meetings, mismatches, disks)
    return [drill for file in files for drill in file.drills()]


def chosen(names: Sequence[str]) -> list[Drill]:
    """The drills of some names; all where there are none.

    Raises:
        RequestError: if a name isn't one.
    """
    known = {drill.name: drill for drill in all_drills()}
    for name in names:
        if name not in known:
            near = did_you_mean(name, known)
            raise RequestError(f"--drill={name}: must be some of {', '.join(known)}{near}")
    return [known[name] for name in names] or list(known.values())


def compare(drills: Sequence[Drill]) -> int:
    """Makes faults, prints what is said of each as it ends, and a table of all.

    Args:
        drills: to make.

    Returns:
        1 if one falls short of what is expected, or none could be made; else 0.
    """
    results: list[Result] = []
    try:
        with Workshop() as workshop:
            for number, drill in enumerate(drills, 1):
                results.append(_made(workshop, drill))
                print(f"[{number}/{len(drills)}] {drill.fault}", flush=True)
                for line in _lines(results[-1]):
                    print(f"    {line}", flush=True)
    finally:  # of those that are over, where Ctrl-C ends it
        print(format_table([TITLES, *(result.row() for result in results)]), flush=True)
    short = [result.drill.name for result in results if result.shortcomings()]
    made = sum(result.is_possible for result in results)
    print(f"{made} drills, {len(short)} fall short{': ' if short else ''}{', '.join(short)}")
    return 1 if short or not made else 0


def _made(workshop: Workshop, drill: Drill) -> Result:
    try:
        with workshop.trial(drill) as trial:
            return Result(drill, drill.do(trial))
    except NotPossible as error:
        return Result(drill, None, str(error), is_possible=False)
    except (RunError, OSError) as error:
        return Result(drill, None, str(error))


def _lines(result: Result) -> list[str]:
    if not result.is_possible:
        return [f"not run: {result.reason}"]
    said = [result.outcome.line] if result.outcome and result.outcome.line else []
    return said + [f"falls short: {what}" for what in result.shortcomings()]
