"""The parameters of each flow, declared once: the command line turns them into options, and Prefect into a form.

Nothing here imports Prefect, so that `respect --help` answers at once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from respect_core import variants
from respect_core.learning import grids
from respect_core.profiles import PROFILES, Profile
from respect_core.profiles import profile as named_profile
from respect_core.variants import SYSTEMS, Engine, FeedbackSource, Objective, Propensity, Variant

if TYPE_CHECKING:  # it imports numpy
    from respect_core.release.gate import GateConfig

ANCHORS = 4
"""Games that measure the seed policy at the start and at the end, per game that a policy plays in a round."""


def split(names: Sequence[str]) -> list[str]:
    """Split names at commas, each once; 'all' stands for the six variants."""
    parts = list(dict.fromkeys(part.strip() for name in names for part in name.split(",")))
    return list(SYSTEMS) if parts == ["all"] else parts


def _split(given: Any) -> Any:
    """Split as `split` does; leave anything but a list of names for pydantic to reject."""
    return split(given) if isinstance(given, list | tuple) and all(isinstance(name, str) for name in given) else given


Variants = Annotated[list[Variant], BeforeValidator(_split), Field(min_length=1)]


def _met_by_users(variants: list[Variant]) -> list[Variant]:
    if Variant.SHUFFLED in variants:
        raise ValueError(f"{Variant.SHUFFLED} is a control that learns in a round, and users never meet it")
    return variants


MetVariants = Annotated[Variants, AfterValidator(_met_by_users)]
ProfileName = Annotated[
    str,
    Field(
        description=f"Named configuration: {' or '.join(PROFILES)}.",
        json_schema_extra={"enum": list(PROFILES)},  # forms offer these
    ),
]
Feedback = Annotated[
    FeedbackSource,
    Field(
        description="What turns are learned from: 'decoded' (follow-ups), 'explicit' (users' thumbs alone, where a log "
        "has them) or 'both' (the thumb where there is one, the follow-up elsewhere)."
    ),
]
Decoder = Annotated[
    str,
    Field(
        description="Feedback decoder: a name that profiles have, or openai:MODEL@URL for an OpenAI-compatible "
        "endpoint, which is sent what users wrote (key: OPENAI_API_KEY). Empty: the profile's."
    ),
]
Seeds = Annotated[int | None, Field(ge=1, description="Training seeds per variant. Empty: the profile's.")]
MaxSteps = Annotated[int | None, Field(ge=1, description="Optimizer steps per training run. Empty: the profile's.")]
EngineName = Annotated[
    Engine | None,
    Field(
        description="What trains: 'packed' (ours, whole interactions), or 'trl' (TRL's trainers, one example per turn; "
        "FFT and KTO on text bases). Empty: the profile's."
    ),
]
StudySeed = Annotated[
    int,
    Field(ge=0, description="Drives contexts, speakers, sampling and training; another seed, another study."),
]
Validation = Annotated[
    str,
    Field(
        description="Game set whose right turns choose the checkpoints; its games are kept out of training. Make one "
        "with `respect import games --game-set`."
    ),
]


class Parameters(BaseModel):
    """The parameters of a flow; the profile has the rest."""

    model_config = ConfigDict(frozen=True)


class RoundParameters(Parameters):
    """One round on the logs in the store."""

    round: int = Field(ge=0, description="Number of the round, counted from 0, the seed policy's deployment.")
    profile: ProfileName = "tiny"
    variants: Variants = Field(
        default=list(SYSTEMS),
        description="Comma-separated variants to train, or 'all' six; "
        "'shuffled' is b-fft from shuffled labels, a control.",
    )
    validation: Validation = "validation"
    propensity: Propensity | None = Field(
        default=None,
        description="Where p of equation 2 comes from when a log has none: 'logged' (an error), 'backfill' (computed "
        "under the policy that acted, if its adapter is registered), 'surrogate' (computed under the seed policy, an "
        "approximation). Empty: the profile's (tiny: surrogate, idefics2-8b: logged).",
    )
    feedback: Feedback = FeedbackSource.DECODED
    decoder: Decoder = ""
    seeds: Seeds = None
    max_steps: MaxSteps = None
    engine: EngineName = None
    study_seed: int = Field(default=0, ge=0, description="Repetition of a study: no two share a training seed.")
    replay: int = Field(
        default=0, ge=0, description="Games of a fixed simulated set that the seed policy and every new policy play."
    )

    @model_validator(mode="after")
    def _trainable(self) -> Self:
        others = [str(each) for each in self.variants if each.objective is not Objective.RL]
        if self.engine == "trl" and len(others) < len(self.variants):
            named = f"choose variants ({','.join(others)})" if others else "choose other variants"
            raise ValueError(f"TRL has no trainer for REINFORCE: {named}, or train with the engine 'packed'")
        return self

    def resolved_profile(self) -> Profile:
        """Return the named profile with the settings made here."""
        profile = replace(named_profile(self.profile), feedback=self.feedback)
        if self.seeds is not None:
            profile = replace(profile, seeds=tuple(range(self.seeds)))
        stride = max(profile.seeds) + 1
        profile = replace(profile, seeds=tuple(seed + self.study_seed * stride for seed in profile.seeds))
        if self.propensity is not None:
            profile = replace(profile, propensity=self.propensity)
        if self.decoder:
            profile = replace(profile, feedback_decoder=self.decoder)
        if self.max_steps is not None:
            every = max(1, self.max_steps // 4)
            profile = profile.with_training(max_steps=self.max_steps, checkpoint_every=every)
        return profile.on(self.engine) if self.engine else profile


class NextRoundParameters(Parameters):
    """The next round, as a schedule starts it."""

    variants: Variants = Field(default=list(SYSTEMS), description="Variants to train.")
    minimum: int = Field(
        default=100,
        ge=1,
        description="New interactions that each variant must have; with fewer, the run ends and says how many are "
        "missing.",
    )
    number: int | None = Field(default=None, ge=0, description="Number of the round. Empty: the next one.")
    profile: ProfileName = "tiny"
    validation: Validation = "validation"
    feedback: Feedback = FeedbackSource.DECODED
    decoder: Decoder = ""
    seeds: Seeds = None
    max_steps: MaxSteps = None
    engine: EngineName = None
    on: Literal["pools", "ray"] = Field(
        default="pools", description="Where decoding and training run: on the GPU work pool, or on a Ray cluster."
    )

    def of_round(self, number: int) -> RoundParameters:
        """Return the parameters of that round."""
        return RoundParameters(round=number, **self.model_dump(exclude={"minimum", "number", "on"}))


class StudyParameters(Parameters):
    """The paper's experiment with simulated speakers."""

    rounds: int = Field(default=6, ge=1, description="Rounds of learning; deployments are 0 to this number.")
    variants: MetVariants = Field(default=[Variant.B_FFT], description="Variants that play and learn.")
    control: bool = Field(default=True, description="Deploy the seed policy again in the last round.")
    games: int = Field(default=300, ge=10, description="Games of every policy in every round.")
    anchor_games: int = Field(
        default_factory=lambda given: ANCHORS * int(given["games"]),
        ge=10,
        description="Games that measure the seed policy in round 0, and again as control in the last round; nobody "
        "learns from those beyond `games`. Empty: four times as many.",
    )
    human_games: int = Field(default=50, ge=0, description="Games between people (HH), in the last round.")
    study_seed: StudySeed = 0
    profile: ProfileName = "tiny"
    seeds: Seeds = None
    max_steps: MaxSteps = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.anchor_games < self.games:
            raise ValueError(f"anchor_games = {self.anchor_games} must be at least games = {self.games}")
        if Variant.B_FFT_PLUS in self.variants and (
            Variant.B_FFT not in self.variants or self.rounds <= variants.BRANCH_AFTER
        ):
            raise ValueError(
                f"{Variant.B_FFT_PLUS} branches off {Variant.B_FFT} after round {variants.BRANCH_AFTER}: "
                "study both, over more rounds"
            )
        return self

    def learning(self, number: int) -> list[Variant]:
        """Return the variants that learn from a round, and play in the next."""
        branched = number >= variants.BRANCH_AFTER
        return [each for each in self.variants if branched or each is not Variant.B_FFT_PLUS]

    def of_round(self, number: int) -> RoundParameters:
        """Return the parameters of one round's learning."""
        return RoundParameters(
            round=number,
            profile=self.profile,
            variants=self.learning(number),
            seeds=self.seeds,
            max_steps=self.max_steps,
            study_seed=self.study_seed,
        )


