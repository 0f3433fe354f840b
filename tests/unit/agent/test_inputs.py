"""The checksum of what goes into the model: the same bytes give the same number, whatever they come in."""

from __future__ import annotations

from collections import UserDict
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch

from stallwatch.agent._probe.device import DeviceReader
from stallwatch.agent._probe.inputs import InputProbe, checksum


def read(*calls, keywords=None):
    """The number for a step whose forwards get these arguments."""
    probe = InputProbe(DeviceReader(torch.device("cpu")))
    for arguments in calls:
        probe.see(arguments, keywords or {})
    return checksum(probe.take())


def batch(seed, *shape):
    """Random samples."""
    return torch.randn(shape or (4, 3, 16, 16), generator=torch.Generator().manual_seed(seed))


@dataclass
class Graph:
    """A batch of a class of its own."""

    name: str
    nodes: torch.Tensor
    time: torch.Tensor


class Pair(NamedTuple):
    """What a loader may give."""

    index: int
    images: torch.Tensor


def plain(tensor):
    return (tensor,), {}


def mapping(tensor):
    return ({"mask": torch.ones(4), "pixels": tensor},), {}


def user_mapping(tensor):
    return (), dict(UserDict(mask=torch.ones(4), pixels=tensor))


def nested(tensor):
    return ([Pair(3, tensor), "name"],), {}


def bearing(tensor):
    return (Graph("g", tensor, torch.tensor([5.0])),), {}


def behind_smaller(tensor):
    return (torch.tensor([1, 2]), 0.5, None, tensor), {"scale": 2}


def channels_last(tensor):
    return (tensor.to(memory_format=torch.channels_last),), {}


def sliced(tensor):
    return (torch.cat([tensor, tensor], dim=-1)[..., : tensor.shape[-1]],), {}


def transposed(tensor):
    return (tensor.transpose(0, 1),), {}


def strided(tensor):
    return (torch.stack([tensor, tensor], dim=-1)[..., 0],), {}


def half(tensor):
    return (tensor.to(torch.bfloat16),), {}


def learning(tensor):
    return (tensor.clone().requires_grad_(),), {}


FORMS = (
    plain, mapping, user_mapping, nested, bearing, behind_smaller, channels_last, sliced, transposed, strided, half, learning,
)  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_equal_inputs_have_equal_checksums_and_others_have_not(form):
    """Whatever the form in which samples are given to the model."""
    first, again, other = (form(batch(seed)) for seed in (1, 1, 2))
    value = read(first[0], keywords=first[1])
    assert value >= 0
    assert value == read(again[0], keywords=again[1])
    assert value != read(other[0], keywords=other[1])


@pytest.mark.parametrize("form", [plain, channels_last, sliced, transposed, strided])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 1, 1, 3), (1, 5, 7, 2), (64, 1, 2, 2)])
def test_small_tensors_are_read_within_their_bounds(form, shape):
    """Every run lies inside the tensor, however few elements it has."""
    arguments, keywords = form(batch(3, *shape))
    assert read(arguments, keywords=keywords) >= 0


def test_text_shifted_by_one_as_language_models_take_it_is_told_apart():
    """A slice of integers that is not contiguous."""
    windows = torch.randint(100, (4, 17), generator=torch.Generator().manual_seed(1))
    others = torch.randint(100, (4, 17), generator=torch.Generator().manual_seed(2))
    assert read((windows[:, :-1],)) == read((windows.clone()[:, :-1],)) != read((others[:, :-1],))


def test_all_micro_batches_of_a_step_count_in_their_order():
    """The checksum is over the sequence of them."""
    one, two = batch(1), batch(2)
    assert read((one,), (two,)) != read((two,), (one,))
    assert read((one,), (two,)) != read((one,))


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        (None,),
        ("text", 3),
        (torch.zeros(8, 8),),
        (torch.zeros(0, 4),),
        (torch.zeros(4, 0).T,),
        ([], {}),
        (object(),),
    ],
)
def test_what_tells_nothing_is_unknown(arguments):
    """No tensor, an empty one, or one that is all the same byte."""
    assert read(arguments) == -1


def test_what_refers_to_itself_is_given_up():
    """A structure without end is left after a few levels."""
    endless: list[object] = []
    endless.append(endless)
    assert read((endless,)) == -1
