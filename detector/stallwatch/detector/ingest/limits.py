"""What one message may hold. An agent learns the first three from `Welcome`."""

from __future__ import annotations

PROTOCOL_MAJOR = 1
PROTOCOL_MINOR = 0

MAX_BATCH_STEPS = 4096
MAX_MESSAGE_BYTES = 4 * 1024 * 1024
MAX_WORLD_SIZE = 1_000_000
MAX_RUN_CHARACTERS = 128
MAX_TEXT_CHARACTERS = 256
"""For names in a `Hello` that are only displayed."""
MAX_BLOCKS = 512
MAX_LEARNING_RATE_GROUPS = 1024
MAX_SAMPLED_RECORDS = 4096
MAX_EVALUATIONS = 1024
MAX_EVALUATION_METRICS = 64
MAX_NAMED_LOSSES = 256
MAX_LOSS_NAME_CHARACTERS = 128
MAX_EVENTS = 1024
MAX_EVENT_KIND_CHARACTERS = 64
MAX_EVENT_TEXT_CHARACTERS = 512
MAX_DROPPED = 256
MAX_STACK_CHARACTERS = 16 * 1024
MAX_FLIGHT_RECORD_CHARACTERS = 8 * 1024
HEARTBEAT_SECONDS = 2.0
"""How often agents are asked for a sign of life."""
CLOCK_SLACK_SECONDS = 1e-3
"""A duration is a difference of two readings of a clock, or of two such differences: it may fall this far below zero."""
MAX_ANCHOR_ELEMENTS = 16
MAX_ANCHORS = 64
"""Steps whose anchors one sampled record may hold."""
MAX_SATURATED_MODULES = 64