class NamedStudyParameters(StudyParameters):
    """One of several studies in an installation."""

    name: str = Field(
        default="study", description="Name of the study: its own part of the store, its own experiment in MLflow."
    )

    def study(self) -> StudyParameters:
        """Return the parameters of the study itself."""
        return StudyParameters(**self.model_dump(exclude={"name"}))


class DemoParameters(Parameters):
    """The loop in miniature."""

    games: int = Field(default=200, ge=1, description="Games that the seed policy plays in round 0.")
    replay: int = Field(default=60, ge=0, description="Games of the fixed set that every policy replays.")
    variants: Variants = Field(default=list(SYSTEMS), description="Comma-separated variants, or 'all'.")
    study_seed: StudySeed = 0
    profile: ProfileName = "tiny"

    def first_round(self) -> RoundParameters:
        """Return the parameters of its only round."""
        return RoundParameters(round=0, **self.model_dump(exclude={"games"}))


class SimulateParameters(Parameters):
    """Games of simulated users with the deployed versions."""

    variants: MetVariants = Field(
        default=list(SYSTEMS),
        description="Variants whose deployed versions act; the seed policy where none was promoted.",
    )
    games: int = Field(default=100, ge=1, description="Games of each variant.")
    round: int | None = Field(
        default=None, ge=0, description="Round of the log. Empty: the one after the newest learned."
    )
    profile: ProfileName = "tiny"


