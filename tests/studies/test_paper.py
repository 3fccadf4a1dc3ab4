"""The paper's grids: all of them by default, fewer where a data set makes them dear."""

from sparse_ist_tf.studies.paper import RATIOS, paper_grids


def test_every_grid_has_its_ratios():
    grids = paper_grids(figure_3_ratios=(0.0,), figure_4_ratios=(0.5, 0.9), most_subnets=8)
    assert list(grids) == sorted(grids), "a report has them in this order"
    axes = {name: dict(axes) for name, axes in grids.items()}
    assert axes["1_table_4_and_figure_7"]["masks.ratio"] == RATIOS
    assert axes["2_figure_3"]["masks.ratio"] == (0.0,)
    assert axes["3_figure_4"]["masks.ratio"] == (0.5, 0.9)
    assert axes["4_shared_masks"]["masks.ratio"] == (0.25, 0.5, 0.75)
    assert axes["5_subnets_and_missing_workers"]["ist.num_subnets"] == (1, 2, 4, 8)
    assert axes["6_equal_examples"]["ist.num_subnets"] == (2, 4, 8)


def test_fewer_ratios_and_no_shared_masks():
    grids = paper_grids(table_4_ratios=[0.0, 0.5], shared_ratios=[])
    assert dict(grids["1_table_4_and_figure_7"])["masks.ratio"] == (0.0, 0.5)
    assert set(paper_grids()) - set(grids) == {"4_shared_masks"}
