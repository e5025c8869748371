"""Typed choice of an unlearning method; importable without torch.

A method is written as the paper writes it (arXiv 2410.08109): a forget loss, optionally `+` a retain loss, as in
`ME+GD`, `IDK+AP`, `NPO+KL` or `GA`. Names are exact and case-sensitive.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat

Convention = Literal["masked", "paper_code"]
Part = Literal["forget", "retain", "forget_refusal", "retain_refusal", "mismatch"]


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class GAConfig(_Config):
    """Gradient ascent: raise the loss on the forget rows."""

    type: Literal["GA"] = "GA"


class NPOConfig(_Config):
    """Negative Preference Optimization (arXiv 2404.05868)."""

    type: Literal["NPO"] = "NPO"
    beta: PositiveFloat = 0.1


class DPOConfig(_Config):
    """Direct Preference Optimization with a refusal as the preferred answer."""

    type: Literal["DPO"] = "DPO"
    beta: PositiveFloat = 0.1


class IDKConfig(_Config):
    """Learn to answer forget questions with a refusal."""

    type: Literal["IDK"] = "IDK"


class MEConfig(_Config):
    """Maximum entropy: make every prediction on the forget rows uniform (arXiv 2410.08109, section 5.1).

    The paper's code minimises KL(U || p), its text writes KL(p || U); `direction` chooses.
    """

    type: Literal["ME"] = "ME"
    direction: Literal["uniform_to_policy", "policy_to_uniform"] = "uniform_to_policy"


class LLMUConfig(_Config):
    """Ascent on the forget rows, random answers to the forget questions, KL to the reference on retain rows."""

    type: Literal["LLMU"] = "LLMU"


class GDConfig(_Config):
    """Gradient descent: keep the loss on the retain rows low."""

    type: Literal["GD"] = "GD"


class KLConfig(_Config):
    """Keep the predictions on the retain rows close to the reference's."""

    type: Literal["KL"] = "KL"


class APConfig(_Config):
    """Answer preservation: on retain questions prefer the answer to the refusal (arXiv 2410.08109, section 5.2)."""

    type: Literal["AP"] = "AP"
    beta: PositiveFloat = 0.1


ForgetConfig = Annotated[
    GAConfig | NPOConfig | DPOConfig | IDKConfig | MEConfig | LLMUConfig, Field(discriminator="type")
]
RetainConfig = Annotated[GDConfig | KLConfig | APConfig, Field(discriminator="type")]

_FORGET_PARTS: dict[str, frozenset[Part]] = {
    "GA": frozenset({"forget"}),
    "NPO": frozenset({"forget"}),
    "DPO": frozenset({"forget", "forget_refusal"}),
    "IDK": frozenset({"forget_refusal"}),
    "ME": frozenset({"forget"}),
    "LLMU": frozenset({"forget", "mismatch", "retain"}),
}
_RETAIN_PARTS: dict[str, frozenset[Part]] = {
    "GD": frozenset({"retain"}),
    "KL": frozenset({"retain"}),
    "AP": frozenset({"retain", "retain_refusal"}),
}
_COMBINABLE = ("GA", "NPO", "DPO", "IDK", "ME")
VALID_METHODS: tuple[str, ...] = (
    *(forget + retain for forget in _COMBINABLE for retain in ("", "+GD", "+KL", "+AP")),
    "LLMU",
)


class MethodConfig(_Config):
    """A forget loss, an optional retain loss, and how they are weighted and averaged.

    total = forget_weight * forget + retain_weight * retain. `convention` chooses between the averages of the published
    code (`paper_code`) and averages over real tokens only (`masked`).
    """

    forget: ForgetConfig
    retain: RetainConfig | None = None
    forget_weight: NonNegativeFloat = 1.0
    retain_weight: NonNegativeFloat = 1.0
    convention: Convention = "masked"

    @property
    def name(self) -> str:
        """The paper's name, such as `NPO+KL`."""
        return self.forget.type + (f"+{self.retain.type}" if self.retain else "")

    @property
    def parts(self) -> frozenset[Part]:
        """The token batches that the losses read; nothing else is built."""
        return _FORGET_PARTS[self.forget.type] | (_RETAIN_PARTS[self.retain.type] if self.retain else frozenset())

    @property
    def needs_reference(self) -> bool:
        """Whether a loss compares with the frozen start model."""
        return self.forget.type in ("NPO", "DPO", "LLMU") or (self.retain is not None and self.retain.type == "KL")

    @property
    def needs_refusals(self) -> bool:
        """Whether a loss trains on refusals."""
        return bool(self.parts & {"forget_refusal", "retain_refusal"})

    @property
    def settings(self) -> frozenset[str]:
        """The numbers that this method has: what a search may vary."""
        has_beta = any(hasattr(loss, "beta") for loss in (self.forget, self.retain))
        has_retain = self.retain is not None or self.forget.type == "LLMU"
        return frozenset(
            {"forget_weight"} | ({"retain_weight"} if has_retain else set()) | ({"beta"} if has_beta else set())
        )

    @property
    def padded_parts(self) -> frozenset[Part]:
        """Parts of which every position is read, padding too, so that rows must be padded to full length.

        Only the KL of `paper_code`, which averages over every position.
        """
        retain_type = self.retain.type if self.retain else None
        reads_all = self.convention == "paper_code" and (retain_type == "KL" or self.forget.type == "LLMU")
        return frozenset({"retain"}) if reads_all else frozenset()


def parse_method(
    name: str,
    *,
    beta: float = 0.1,
    forget_weight: float = 1.0,
    retain_weight: float = 1.0,
    convention: Convention = "masked",
) -> MethodConfig:
    """Method of an exact name. `beta` goes to every loss that has one (NPO, DPO, AP) and is otherwise unused.

    ValueError: an unknown name (lists the valid ones), or a number out of range.
    """
    if name not in VALID_METHODS:
        raise ValueError(f"unknown method {name!r}; valid names are {', '.join(VALID_METHODS)}")
    forget, _, retain = name.partition("+")

    def loss(kind: str) -> dict[str, object]:
        return {"type": kind, "beta": beta} if kind in ("NPO", "DPO", "AP") else {"type": kind}

    return MethodConfig.model_validate(
        {
            "forget": loss(forget),
            "retain": loss(retain) if retain else None,
            "forget_weight": forget_weight,
            "retain_weight": retain_weight,
            "convention": convention,
        }
    )
