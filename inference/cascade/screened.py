"""The judgement of a text that its screen decides."""

from inference.cascade.audit import Route
from inference.judgement import Identity, Judgement, Screening
from inference.operators.moderate import ModerateSettings


def screened_judgement(
    settings: ModerateSettings, identity: Identity, route: Route, scores: dict[str, float], screening: Screening
) -> Judgement:
    """`allow` or `review`, without the model, for nothing.

    scores: probabilities of the categories that the screen knows; those of the stage share the risk by them, or equally
    where it knows none. identity: of the operator that was not asked.
    """
    risk = screening.risk
    categories = [category.name for category in settings.categories]
    known = [scores.get(name, 0.0) for name in categories]
    weights = known if sum(known) else [1.0] * len(categories)
    shares = {name: risk * weight / sum(weights) for name, weight in zip(categories, weights, strict=True)}
    fine = settings.allowed.name
    return Judgement(
        decision="allow" if route == "pass" else "review",
        label=fine if route == "pass" else max(shares, key=shares.__getitem__),
        scores={fine: 1 - risk, **shares},
        confidence=1 - risk if route == "pass" else risk,
        model=screening.screen,
        prompt_hash=identity.prompt_hash,
        calls=(),
        parts=1,
        confidence_source="screen",
        screening=screening,
    )
