"""Define profiles: named functions that return a typed configuration of everything a round runs with."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from respect_core.variants import (
    SEED,
    Engine,
    FeedbackSource,
    LoraConfig,
    Objective,
    Propensity,
    TrainingConfig,
    UserLimits,
    Variant,
    enhanced,
    fft,
    kto,
    rl,
    seed_policy,
    strangers,
    word_lora,
)

_TABLE_1 = {Objective.FFT: fft, Objective.RL: rl, Objective.KTO: kto}


@dataclass(frozen=True)
class Profile:
    """The configuration of a round: base model, adapters, training settings and the size of simulated play."""

    name: str
    scenario: str  # name of an entry point (`respect_core.scenario`)
    base: str  # a model directory, a hub id, or "tiny" for the embedded model
    feedback_decoder: str  # a named function of respect_core.feedback.decoder
    seed_training: TrainingConfig
    training: dict[Objective, TrainingConfig]
    later: dict[int, dict[Objective, TrainingConfig]] = field(
        default_factory=dict
    )  # replaces `training` from a round on
    lora: LoraConfig = field(default_factory=LoraConfig)
    seeds: tuple[int, ...] = (0, 1, 2)
    propensity: Propensity = Propensity.LOGGED
    feedback: FeedbackSource = FeedbackSource.DECODED
    limits: UserLimits = field(default_factory=UserLimits)
    simulated_people: bool = False  # D0, validation set and users may be simulated
    image_size: int = 224
    play_batch: int = 64  # interactions that the policy answers in one batch
    seed_games: int = 25  # D0: human-human games on the development split (appendix B.2)
    validation_games: int = 92  # D_val^HH: human-human games on the main split
    deselection_ratio: float = 1 / 12  # augmented turns per turn of D0

    def settings(self, variant: str, round: int) -> TrainingConfig:
        """Return the training settings of a variant after a round's deployment, or of the seed policy."""
        if variant == SEED:
            return self.seed_training
        objective = Variant(variant).objective
        starts = [number for number in self.later if number <= round and objective in self.later[number]]
        return self.later[max(starts)][objective] if starts else self.training[objective]

    def placement(self, variant: str) -> LoraConfig:
        """Return the shape and placement of a variant's adapters."""
        return enhanced(self.lora) if variant != SEED and Variant(variant).enhanced else self.lora

    def with_training(self, objectives: Collection[Objective] = tuple(Objective), /, **changes: Any) -> Profile:
        """Return a profile with other training settings for these objectives, in every round."""
        return self._changed(lambda config: replace(config, **changes) if config.objective in objectives else config)

    def on(self, engine: Engine) -> Profile:
        """Return a profile whose variants train with this engine. The seed policy keeps its own."""
        return self._changed(lambda config: config.on(engine))

    def _changed(self, change: Callable[[TrainingConfig], TrainingConfig]) -> Profile:
        def all_of(training: Mapping[Objective, TrainingConfig]) -> dict[Objective, TrainingConfig]:
            return {objective: change(config) for objective, config in training.items()}

        later = {number: all_of(training) for number, training in self.later.items()}
        return replace(self, training=all_of(self.training), later=later)


def idefics2_8b() -> Profile:
    """Return the paper's profile: IDEFICS2-8B, Table 1 and appendix B."""
    return Profile(
        name="idefics2-8b",
        scenario="multiref",
        base="HuggingFaceM4/idefics2-8b",
        feedback_decoder="idefics2_8b",
        seed_training=seed_policy(),
        training={objective: make() for objective, make in _TABLE_1.items()},
        limits=strangers(),
        # The policy of round 3, the first with these weights, learns after round 2 (appendix B.3, KTO Stability).
        later={2: {Objective.KTO: replace(kto(), kto_desirable=1.0)}},
    )


