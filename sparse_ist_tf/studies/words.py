"""How keys and values of a configuration are called in tables and figures."""

import re
from collections.abc import Iterable, Mapping

from sparse_ist_tf.allowed import Value

_NAMES = {
    "dataset.name": "data",
    "encoder.weights": "encoder",
    "encoder.image_size": "image size",
    "head.hidden": "hidden layers",
    "ist.algorithm": "algorithm",
    "ist.capacities": "capacities",
    "ist.local_steps": "local steps",
    "ist.num_subnets": "subnets",
    "masks.grid": "grid",
    "masks.kind": "masks",
    "masks.pattern": "pattern",
    "masks.ratio": "mask ratio",
    "masks.test_ratios": "test mask ratios",
    "num_workers": "workers",
    "share_total": "1/N of the steps each",
    "transport.codec": "codec",
    "transport.features": "features",
    "transport.quality": "JPEG quality",
}
_UNITS = {
    "encoder.image_size": "px",
    "ist.local_steps": "steps of a round",
    "masks.ratio": "hidden share of the patches",
}
_VALUES = {
    "ist": "IST",
    "local_sgd": "local SGD",
    "diloco": "DiLoCo",
    "data_parallel": "data parallel",
    "centralized": "centralised",
}


def title(name: str) -> str:
    """A grid's name, such as "1_table4", as a heading; the number gives its place, unshown."""
    text = re.sub(r"^\d+_", "", name).replace("_", " ")
    return text[:1].upper() + text[1:]


def short(key: str) -> str:
    """A configuration key's name, for people; the key itself where it has no other."""
    return _NAMES.get(key, key)


def label(key: str) -> str:
    """A key's name with its unit where it has one, for the axis of a figure."""
    return f"{short(key)} ({_UNITS[key]})" if key in _UNITS else short(key)


def show(value: Value) -> str:
    """A setting's value, for people."""
    if isinstance(value, tuple | list):
        return ", ".join(map(show, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return _VALUES.get(str(value), str(value))


def settings(point: Mapping[str, Value], keys: Iterable[str]) -> str:
    """What tells a line of a figure from the others.

    Returns:
        Such as "2 subnets, fixed masks".
    """
    words = []
    for key in keys:
        value = point[key]
        if key in ("ist.num_subnets", "num_workers", "masks.kind"):
            name = short(key)
            words.append(f"{show(value)} {name.removesuffix('s') if value == 1 else name}")
        elif key == "share_total":
            words.append("1/N of the steps each" if value else "all steps each")
        elif key in ("dataset.name", "encoder.weights", "ist.algorithm", "variant"):
            words.append(show(value))
        else:
            words.append(f"{short(key)} {show(value)}")
    return ", ".join(words)
