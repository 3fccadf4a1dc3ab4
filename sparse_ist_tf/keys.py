"""Tables of configuration keys: defaults, checks, --help and documentation come from one table."""

import copy
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from sparse_ist_tf.allowed import Allowed, OneOf, Value
from sparse_ist_tf.errors import RequestError, did_you_mean


@dataclasses.dataclass(frozen=True)
class When:
    """A setting of one key that makes another one count.

    Args:
        key: the one.
        values: any of these, as OneOf takes them; of a sequence, one that has any of these. Where
            none are given, the key must not be 0, False or empty.
    """

    key: str
    values: tuple[str, ...] = ()

    def holds(self, config: ConfigDict) -> bool:
        """Whether a configuration has that setting."""
        value = lookup(config, self.key)
        if not self.values:
            return bool(value)
        found = value if isinstance(value, tuple | list) else [value]
        return any(str(word) in OneOf(self.values) for word in found)

    def __str__(self) -> str:
        return f"{self.key} is {' or '.join(self.values) or 'set'}"


@dataclasses.dataclass(frozen=True)
class Key:
    """A key of a configuration.

    Args:
        name: dotted, such as "masks.ratio".
        default: its value where nothing else is said; its type is the key's.
        allowed: what else it may be; anything of its type where None.
        meaning: one line for people.
        used: all of these must hold, or else the key keeps its default.
    """

    name: str
    default: Value
    allowed: Allowed | None
    meaning: str
    used: tuple[When, ...] = ()

    @property
    def condition(self) -> str:
        """When it is used, for people; "" where always."""
        return " and ".join(map(str, self.used))


def choice(name: str, words: tuple[str, ...], meaning: str, used: tuple[When, ...] = ()) -> Key:
    """A key that is one of some words, by default the first."""
    return Key(name, words[0], OneOf(words), meaning, used)


def defaults(keys: Sequence[Key]) -> ConfigDict:
    """A configuration of the keys' defaults."""
    config: dict = {}
    for key in keys:
        node, (*above, last) = config, key.name.split(".")
        for part in above:
            node = node.setdefault(part, {})
        node[last] = copy.deepcopy(key.default)
    return ConfigDict(config)


def lookup(config: ConfigDict, key: str) -> Any:
    """The value of a dotted key, such as "masks.ratio"."""
    for part in key.split("."):
        config = config[part]
    return config


def assign(config: ConfigDict, key: str, value: Value) -> None:
    """Gives a dotted key a value, of whatever type.

    Raises:
        KeyError: if there is no such key; TypeError or AttributeError likewise.
    """
    lookup(config, key)
    above, _, last = key.rpartition(".")
    node = lookup(config, above) if above else config
    with node.ignore_type():
        node[last] = copy.deepcopy(value)


def updated(config: ConfigDict, stored: Mapping) -> ConfigDict:
    """The same configuration with what was stored of another one, with keys no longer known too."""
    with config.unlocked(), config.ignore_type():
        config.update(ConfigDict(dict(stored)))
    return config


def is_used(config: ConfigDict, key: Key) -> bool:
    """Whether a key has an effect in a configuration."""
    return all(setting.holds(config) for setting in key.used)


def _unused(config: ConfigDict, keys: Sequence[Key]) -> Iterator[Key]:
    """The keys that have another value than their default, and no effect."""
    for key in keys:
        if not is_used(config, key):
            value = lookup(config, key.name)
            if (tuple(value) if isinstance(value, list) else value) != key.default:
                yield key


def reset_unused(config: ConfigDict, keys: Sequence[Key]) -> list[Key]:
    """Gives keys that have no effect their defaults.

    Returns:
        The keys that had another value.
    """
    found: list[Key] = []
    while more := list(_unused(config, keys)):  # one may be used by another that goes
        for key in more:
            assign(config, key.name, key.default)
        found += more
    return found


