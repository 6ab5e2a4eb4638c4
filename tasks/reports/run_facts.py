"""Facts about a run, from the files in its folder, for a report's page. Light: it imports no engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from respect_core import profiles
from respect_core.measuring.judge import words
from respect_core.profiles import Profile


def systems(root: Path) -> list[str]:
    """Return the policies of the run's study, whether or not they have acted; empty if the run is not a study."""
    started = _read(root / "study" / "study.json")
    return [str(each) for each in started.get("parameters", {}).get("variants", [])]


def facts(root: Path) -> dict[str, str]:
    """Profile, seeds, code and time of a study or round, as far as the run's files have them. Raises ValueError."""
    started, summary = _read(root / "study" / "study.json"), _read(root / "summary.json")
    parameters, profile = started.get("parameters", {}), started.get("profile", {})
    rounds = [_read(file) for file in sorted((root / "study").glob("round-*.json"))]
    versions = sorted({version for each in rounds for version in each.get("attempts", [])})
    seconds = sum(each.get("seconds", {}).get("total") or 0.0 for each in rounds)
    called = words(str(profile.get("scenario", "multiref"))).interactions
    said = {
        "Profile": profile.get("name") or summary.get("profile"),
        "Study": parameters
        and f"seed {parameters.get('study_seed')}, {parameters.get('games')} {called} of every policy in a round, "
        f"{parameters.get('rounds')} rounds of learning",
        "Base model": profile.get("base"),
        "Training seeds": ", ".join(map(str, profile.get("seeds", []))),
        "Code": ", ".join(versions),
        "Time": f"{seconds / 60:.0f} minutes" if seconds else "",
    }
    return {name: str(text) for name, text in said.items() if text}


def learned(root: Path) -> dict[str, Any] | None:
    """Summary of the run's last round; None if the run is a study, or had no round. Raises ValueError."""
    summary = _read(root / "summary.json")
    return summary if "mlflow" in summary else None  # earlier releases' summaries lack what a page shows


def profile(root: Path) -> Profile:
    """Return the profile of the run's study or last round; the default if it has neither. Raises ValueError."""
    in_study, summary = _read(root / "study" / "study.json").get("profile", {}), _read(root / "summary.json")
    return profiles.profile(in_study.get("name") or summary.get("profile") or profiles.tiny().name)


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file}: not JSON ({error}); restore the file, or move it away") from None
    return found if isinstance(found, dict) else {}
