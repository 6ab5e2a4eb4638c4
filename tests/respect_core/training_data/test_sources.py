from respect_core.store.manifests import Partition
from respect_core.training_data.sources import learning_partitions


def test_round_0_belongs_to_everyone_and_later_rounds_to_the_variant() -> None:
    available = [Partition(0, "seed"), Partition(1, "b-fft"), Partition(1, "t-rl"), Partition(2, "b-fft")]
    assert learning_partitions(available, "b-fft", 1) == [Partition(0, "seed"), Partition(1, "b-fft")]
    assert learning_partitions(available, "t-rl", 2) == [
        Partition(0, "seed"),
        Partition(1, "t-rl"),
        Partition(2, "b-fft"),
    ]


def test_the_enhanced_policy_branches_off_b_fft_and_teaches_nobody_else() -> None:
    parts = [Partition(0, "seed"), *(Partition(n, v) for n in (1, 2) for v in ("b-fft", "t-rl"))]
    parts += [Partition(2, "b-fft+")]
    own = [Partition(0, "seed"), Partition(1, "b-fft"), Partition(2, "b-fft+")]
    assert learning_partitions(parts, "b-fft+", 2) == own
    assert learning_partitions(parts, "b-fft+", 1) == own[:2]
    assert learning_partitions(parts, "b-fft", 2) == [*own[:2], Partition(2, "b-fft")]
    assert Partition(2, "b-fft+") not in learning_partitions(parts, "t-kto", 2)
    assert learning_partitions([Partition(5, "b-fft+")], "t-kto", 5) == [Partition(5, "b-fft+")]


def test_control_and_human_games_teach_nobody() -> None:
    available = [Partition(0, "control"), Partition(0, "hh"), Partition(0, "seed")]
    assert learning_partitions(available, "b-kto", 0) == [Partition(0, "seed")]


def test_later_rounds_are_not_looked_at() -> None:
    assert learning_partitions([Partition(3, "seed")], "b-fft", 2) == []
