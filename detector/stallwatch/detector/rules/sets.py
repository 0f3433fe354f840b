"""The rule sets, by name: a set is a dataclass of its rules, so that their state is part of a run's snapshot."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from stallwatch.detector.rules.contract import Rule
from stallwatch.detector.rules.sagemaker_loss import LossNotDecreasing, Overfit, Overtraining
from stallwatch.detector.rules.sagemaker_system import StalledTrainingRule, StepOutlier
from stallwatch.detector.rules.sagemaker_tensors import (
    AllZero,
    DeadRelu,
    ExplodingTensor,
    SaturatedActivation,
    UnchangedTensor,
    VanishingGradient,
    WeightUpdateRatio,
)


@dataclass(slots=True)
class SageMakerRules:
    """SageMaker Debugger's built-in rules that apply to a PyTorch job and can be computed from what the agent sends.

    The others look at inputs of activations (CheckInputImages, NLPSequenceRatio, ClassImbalance, Confusion, TensorVariance,
    PoorWeightInitialization), at hardware (BatchSize, CPUBottleneck, GPUMemoryIncrease, IOBottleneck, LoadBalancing,
    LowGPUUtilization, MaxInitializationTime), at another run (SimilarAcrossRuns) or at trees.
    """

    loss_not_decreasing: LossNotDecreasing = field(default_factory=LossNotDecreasing)
    overfit: Overfit = field(default_factory=Overfit)
    overtraining: Overtraining = field(default_factory=Overtraining)
    vanishing_gradient: VanishingGradient = field(default_factory=VanishingGradient)
    exploding_tensor: ExplodingTensor = field(default_factory=ExplodingTensor)
    weight_update_ratio: WeightUpdateRatio = field(default_factory=WeightUpdateRatio)
    unchanged_tensor: UnchangedTensor = field(default_factory=UnchangedTensor)
    all_zero: AllZero = field(default_factory=AllZero)
    dead_relu: DeadRelu = field(default_factory=DeadRelu)
    saturated_activation: SaturatedActivation = field(default_factory=SaturatedActivation)
    stalled_training: StalledTrainingRule = field(default_factory=StalledTrainingRule)
    step_outlier: StepOutlier = field(default_factory=StepOutlier)

    def rules(self) -> tuple[Rule, ...]:
        """All of them, in order."""
        return tuple(getattr(self, each.name) for each in fields(self))


RULE_SETS = ("sagemaker",)
