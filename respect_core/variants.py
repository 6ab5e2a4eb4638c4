"""Define the six variants, appendix D's, and Table 1 as named functions.

A configuration is frozen and complete: a named function returns every value, and a caller changes a few with
`dataclasses.replace`.

Deviations from the paper, numbered as they are cited elsewhere:
1. AdamW runs in full precision, not in the authors' paged 8-bit form: adapters are small, and it needs no
   CUDA-only package.
2. KTO's entropy weight is 0.01, not Table 1's 0.1. The released configuration has 0.01 for KTO and 0.1 for FFT and
   RL, mixed in as cross entropy to uniform: that row's columns are very likely swapped. With a bonus of 0.1 over the
   whole vocabulary the uniform policy is the optimum of KTO's bounded loss (`training.refuse_uniform_optimum`).
3. The profile `tiny` measures training in steps, not epochs, with half the paper's turns in each and rates that suit a
   small model: on two cores the cost of a round must not grow with the data.
4. KTO's lambda_d : lambda_u is 4 : 1, the authors' setting for the policies of rounds 1 and 2 (appendix B.3). Profile
   `idefics2-8b` follows them to 1 : 1 from there on; `tiny` keeps 4 : 1, since at 1 : 1 the probabilities of good and
   bad actions fall together, and so does the share of games won.
5. KTO in `tiny` takes its references from the adapter it starts from, not from the logged p: imported games were
   played by other policies, whose p would put every log-ratio far out on the sigmoid, where nothing is learned. The
   alternatives of the KL term need that pass anyway.
6. KTO in `tiny` trains like FFT and RL, with AdamW and a cosine schedule: RMSprop at a constant rate, without momentum
   and bias correction, is unstable at a small model's rates.
7. In `tiny` FFT and RL too continue from the previous round's adapter, as KTO does, instead of from the base model:
   learning adds up over rounds, although each has few steps.
8. `tiny` adapts the embeddings of words as well: in a model of four layers they hold what a word means, and adapters
   in the paper's places, after the embeddings, cannot reach it.
9. FFT has both label smoothing (section 4.2; 0.1 as in the released code) and Table 1's entropy weight; RL has Table
   1's entropy weight alone. `tiny` smooths by 0.02: its vocabulary is small.
10. `tiny` trains one seed, not three (appendix B.3): `--seeds 3` trains the paper's number.
11. In `tiny` the two decoders are two thresholds on one score, not two prompts (`feedback`, deviation 3): there,
   binary against ternary compares thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal


class Objective(StrEnum):
    """The learning objectives of section 4.2."""

    FFT = "fft"
    RL = "rl"
    KTO = "kto"


class DecoderKind(StrEnum):
    """The feedback decoders of section 4.1: two labels, or three."""

    BINARY = "binary"
    TERNARY = "ternary"


class Variant(StrEnum):
    """The systems of section 5, and appendix D's. VARIANTS holds their recipes."""

    B_FFT = "b-fft"
    T_FFT = "t-fft"
    B_RL = "b-rl"
    T_RL = "t-rl"
    B_KTO = "b-kto"
    T_KTO = "t-kto"
    B_FFT_PLUS = "b-fft+"  # branches off B-FFT (appendix D)
    SHUFFLED = "shuffled"  # B-FFT with shuffled labels: a control, which users never meet

    @property
    def decoder(self) -> DecoderKind:
        return VARIANTS[self].decoder

    @property
    def objective(self) -> Objective:
        return VARIANTS[self].objective

    @property
    def enhanced(self) -> bool:
        return VARIANTS[self].enhanced

    @property
    def shuffled(self) -> bool:
        return VARIANTS[self].shuffled


@dataclass(frozen=True)
class Recipe:
    """The make-up of a variant: the decoder whose labels it learns from, the objective, and where its adapters are."""

    decoder: DecoderKind
    objective: Objective
    enhanced: bool = False  # adapters on the vision model too
    shuffled: bool = False  # labels change places among turns