def tiny() -> Profile:
    """Return the profile of the embedded model on two cores: the paper's stages, at rates that suit a small model."""

    def short(config: TrainingConfig, learning_rate: float, steps: int) -> TrainingConfig:
        """Limit training to this many steps of half the paper's turns, with three checkpoints."""
        every = steps // 3
        return replace(
            config, learning_rate=learning_rate, max_steps=steps, checkpoint_every=every, batch_turns=32, epochs=200
        )

    def warm_start(config: TrainingConfig, learning_rate: float) -> TrainingConfig:
        """Start from the previous round's adapter (deviation 7)."""
        return replace(short(config, learning_rate, 120), from_previous_adapter=True)

    return Profile(
        name="tiny",
        scenario="multiref",
        base="tiny",
        feedback_decoder="smollm2",
        seed_training=replace(short(seed_policy(), 1e-3, 30), label_smoothing=0.02),
        training={
            Objective.FFT: replace(warm_start(fft(), 2e-3), label_smoothing=0.02),
            Objective.RL: warm_start(rl(), 2e-3),
            Objective.KTO: replace(
                warm_start(kto(), 2e-3), optimizer="adamw", schedule="cosine", kto_reference="initial"
            ),
        },
        lora=word_lora(),
        seeds=(0,),
        propensity=Propensity.SURROGATE,
        simulated_people=True,
    )


def chat() -> Profile:
    """Return the profile of one's own chat logs on two cores: SmolLM2-135M-Instruct learns, and decodes feedback.

    Imported logs have no p. REINFORCE takes the seed policy's in its place, and KTO the adapter that it starts from.
    """

    def short(config: TrainingConfig, steps: int = 20) -> TrainingConfig:
        return replace(
            config,
            learning_rate=2e-4,
            max_steps=steps,
            checkpoint_every=steps // 2,
            warmup_steps=4,
            batch_turns=8,
            epochs=100,
            micro_batch_interactions=2,
            label_smoothing=0.0,  # over 49,152 tokens it would outweigh the replies
        )

    kto_settings = replace(
        short(kto()), optimizer="adamw", schedule="cosine", kto_reference="initial", kto_length_normalised=True
    )
    return Profile(
        name="chat",
        scenario="chat",
        base="smollm2",
        feedback_decoder="smollm2_chat",
        seed_training=short(seed_policy(), 10),
        training={Objective.FFT: short(fft()), Objective.RL: short(rl()), Objective.KTO: kto_settings},
        lora=LoraConfig(rank=16, alpha=16, targets=r".*(down_proj|gate_proj|up_proj|k_proj|q_proj|v_proj|o_proj)$"),
        seeds=(0,),
        propensity=Propensity.SURROGATE,
        limits=strangers(),
        play_batch=8,
    )


def home() -> Profile:
    """Return the profile of the simulated smart home: as `chat`, at rates and lengths that suit short commands.

    Adapters are in the upper half of the layers alone: a step then takes half the time.
    """
    plain = chat()
    profile = replace(
        plain,
        name="home",
        scenario="home",
        feedback_decoder="smollm2_home",
        seed_training=replace(
            plain.seed_training, learning_rate=2e-3, max_steps=14, checkpoint_every=7, batch_turns=15
        ),
        lora=replace(plain.lora, targets=rf".*layers\.(1[5-9]|2[0-9])\.{plain.lora.targets}"),
        simulated_people=True,
        limits=UserLimits(),
        play_batch=64,
        seed_games=10,
        validation_games=40,
    )
    return profile.with_training(
        learning_rate=1e-3,
        max_steps=20,
        checkpoint_every=10,
        batch_turns=16,
        micro_batch_interactions=8,
        from_previous_adapter=True,
    )


PROFILES = {"tiny": tiny, "idefics2-8b": idefics2_8b, "chat": chat, "home": home}


def profile(name: str) -> Profile:
    """Return the profile of this name.

    Raises:
        ValueError: no such profile; the message lists all profiles.
    """
    try:
        return PROFILES[name]()
    except KeyError:
        raise ValueError(f"no profile {name!r}; there are: {', '.join(PROFILES)}") from None


def of_version(files: Path) -> Profile:
    """Read the profile with which a registered version was trained, from its files."""
    from pydantic import TypeAdapter  # which naming a profile does not need

    return TypeAdapter(Profile).validate_json((files / "profile.json").read_bytes())
