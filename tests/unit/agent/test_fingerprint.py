"""Fingerprints see single bits and places."""

from __future__ import annotations

import pytest
import torch

from stallwatch.agent._fingerprint import GradientSentinel, fingerprint, fingerprints, word_sums

SHAPES = [(1,), (3,), (8,), (33, 7), (64, 64), (4097 * 2,), (301, 333), (1024, 1024)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.uint8, torch.bool]


def values(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Some numbers."""
    return (torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 50).to(dtype)


def in_list(tensor: torch.Tensor) -> torch.Tensor:
    """The fingerprint of one of several tensors."""
    return fingerprints([torch.ones(3), tensor])[1]


BOTH = pytest.mark.parametrize("fingerprint", [fingerprint, in_list])


@BOTH
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_equal_tensors_have_equal_fingerprints(fingerprint, shape, dtype):
    """A copy, of any type and size, has the same."""
    tensor = values(shape, dtype)
    assert int(fingerprint(tensor)) == int(fingerprint(tensor.clone()))


@BOTH
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("place", [0, 0.5, 1])
def test_one_flipped_bit_is_seen(fingerprint, shape, place):
    """The least bit of the first, middle and last element."""
    tensor = values(shape)
    before = int(fingerprint(tensor))
    index = round(place * (tensor.numel() - 1))
    tensor.view(-1).view(torch.int32)[index] ^= 1
    assert int(fingerprint(tensor)) != before


@BOTH
@pytest.mark.parametrize(("first", "second"), [(0, 1), (0, 2), (0, 2000), (5, 2005), (10, 90_000)])
def test_exchanged_elements_are_seen(fingerprint, first, second):
    """Neighbours, and elements of the same row or column of the table that the sums are taken of."""
    tensor = values((301, 333))
    before = int(fingerprint(tensor))
    flat = tensor.view(-1)
    flat[[first, second]] = flat[[second, first]]
    assert int(fingerprint(tensor)) != before


@BOTH
def test_same_bit_flipped_twice_is_seen(fingerprint):
    """What an exclusive or is blind to: the same bit of two elements."""
    tensor = values((64, 64))
    before = int(fingerprint(tensor))
    tensor.view(-1).view(torch.int32)[[7, 1900]] ^= 1 << 20
    assert int(fingerprint(tensor)) != before


@BOTH
def test_layout_in_memory_does_not_cost_a_copy_but_counts(fingerprint):
    """Channels-last tensors are read in the order of memory, offsets that are not aligned are read all the same."""
    image = values((4, 8, 6, 6)).to(memory_format=torch.channels_last)
    assert int(fingerprint(image)) == int(fingerprint(image.clone()))
    odd = values((101,))[1:]
    assert int(fingerprint(odd)) == int(fingerprint(odd + 0))


@BOTH
def test_complex_parameters_have_a_fingerprint(fingerprint):
    """They are read as pairs."""
    tensor = torch.randn(16, dtype=torch.complex64)
    before = int(fingerprint(tensor))
    tensor[3] += 1e-3j
    assert int(fingerprint(tensor)) != before


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_word_sums_see_one_bit(shape, dtype):
    """Equal tensors have equal sums; a bit more does not go unseen."""
    tensor = values(shape, dtype)
    before = word_sums([torch.ones(3), tensor])
    assert word_sums([torch.ones(3), tensor.clone()]).tolist() == before.tolist()
    tensor.view(-1).view(torch.uint8)[-1] ^= 1
    assert int(word_sums([torch.ones(3), tensor])[1]) != int(before[1])


def parameters(dtype: torch.dtype = torch.float32) -> list[torch.nn.Parameter]:
    """Parameters with gradients."""
    torch.manual_seed(2)
    made = [
        torch.nn.Parameter(torch.zeros(shape, dtype=dtype))
        for shape in ((40, 50), (30,), (64, 64), (2,), (100,))
    ]
    for each in made:
        each.grad = torch.randn(each.shape).to(dtype)
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradient_sentinel_tells_other_gradients_at_every_step(dtype):
    """Equal gradients, equal numbers; gradients scaled by a half, other numbers, whichever slices the step looks at."""
    ours, theirs, scaled = (GradientSentinel(parameters(dtype)) for _ in range(3))
    for each in scaled._candidates:
        each.grad *= 0.5
    for step in range(50):
        taken = int(ours.take(step))
        assert taken == int(theirs.take(step))
        assert taken != int(scaled.take(step))


def test_gradient_sentinel_meets_a_single_parameter_within_a_few_steps():
    """One parameter out of four that is not averaged is met within as many steps."""
    ours, theirs = GradientSentinel(parameters()), GradientSentinel(parameters())
    theirs._candidates[1].grad += 1
    assert any(int(ours.take(step)) != int(theirs.take(step)) for step in range(4))


def test_gradient_sentinel_without_gradients():
    """None, for which -1 is sent."""
    sentinel = GradientSentinel([torch.nn.Parameter(torch.zeros(100))])
    assert sentinel.take(0) is None
    assert GradientSentinel([]).take(0) is None


def test_first_steps_meet_every_parameter_and_later_ones_a_few():
    """What is wired wrongly shows at once; what breaks later is met as the slices move on."""
    ours, theirs = (
        GradientSentinel(all_of)
        for all_of in ([torch.nn.Parameter(torch.zeros(16)) for _ in range(40)] for _ in range(2))
    )
    for sentinel in (ours, theirs):
        for each in sentinel._candidates:
            each.grad = torch.ones(16)
    theirs._candidates[17].grad = torch.full((16,), 2.0)
    differing = [step for step in range(44) if ours.take(step) != theirs.take(step)]
    assert differing[:4] == [0, 1, 2, 3]
    assert 1 <= len(differing[4:]) < 10


def test_gradient_sentinel_off_the_fast_path():
    """Gradients that are not contiguous are summed as tensors."""
    (parameter,) = [torch.nn.Parameter(torch.zeros(40, 50))]
    parameter.grad = torch.randn(50, 40).t()
    taken = GradientSentinel([parameter]).take(3)
    assert isinstance(taken, torch.Tensor)
