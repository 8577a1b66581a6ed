"""`PlateMessenger`, another name of `plate`, and `block_plate`, which leaves an enclosing plate."""

from varigrad.compat.pyro.plates import plate as PlateMessenger  # noqa: N812 - Pyro's name

__all__ = ["PlateMessenger", "block_plate"]

from collections.abc import Iterator
from contextlib import contextmanager

from varigrad.language.plates import InPlate
from varigrad.language.runtime import _stack


@contextmanager
def block_plate(name: str | None = None, dim: int | None = None, *, strict: bool = True) -> Iterator[None]:
    """Take a plate out of force.

    Raises:
        ValueError: neither or both of name and dim are given, or there is no such plate.
    """
    if (name is not None) == (dim is not None):
        raise ValueError("Exactly one of name,dim must be specified")

    def meant(handler: object) -> bool:
        return isinstance(handler, InPlate) and (
            handler.plate.name == name if name is not None else handler.plate.dim == dim
        )

    inside = tuple(h for h in _stack.get() if not meant(h))
    if strict and len(inside) == len(_stack.get()):
        raise ValueError(f"block_plate matched no plate: name={name!r}, dim={dim!r}")
    token = _stack.set(inside)
    try:
        yield
    finally:
        _stack.reset(token)
