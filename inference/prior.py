"""A judgement of a text that the model is not asked about: all that is known is what texts are like."""

from inference.judgement import Identity, Judgement
from inference.operators import OperatorSettings
from inference.operators.labels import LabelSettings

MODEL = "prior"


def prior_judgement(settings: OperatorSettings, identity: Identity) -> Judgement:
    """`review`, by the model `prior`, for nothing.

    The scores are the shares of the labels that the stage expects (`calibration.prior`), equal where it expects none;
    the label is the most frequent one, and its share the confidence. An operator without labels has no scores, and no
    confidence.
    """
    expected = settings.calibration.prior if isinstance(settings, LabelSettings) else {}
    weights = {label: expected.get(label, 1.0) for label in identity.labels}
    total = sum(weights.values())
    scores = {label: weight / total for label, weight in weights.items()}
    label = max(scores, key=scores.__getitem__) if scores else ""
    return Judgement(
        decision="review",
        label=label,
        scores=scores,
        confidence=scores.get(label, 0.0),
        model=MODEL,
        prompt_hash=identity.prompt_hash,
        calls=(),
        parts=1,
        confidence_source="prior",
    )