VARIANTS: dict[Variant, Recipe] = {
    Variant.B_FFT: Recipe(DecoderKind.BINARY, Objective.FFT),
    Variant.T_FFT: Recipe(DecoderKind.TERNARY, Objective.FFT),
    Variant.B_RL: Recipe(DecoderKind.BINARY, Objective.RL),
    Variant.T_RL: Recipe(DecoderKind.TERNARY, Objective.RL),
    Variant.B_KTO: Recipe(DecoderKind.BINARY, Objective.KTO),
    Variant.T_KTO: Recipe(DecoderKind.TERNARY, Objective.KTO),
    Variant.B_FFT_PLUS: Recipe(DecoderKind.BINARY, Objective.FFT, enhanced=True),
    Variant.SHUFFLED: Recipe(DecoderKind.BINARY, Objective.FFT, shuffled=True),
}


Engine = Literal["packed", "trl"]
"""What trains: our own trainer on packed interactions, or TRL's trainers on one example per turn."""


class Propensity(StrEnum):
    """The source of equation 2's p for turns whose log has none."""

    LOGGED = "logged"  # none: an error names the turns
    BACKFILL = "backfill"  # computed under the policy that acted
    SURROGATE = "surrogate"  # computed under the seed policy, an approximation


class FeedbackSource(StrEnum):
    """What a round takes for a turn's feedback."""

    DECODED = "decoded"  # the follow-up, decoded
    EXPLICIT = "explicit"  # the user's thumb, where the log has one
    BOTH = "both"  # the thumb where there is one, the decoded label elsewhere


@dataclass(frozen=True)
class UserLimits:
    """How much users may teach (`training_data.limits`). None: no limit.

    What a log does not say limits nobody: users of whom it is unknown whether they were signed in count fully, and
    turns without an address prefix or a day are not capped by it.
    """

    user_turns: int | None = None  # labelled turns of a user, over all rounds
    address_turns: int | None = None  # of an address prefix, by users who are not signed in
    day_turns: int | None = None  # of a user on a day
    anonymous_weight: float = 1.0  # of a labelled turn by a user who is not signed in
    likeness: float | None = None  # from this on, whole conversations of one user or address count once; at most 1
    quarantine: bool = False  # leave out users whose follow-ups fit nobody else's (`training_data.quarantine`)

    @property
    def any(self) -> bool:
        """Whether anything is limited."""
        return self != NO_LIMITS


NO_LIMITS = UserLimits()


def strangers() -> UserLimits:
    """Return the limits of deployments that anybody may use."""
    return UserLimits(
        user_turns=1000, address_turns=1000, day_turns=200, anonymous_weight=0.25, likeness=0.9, quarantine=True
    )


SYSTEMS: tuple[Variant, ...] = tuple(variant for variant in Variant if not variant.enhanced and not variant.shuffled)
"""The six variants of section 5, which are trained by default."""
BRANCH_AFTER = 3
"""The round after which B-FFT+ branches off B-FFT in a study (appendix D)."""
SEED = "seed"
"""The policy of round 0, tuned on D0 (appendix B.2)."""
CONTROL = "control"
HH = "hh"
ACTING = (*map(str, SYSTEMS), CONTROL)
"""Policies that users meet by default. No model is named `respect.control`: it is always the seed policy."""
DEPLOYABLE = (*(str(variant) for variant in Variant if not variant.shuffled), CONTROL)
"""Policies that users can meet."""


def original(variant: str) -> str:
    """Return the variant that this one repeats but for shuffled labels; any other is its own."""
    return Variant.B_FFT if variant == Variant.SHUFFLED else variant


@dataclass(frozen=True)
class LoraConfig:
    """Adapter shape and placement (appendices B.3, D)."""

    rank: int = 8
    alpha: int = 8
    dropout: float = 0.1
    targets: str = (
        r".*(text_model|modality_projection|perceiver_resampler)"
        r".*(down_proj|gate_proj|up_proj|k_proj|q_proj|v_proj|o_proj).*$"
    )


