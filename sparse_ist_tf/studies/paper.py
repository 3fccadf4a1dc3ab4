"""The grids of the paper's tables and figures, and those that the paper lacks."""

from collections.abc import Sequence

RATIOS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_ALONE = ("ist.num_subnets", (1,))


def paper_grids(
    encoders: Sequence[str] = ("packaged:vit_micro", "resnet50:imagenet"),
    table_4_ratios: Sequence[float] = RATIOS,
    figure_3_ratios: Sequence[float] = (0.0,),
    figure_4_ratios: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9),
    shared_ratios: Sequence[float] = (0.25, 0.5, 0.75),
    most_subnets: int = 16,
) -> dict[str, tuple]:
    """Table 4 and figures 3, 4 and 7 of the paper, and what it doesn't show.

    Args:
        encoders: of figure 3, each at the image size that it was trained for; the first should be
            the base's, whose trainings are then shared with table 4.
        table_4_ratios: mask ratios of table 4 and figure 7.
        figure_3_ratios: mask ratios of figure 3; the paper has 0 only.
        figure_4_ratios: mask ratios at which fixed masks are compared with random ones, which are
            encoded anew in every epoch: hours on a CPU.
        shared_ratios: mask ratios at which the patterns of shared masks are compared; none leaves
            that grid out.
        most_subnets: up to which numbers of subnets are compared, in powers of two.

    Returns:
        Axes by the name of the grid, as study_config's grids take them.
    """
    subnets = tuple(2**i for i in range(most_subnets.bit_length()))
    grids = {
        "1_table_4_and_figure_7": (
            ("masks.ratio", tuple(table_4_ratios)),
            ("ist.num_subnets", (1, 2, 4)),
        ),
        "2_figure_3": (
            ("masks.ratio", tuple(figure_3_ratios)),
            ("encoder.weights", tuple(encoders)),
            _ALONE,
        ),
        "3_figure_4": (
            ("masks.ratio", tuple(figure_4_ratios)),
            ("masks.kind", ("fixed", "random")),
            _ALONE,
        ),
        "4_shared_masks": (
            ("masks.ratio", tuple(shared_ratios)),
            ("masks.pattern", ("uniform", "grid", "center", "border")),
            ("masks.kind", ("shared",)),
        ),
        "5_subnets_and_missing_workers": (("ist.num_subnets", subnets),),
        "6_equal_examples": (
            ("ist.num_subnets", subnets[1:]),
            ("share_total", (False, True)),
        ),
        "7_other_mask_ratios_in_testing": (
            ("masks.ratio", (0.0, 0.25, 0.5, 0.75)),
            ("masks.test_ratios", ((0.0, 0.25, 0.5, 0.75, 0.9),)),
        ),
        "8_bytes_of_training": (
            ("ist.algorithm", ("ist", "local_sgd", "data_parallel")),
            ("num_workers", (2,)),
        ),
    }
    if not shared_ratios:
        del grids["4_shared_masks"]
    return grids
