"""`block`: hides statements from the handlers outside."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from varigrad.compat.pyro.poutine.messages import Dictionary, view
from varigrad.compat.pyro.poutine.messenger import Messenger
from varigrad.language.messages import Forward, Message
from varigrad.language.runtime import default

Choice = Callable[[Dictionary], bool | None]


class BlockMessenger(Messenger):
    """Hides all statements, or those that the arguments select: by function, by name, or by type.

    Args:
        hide_fn, expose_fn: functions of a message.
        hide_all, expose_all: what happens to sites that nothing else chooses.
        hide, expose: names.
        hide_types, expose_types: "sample" (latent), "observe" (observed), "param", and kinds of the program's own.

    Raises:
        ValueError: arguments that contradict each other.
    """

    def __init__(
        self,
        hide_fn: Choice | None = None,
        expose_fn: Choice | None = None,
        hide_all: bool = True,
        expose_all: bool = False,
        hide: Sequence[str] | None = None,
        expose: Sequence[str] | None = None,
        hide_types: Sequence[str] | None = None,
        expose_types: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        if not (hide_fn is None or expose_fn is None):
            raise ValueError("Only specify one of hide_fn or expose_fn")
        if hide_fn is not None:
            self.hide_fn: Choice = hide_fn
        elif expose_fn is not None:
            self.hide_fn = lambda msg: not expose_fn(msg)
        else:
            self.hide_fn = _by_names(hide_all, expose_all, hide, expose, hide_types, expose_types)

    def _handle(self, message: Message, forward: Forward) -> Message:
        msg = view(message)
        return default(message) if msg is not None and self.hide_fn(msg) else forward(message)


def _by_names(
    hide_all: bool,
    expose_all: bool,
    hide: Sequence[str] | None,
    expose: Sequence[str] | None,
    hide_types: Sequence[str] | None,
    expose_types: Sequence[str] | None,
) -> Choice:
    names, shown = set(hide or ()), set(expose or ())
    types, shown_types = set(hide_types or ()), set(expose_types or ())
    if names & shown or types & shown_types:
        raise ValueError(f"cannot hide and expose a site: {names & shown or types & shown_types}")
    only_some = hide is not None or hide_types is not None  # the others stay visible
    others = False if only_some or expose_all else hide_all
    if expose is not None or expose_types is not None:
        others = True

    def hidden(msg: Dictionary) -> bool:
        type_ = "observe" if msg["type"] == "sample" and msg["is_observed"] else msg["type"]
        if msg["name"] in shown or type_ in shown_types:
            return False
        return msg["name"] in names or type_ in types or others

    return hidden