def check(config: ConfigDict, keys: Sequence[Key]) -> None:
    """Checks a configuration by its table.

    Raises:
        RequestError: naming the key that is unknown, missing, of another type, not allowed, or set
            without effect.
    """
    check_types(config, keys)
    for key in keys:
        value = lookup(config, key.name)
        if key.allowed is not None and value not in key.allowed:
            near = (
                did_you_mean(str(value), key.allowed.words)
                if isinstance(key.allowed, OneOf)
                else ""
            )
            raise RequestError(f"{key.name}={value!r}: must be {key.allowed}{near}")
    for key in _unused(config, keys):
        value = lookup(config, key.name)
        raise RequestError(
            f"{key.name}={value!r}: must be {key.default!r}, it is used only where {key.condition}"
        )


def check_optimizer(config: ConfigDict, honoured: Mapping[str, Sequence[str]]) -> None:
    """Checks that no option in optimizer.kwargs would be ignored.

    Args:
        config: has optimizer.name and optimizer.kwargs.
        honoured: names of options by that of the optimizer.

    Raises:
        RequestError: naming the option and those that there are.
    """
    name, given = config.optimizer.name, config.optimizer.kwargs.to_dict()
    for option in given:
        if option not in honoured[name]:
            raise RequestError(
                f"optimizer.kwargs={given}: {option} must be one of {', '.join(honoured[name])} "
                f"for optimizer.name={name!r}{did_you_mean(option, honoured[name])}"
            )


def check_types(config: ConfigDict, keys: Sequence[Key], prefix: str = "") -> None:
    """Checks the keys' names and types alone, as check() does."""
    _check_types(config, defaults(keys), [prefix + key.name for key in keys], prefix)


def _check_types(config, default, leaves, prefix) -> None:
    for key, value in config.items():
        name = prefix + key
        if key not in default:
            raise RequestError(f"{name}: {no_such_key(name, leaves)}")
        if name in leaves:
            if not _like(value, default[key]):
                raise RequestError(f"{name}={value!r}: must be of type {_kind(default[key])}")
        elif not isinstance(value, ConfigDict):
            raise RequestError(f"{name}={value!r}: must be a dictionary")
        else:
            _check_types(value, default[key], leaves, f"{name}.")
    missing = [prefix + key for key in default if key not in config]
    if missing:
        raise RequestError(f"{missing[0]}: is missing")


def _like(value, default) -> bool:
    if bool in (type(value), type(default)):
        return type(value) is type(default)
    if isinstance(default, int) and isinstance(value, float):
        return value.is_integer()
    kinds = {float: float | int, tuple: tuple | list}
    return isinstance(value, kinds.get(type(default), type(default)))


def no_such_key(name: str, names: Iterable[str]) -> str:
    """What to say of a dotted key that a table doesn't have: what stands where it parts from it."""
    names, parts = [known.split(".") for known in names], name.split(".")
    at = next(i for i in range(len(parts)) if parts[: i + 1] not in [n[: i + 1] for n in names])
    here = dict.fromkeys(known[at] for known in names if known[:at] == parts[:at] and known[at:])
    place = ".".join(parts[:at]) or "the configuration"
    near = did_you_mean(name, [".".join(known) for known in names])
    return f"there is no such key; {place} has {', '.join(here) or 'none'}{near}"


def as_help(keys: Sequence[Key]) -> str:
    """A table for --help: a line per key."""
    lines = []
    for key in keys:
        allowed = f" ({key.allowed})" if key.allowed else ""
        where = f"; only where {key.condition}" if key.used else ""
        lines.append(f"{key.name}={_shown(key.default)}{allowed}: {key.meaning}{where}")
    return "\n".join(lines)


def as_markdown(keys: Sequence[Key]) -> str:
    """A table for the documentation."""
    lines = ["| key | type | default | allowed | meaning | used only where |", "|---" * 6 + "|"]
    for key in keys:
        default = f"`{_shown(key.default)}`"
        cells = [f"`{key.name}`", _kind(key.default), default, key.allowed or "any"]
        cells += [key.meaning, key.condition]
        lines.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _kind(default) -> str:
    return type(default).__name__.replace("ConfigDict", "dict")


def _shown(default) -> str:
    return "{...}" if isinstance(default, ConfigDict) and default else repr(default)
