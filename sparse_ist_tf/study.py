"""Runs a grid of trainings and writes a report of them.

    python -m sparse_ist_tf.study --config=configs/study_aid.py --workdir=runs/study_aid

Stopped or killed, the same command goes on: SIGTERM, SIGHUP and Ctrl-C are passed on to the
trainings, which keep a checkpoint. A training that fails is reported and doesn't stop the
others; the same command tries it again. Grids and seeds may grow, what all trainings share may not.
"""

import os
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from sparse_ist_tf import study_config
from sparse_ist_tf.commands import run
from sparse_ist_tf.reports.run_directory import RunDirectory
from sparse_ist_tf.studies.grid import cells_of
from sparse_ist_tf.studies.leaks import GRID, leak_of, measure_leaks
from sparse_ist_tf.studies.pages import write_pages
from sparse_ist_tf.studies.pool import PATIENCE_S, run_cells
from sparse_ist_tf.studies.results import row_of
from sparse_ist_tf.workers.stopping import Stop

FLAGS = flags.FLAGS


def study(config: ConfigDict, folder: str | Path) -> list[dict]:
    """Runs what is missing of a study, and writes its report.

    Returns:
        A row per training, as results.jsonl has them.

    Raises:
        RequestError: if the configuration isn't possible, or the folder holds another study.
        RunError: if a file can't be written.
    """
    study_config.validate(config)
    folder, grids = Path(folder).resolve(), cells_of(config)
    base = config.base.to_dict()
    directory = RunDirectory(folder)
    shared = {"base": base, "num_workers": config.num_workers}
    with directory.opened(shared, study_config.completed):
        cells = [cell for some in grids.values() for cell in some]
        jobs = config.jobs or os.cpu_count() or 1
        axes = {name: [key for key, _ in config.grids[name]] for name in grids}
        try:
            run_cells(cells, folder, jobs)
            compared = [cell for name in grids if GRID in axes[name] for cell in grids[name]]
            measure_leaks(compared, folder)
        finally:
            rows = {
                name: (axes[name], [row_of(c, folder) | leak_of(c, folder) for c in some])
                for name, some in grids.items()
            }
            write_pages(folder, f"Study of {base['dataset']['name']}", base, rows)
    return list({row["cell"]: row for _, some in rows.values() for row in some}.values())


def main(_: list[str]) -> int:
    """Runs the study and says how it went: 1 if a training failed, else 0."""
    Stop(prompt_s=PATIENCE_S + 2.0).listen()
    folder = Path(FLAGS.workdir)
    rows = study(FLAGS.config, folder)
    bad = [row for row in rows if row["status"] != "finished"]
    for row in bad:
        print(f"{row['cell']}: {row['error']}")
    print(f"{len(rows) - len(bad)} of {len(rows)} trainings are finished.")
    print(f"Report: {folder / 'report.html'} (report.md, results.csv, results.jsonl)")
    return 1 if bad else 0


def define_flags() -> None:
    """Defines the command's flags."""
    flags.DEFINE_string("workdir", "runs/study", "Folder of the study.")


if __name__ == "__main__":
    run(main, define_flags, config=study_config)
