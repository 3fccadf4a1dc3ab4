"""Named settings for workers' links: in which forms numbers cross, and how seldom."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class LinkSetting:
    """What a name of `ist.link` stands for, key by key, where a key says nothing itself.

    Args:
        weights: as ist.exchange.weights, and the next three.
        differences: of what training adds to them.
        first_moment: of the optimizer.
        second_moment: of the optimizer.
        local_steps: the most steps of a round.
        unlike: the same where subnets draw from unlike shards.
    """

    weights: str
    differences: str
    first_moment: str
    second_moment: str
    local_steps: int
    unlike: int


LINKS = {
    "fast": LinkSetting("float32", "float32", "float32", "float32", 20, 20),
    "thin": LinkSetting("bfloat16", "int4", "int4", "neuron", 100, 20),
    "thinnest": LinkSetting("bfloat16", "int4", "reset", "neuron", 500, 100),
}
EXCHANGE = ("weights", "differences", "first_moment", "second_moment")
AUTO = "auto"  # as ist.link says
