"""Named settings of `ist.link`, for people who don't want to choose."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class LinkSetting:
    """What a name of `ist.link` stands for, where a key says nothing itself: forms, and how seldom.

    Args:
        weights: as ist.exchange.weights, and the next three.
        differences: of what training adds to them.
        first_moment: of the optimizer.
        second_moment: of the optimizer.
        local_steps: the most steps of a round.
    """

    weights: str
    differences: str
    first_moment: str
    second_moment: str
    local_steps: int


LINKS = {
    "thinnest": LinkSetting("bfloat16", "int4", "reset", "neuron", 500),
    "thin": LinkSetting("bfloat16", "int4", "reset", "halvings", 100),
    "fast": LinkSetting("float32", "float32", "float32", "float32", 20),
}