def word_lora() -> LoraConfig:
    """Place adapters on the words' embeddings too, of twice the rank (deviation 8)."""
    plain = LoraConfig()
    return replace(plain, rank=16, alpha=16, targets=rf"({plain.targets}|.*text_model.embed_tokens$)")


def enhanced(plain: LoraConfig) -> LoraConfig:
    """Place adapters on the vision model too (appendix D). Vision features cannot be cached with them."""
    return replace(plain, targets=rf"({plain.targets}|.*vision_model.*(q_proj|k_proj|v_proj|out_proj|fc1|fc2).*$)")


@dataclass(frozen=True)
class TrainingConfig:
    """The settings of a training run: Table 1, with the extra terms of section 5 (entropy, length normalisation)."""

    objective: Objective
    optimizer: Literal["adamw", "rmsprop"]
    learning_rate: float
    schedule: Literal["cosine", "constant", "linear"]
    epochs: int
    max_steps: int | None = None  # ends training earlier than `epochs`
    warmup_steps: int = 10
    weight_decay: float = 0.01
    batch_turns: int = 64  # turns with a loss in one optimizer step
    micro_batch_interactions: int = 8  # interactions in one forward pass
    max_grad_norm: float = 1.0
    entropy_weight: float = 0.01
    label_smoothing: float = 0.0  # the authors' code mixes it in; the paper's Table 1 has the entropy term
    length_normalised: bool = True  # log-likelihoods of FFT, RL and rehearsal (section 5)
    negative_reward: float = -0.1  # equation 1
    propensity_floor: float = 0.01  # p is clamped from below before the ratio of equation 2
    positive_to_negative: float = 5 / 4  # per batch (appendix B.3)
    kto_beta: float = 0.5
    kto_desirable: float = 4.0  # lambda_d
    kto_undesirable: float = 1.0  # lambda_u
    kto_length_normalised: bool = False  # whether log-ratios are divided by the action's tokens
    kto_reference: Literal["logged", "initial"] = "logged"  # log p as logged, or a pass under the initial adapter
    from_previous_adapter: bool = False
    checkpoint_every: int | None = None  # optimizer steps between checkpoints; None: once an epoch
    engine: Engine = "packed"

    def on(self, engine: Engine) -> TrainingConfig:
        """Return these settings for an engine, without the terms that it lacks (`learning.trl_engine`)."""
        if engine == "packed":
            return replace(self, engine=engine)
        smoothing = 0.0 if self.objective is Objective.KTO else self.label_smoothing
        return replace(
            self,
            engine=engine,
            entropy_weight=0.0,
            label_smoothing=smoothing,
            length_normalised=False,
            kto_length_normalised=False,
            kto_reference="initial",
        )


def fft() -> TrainingConfig:
    """Return the settings of filtered fine-tuning: Table 1, with section 4.2's label smoothing (deviation 9)."""
    return TrainingConfig(Objective.FFT, "adamw", 1e-4, "cosine", epochs=20, label_smoothing=0.1)


def rl() -> TrainingConfig:
    """Return the settings of REINFORCE with inverse propensity, Table 1."""
    return TrainingConfig(Objective.RL, "adamw", 1e-4, "cosine", epochs=20)


def kto() -> TrainingConfig:
    """Return the settings of KTO, Table 1: it continues the previous round's adapter (section 5; deviations 2, 4)."""
    return TrainingConfig(
        Objective.KTO,
        "rmsprop",
        1e-5,
        "constant",
        epochs=20,
        from_previous_adapter=True,
        micro_batch_interactions=16,  # z0 needs no extra pass where two cores hold a whole batch
    )


def seed_policy() -> TrainingConfig:
    """Return the settings of the seed policy: FFT on D0 at a constant rate, 40 epochs."""
    return replace(fft(), schedule="constant", epochs=40)