class EvaluateParameters(Parameters):
    """Registered policies on games that people played elsewhere."""

    game_set: str = Field(
        description="Game set whose right turns count, kept with `respect import games --game-set NAME`."
    )
    round: int | None = Field(default=None, ge=0, description="Round whose variants are compared. Empty: the newest.")
    profile: ProfileName = "tiny"


class DecodeParameters(Parameters):
    """The follow-ups that rounds have not decoded yet."""

    profile: ProfileName = "chat"


class CompareParameters(Parameters):
    """Two versions on the same held-out prompts."""

    first: str = Field(description="A version: respect.b-fft/3, or b-fft for the newest candidate, or seed.")
    second: str = Field(description="The version that it is compared with, named likewise.")
    game_set: str = Field(default="validation", description="Game set of the prompts and of the curated replies.")
    profile: ProfileName = "chat"
    judge: str | None = Field(
        default=None,
        description="openai:MODEL@URL, an OpenAI-compatible endpoint that judges pairs of generated replies; its key "
        "is OPENAI_API_KEY. Empty: no replies are generated.",
    )
    prompts: int = Field(default=100, ge=1, description="Most prompts that the policies reply to for the judge.")
    reply_tokens: int = Field(default=256, ge=1, description="Most tokens of a reply.")
    concurrency: int = Field(default=4, ge=1, le=64, description="Most requests to the judge at a time.")
    live: bool = Field(
        default=False,
        description="Compare what users said next instead, in conversations that a gateway assigned at random.",
    )
    effect: float = Field(
        default=0.05, gt=0, lt=1, description="With live: the difference in negative follow-ups that matters."
    )

    @field_validator("judge")
    @classmethod
    def _named(cls, judge: str | None) -> str | None:
        if judge is not None and not re.fullmatch(r"openai:.+@https?://\S+", judge):
            raise ValueError("name an endpoint as openai:MODEL@URL, with http or https")
        return judge


class SearchParameters(RoundParameters):
    """A search over training settings."""

    round: int = Field(default=0, ge=0, description="The round whose games, and those before, it learns from.")
    variants: Variants = Field(max_length=1, description="The variant to train.")
    grid: str = Field(
        default="table-1",
        description=f"Settings to try: {', '.join(grids.GRIDS)}. The first is Table 1's search space, one setting "
        "changed at a time; the second all its combinations; the third is around the profile's own settings.",
    )
    limit: int | None = Field(default=None, ge=1, description="Try at most this many of them, at random.")

    def named(self) -> dict[str, Any]:
        """Return the fields that identify the search, for its files and its table."""
        return {"grid": self.grid, "variant": str(self.variants[0]), "round": self.round, "profile": self.profile}


class PromoteParameters(Parameters):
    """A variant's candidate, and what the gate requires of it."""

    variant: Variant = Field(description="Variant whose policy is to be deployed.")
    version: int | None = Field(default=None, ge=1, description="Number of the version. Empty: the newest candidate.")
    game_set: str = Field(
        default="gate",
        description="Game set on which it is compared to the deployed policy; its games chose no checkpoint.",
    )
    margin: float | None = Field(
        default=None, ge=0, le=1, description="Loss of exact match that counts as no worse. Empty: the gate's."
    )
    games: int | None = Field(
        default=None,
        ge=1,
        description="Games to accept instead of those that the gate needs to find a gain: fewer find it less often. "
        "The ledger records it. Empty: the gate's.",
    )
    user_share_cap: float | None = Field(
        default=None, ge=0, le=1, description="Largest share of one user in what it learned from. Empty: the gate's."
    )
    min_feedback_turns: int | None = Field(
        default=None, ge=1, description="Turns with feedback that it must have learned from. Empty: the gate's."
    )
    approve: bool = Field(
        default=False, description="Once the gate is passed, wait for a person to approve on the run's page in Prefect."
    )
    actor: str = Field(default="", description="Who asks, for the ledger. Empty: the account that runs it.")
    reason: str = Field(default="", description="Why, for the ledger.")

    def gate(self, profile: str) -> GateConfig:
        """Return the gate of the candidate's profile with the settings made here."""
        from respect_core.release.gate import gate

        names = ("margin", "games", "user_share_cap", "min_feedback_turns")
        return replace(gate(profile), **{name: value for name in names if (value := getattr(self, name)) is not None})


class RollbackParameters(Parameters):
    """A variant whose users get back what was deployed before."""

    variant: Variant = Field(description="Variant whose previously deployed version is to come back.")
    reason: str = Field(default="", description="Why, for the ledger.")
    actor: str = Field(default="", description="Who asks, for the ledger. Empty: the account that runs it.")
