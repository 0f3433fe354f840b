"""The edge that agents talk to: decode, validate, queue, acknowledge."""
