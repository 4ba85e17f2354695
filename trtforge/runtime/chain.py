"""Sessions that follow each other, with the inputs and outputs that the model had when given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trtforge import frozen_inputs, io_adapter
from trtforge.errors import BundleError, DataError
from trtforge.runtime.session import InferenceSession, Tensor, on_host

if TYPE_CHECKING:
    from trtforge.runtime.session import Feed


class Chain:
    """One or more sessions that make up a model; what one gives, later ones take by name.

    Args:
        sessions: In their order.
        outputs: Names of the model's outputs.
        metadata: The model's, about changed types and frozen inputs.

    Raises:
        BundleError: no session gives an output.
    """

    def __init__(
        self,
        sessions: Sequence[InferenceSession],
        outputs: Sequence[str],
        metadata: Mapping[str, str],
    ) -> None:
        self._sessions = tuple(sessions)
        self._adapted = io_adapter.read(metadata)
        self._frozen = frozen_inputs.read(metadata)
        made: dict[str, Tensor] = {}
        needed: dict[str, Tensor] = {}
        for session in self._sessions:
            for tensor in session.inputs:
                if tensor.name not in made:
                    needed.setdefault(tensor.name, tensor)
            made |= {tensor.name: tensor for tensor in session.outputs}
        missing = [name for name in outputs if name not in made]
        if missing:
            raise BundleError(f"no engine gives the model's output {missing[0]!r}")
        self._outputs = tuple(outputs)
        self.inputs = tuple(map(self._as_given, needed.values()))
        self.outputs = tuple(self._as_given(made[name]) for name in outputs)

    @property
    def title(self) -> str:
        """What runs."""
        titles = list(dict.fromkeys(session.title for session in self._sessions))
        count = f", {len(self._sessions)} engines in a chain" if len(self._sessions) > 1 else ""
        return f"{', '.join(titles)}{count}"

    def _as_given(self, tensor: Tensor) -> Tensor:
        entry = self._adapted.get(tensor.name)
        dtype = io_adapter.dtype_of(entry.given) if entry else tensor.dtype
        return Tensor(tensor.name, dtype, tensor.shape)

    def run(self, feed: Feed, *, on_device: bool = False, stream: object = None) -> dict[str, Any]:
        """Return the outputs by name; see :class:`~trtforge.runtime.session.InferenceSession`.

        An input or output whose type was changed goes through main memory.
        """
        here = self._adjusted(feed)
        last = len(self._sessions) - 1
        for number, session in enumerate(self._sessions):
            mine = {tensor.name: here[tensor.name] for tensor in session.inputs}
            stays = on_device or number < last
            here |= session.run(mine, on_device=stays, stream=stream)
        found = {name: here[name] for name in self._outputs}
        if on_device and not self._adapted.keys() & found.keys():
            return found
        if not on_device:
            found = {name: on_host(array) for name, array in found.items()}
            return io_adapter.from_model(self._adapted, found)
        adapted = {name: on_host(found[name]) for name in self._adapted if name in found}
        return {**found, **io_adapter.from_model(self._adapted, adapted)}

    def _adjusted(self, feed: Feed) -> dict[str, Any]:
        """Return the feed of the engines for a feed of the model as it was given."""
        frozen = {name: on_host(feed[name]) for name in self._frozen if name in feed}
        frozen_inputs.without(self._frozen, frozen)
        given = {name: array for name, array in feed.items() if name not in self._frozen}
        known = [tensor.name for tensor in self.inputs]
        if given.keys() != set(known):
            raise DataError(
                f"the model takes {', '.join(known)}; given: {', '.join(given) or 'nothing'}"
            )
        changed = {name: on_host(array) for name, array in given.items() if name in self._adapted}
        return {**given, **io_adapter.to_model(self._adapted, changed)}

    def close(self) -> None:
        """Give back all memory."""
        for session in self._sessions:
            session.close()
