"""Make a command's options from the parameters of its flow (flows/parameters.py)."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, Literal, TypeVar

import typer
from annotated_types import Ge, Le
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from flows.parameters import Parameters

Model = TypeVar("Model", bound=Parameters)
Command = Callable[..., None]
On = Annotated[
    Literal["here", "ray"],
    typer.Option(help="Where decoding and training run: on this machine, or on the Ray cluster of RAY_ADDRESS."),
]


def options(
    model: type[Parameters], *, argument: str | None = None, without: Collection[str] = ()
) -> Callable[[Command], Command]:
    """Give a command an option for each field of a model; it receives the values as keyword arguments.

    Args:
        argument: the field whose value is given without a name.
        without: fields that the command declares itself, or does not have.
    """

    def decorate(command: Command) -> Command:
        signature, hints = inspect.signature(command), typing.get_type_hints(command, include_extras=True)
        own = [
            parameter.replace(annotation=hints[name])
            for name, parameter in signature.parameters.items()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        generated = [
            _option(name, field, typer.Argument if name == argument else typer.Option)
            for name, field in model.model_fields.items()
            if name not in without
        ]
        every = sorted(
            (parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in (*own, *generated)),
            key=lambda parameter: parameter.default is not inspect.Parameter.empty,
        )
        command.__signature__ = signature.replace(parameters=every)  # type: ignore[attr-defined]  # what Typer reads
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in every}
        return command

    return decorate


def build(model: type[Model], values: Mapping[str, Any], **more: Any) -> Model:
    """Make the model from options; those left empty have their defaults. Raises typer.BadParameter."""
    chosen = {name: value for name, value in {**values, **more}.items() if value is not None}
    try:
        return model(**chosen)
    except ValidationError as error:
        first = error.errors()[0]
        option = f"--{str(first['loc'][0]).replace('_', '-')}" if first["loc"] else None
        raise typer.BadParameter(str(first["msg"]).removeprefix("Value error, "), param_hint=option) from None


def _option(name: str, field: FieldInfo, make: Callable[..., Any]) -> inspect.Parameter:
    least = next((constraint.ge for constraint in field.metadata if isinstance(constraint, Ge)), None)
    most = next((constraint.le for constraint in field.metadata if isinstance(constraint, Le)), None)
    help_ = (field.description or "").replace("Empty:", "Default:")
    kind: Any = field.annotation
    default = inspect.Parameter.empty if field.is_required() else field.default
    if typing.get_origin(kind) is list:  # separated by commas
        kind, default = list[str], [",".join(field.default)]
        help_ += " May be repeated."
    elif field.default_factory is not None:  # made from the other fields
        kind, default = kind | None, None
    annotation = Annotated[kind, make(help=help_, min=least, max=most)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
