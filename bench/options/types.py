"""Number types of options with their ranges."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Count = Annotated[int, Field(ge=1)]
Scale = Annotated[float, Field(ge=0)]
Decay = Annotated[float, Field(ge=0, lt=1)]
