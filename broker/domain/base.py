"""What every wire model shares: frozen, unknown properties kept, kinds looked up. Imports pydantic alone.

A *family* is one of the standard's abstract schemas. Its members register by the kind they carry; an element
of a kind nobody registered stays an instance of the family itself, its properties kept verbatim, so that it
survives a round trip (design, section 4).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    Strict,
)
from pydantic_core import CoreSchema, core_schema

# Strict scalars: pydantic's own would read "3" as 3, true as 1, and let NaN through, which corrupts sorting.
Int = Annotated[int, Strict(), Field(ge=-(2**63), le=2**63 - 1)]
Natural = Annotated[int, Strict(), Field(ge=0, le=2**63 - 1)]
Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
Text = Annotated[str, Strict()]
Flag = Annotated[bool, Strict()]


def _texts(value: object) -> object:
    """XML and YAML writers send numbers and booleans as map values; the standard's map holds strings."""
    if not isinstance(value, Mapping):
        return value
    return {key: _text(item) for key, item in value.items()}


def _text(item: object) -> object:
    if isinstance(item, bool):
        return "true" if item else "false"
    return str(item) if isinstance(item, int | float) else item


NameValueMap = Annotated[dict[Text, Text], BeforeValidator(_texts)]


class Model(BaseModel):
    """A frozen wire object. Unknown properties are kept and written out again."""

    model_config = ConfigDict(
        frozen=True,
        extra="allow",
        regex_engine="python-re",  # the standard's ISO8601Instant pattern has an atomic group
        protected_namespaces=(),
    )

    def to_wire(self) -> dict[str, Any]:
        """The JSON-ready form: absent and null properties left out, instants and durations in ISO 8601."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)

    def with_(self, **changes: Any) -> Self:
        """A copy with `changes`; the values are taken as they are, so pass what the field holds."""
        return self.model_copy(update=changes)


class Family(Model):
    """An abstract schema of the standard. Members: `class X(SomeFamily, kind=URI)`."""

    kind: Text
    members: ClassVar[dict[str, type[Family]]]

    def __init_subclass__(cls, *, family: bool = False, **options: Any) -> None:
        options.pop("kind", None)
        super().__init_subclass__(**options)
        if family:
            cls.members = {}

    @classmethod
    def __pydantic_init_subclass__(cls, *, kind: str = "", family: bool = False, **options: Any) -> None:
        if kind:
            cls.members[kind] = cls

    @classmethod
    def choose(cls, kind: object) -> type[Family]:
        """The member that carries `kind`; the family itself for a kind nobody registered."""
        return cls.members.get(kind, cls) if isinstance(kind, str) else cls


class OneOf:
    """Validates a family's field by the member that its `kind` names."""

    def __get_pydantic_core_schema__(self, source: type[Family], handler: GetCoreSchemaHandler) -> CoreSchema:
        def choose(value: Any) -> Family:
            if isinstance(value, source):
                return value
            if not isinstance(value, Mapping):
                raise ValueError("an object with a kind is wanted")
            return source.choose(value.get("kind")).model_validate(value)

        return core_schema.no_info_plain_validator_function(
            choose,
            serialization=core_schema.plain_serializer_function_ser_schema(Model.to_wire),
            # The generator of api/openapi turns it into a reference.
            metadata={"pydantic_js_functions": [lambda *_: {"x-family": source.__name__}]},
        )


ONE_OF = OneOf()
