"""What agents and strangers may send: each gets a clear error or a counted drop, and nobody else notices."""

from __future__ import annotations

import math
import random
import socket
from urllib.parse import quote

import grpc
import pytest

from stallwatch.v1 import telemetry_pb2 as pb
from support.rank import Stream, hello, steps
from support.waiting import wait_until


def ranks(service, run):
    """The ranks of a run, as the API shows them."""
    answer = service.get(f"/api/v1/runs/{quote(run, safe='')}/ranks")
    return answer["ranks"] if answer else []


@pytest.fixture
def bystander(attach, service, run):
    """Another run: it loses nothing, and its stream is not interrupted, whatever this test does."""
    rank = attach(run=f"{run}-bystander")
    rank.send(steps(0, 10))
    rank.wait_accepted()
    yield rank
    rank.send(steps(10, 10))
    rank.wait_durable()
    assert rank.connections == 1
    (shown,) = wait_until(
        "the bystander's steps",
        lambda: [one for one in ranks(service, rank.hello.run) if one["steps_received"] == 20],
    )
    assert (shown["steps_missing"], shown["duplicate_batches"]) == (0, 0)
    assert service.fetch("/livez")[0] == 200


def refusal(service, greeting: pb.Hello) -> tuple[grpc.StatusCode, str]:
    """How the detector answers to a first message."""
    with Stream(service.grpc_address) as stream:
        stream.send(hello=greeting)
        return stream.outcome()


@pytest.mark.parametrize("name", ["", "with space", "-x", "a" * 129, "a\nb", "ünïcode", "../../etc"])
def test_a_bad_run_name_is_refused(service, bystander, name):
    """INVALID_ARGUMENT, naming the field and what would be right; counted."""
    before = service.metric("stallwatch_ingest_streams_refused_total", reason="invalid_hello")
    code, details = refusal(service, hello(name))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details.startswith("hello.run ")
    assert "must" in details
    assert service.metric("stallwatch_ingest_streams_refused_total", reason="invalid_hello") == before + 1


def test_a_rank_beyond_the_world_is_refused(service, bystander, run):
    """INVALID_ARGUMENT, saying which ranks there are."""
    code, details = refusal(service, hello(run, 8, 8))
    assert (code, details) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "hello.rank is 8 in a world of 8: ranks are 0 to 7",
    )


def test_another_major_version_is_refused(service, bystander, run):
    """FAILED_PRECONDITION: retrying does not help."""
    code, details = refusal(service, hello(run, protocol_major=2))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "hello.protocol_major is 2: this detector speaks 1" in details


def test_a_newer_minor_version_is_served(service, bystander, run):
    """Fields and payloads that it knows and we do not are left out."""
    greeting = hello(run, protocol_minor=7)
    unknown = b"\xaa\x06\x05later"  # field 101, length-delimited
    greeting.MergeFromString(unknown)
    with Stream(service.grpc_address) as stream:
        stream.send(hello=greeting)
        assert stream.receive("welcome").protocol_minor == 0
        stream._requests.put(pb.StreamRequest.FromString(unknown))
        batch = pb.Batch(sequence=1, steps=steps(0, 4))
        batch.MergeFromString(unknown)
        stream.send(batch=batch)
        assert stream.receive("acknowledgement").accepted_sequence == 1
        stream.send(goodbye=pb.Goodbye(reason="finished"))
        stream.close_sending()
        assert stream.outcome()[0] is grpc.StatusCode.OK


@pytest.mark.parametrize("first", [{"batch": pb.Batch(sequence=1)}, {"goodbye": pb.Goodbye()}, {}])
def test_a_stream_must_begin_with_hello(service, bystander, first):
    """Anything else is refused."""
    with Stream(service.grpc_address) as stream:
        stream.send(**first)
        assert stream.outcome() == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "the first message of a stream must be hello",
        )


def test_a_second_hello_ends_the_stream(service, bystander, run):
    """A rank process has one identity."""
    with Stream(service.grpc_address) as stream:
        stream.send(hello=hello(run))
        stream.receive("welcome")
        stream.send(hello=hello(run))
        assert stream.outcome()[0] is grpc.StatusCode.INVALID_ARGUMENT


def test_nan_samples_are_rejected_and_the_stream_goes_on(service, bystander, attach, run):
    """The rejection names the value; the sequence counts as taken, and its steps as dropped."""
    bad = steps(4, 4)
    bad.samples[3] = math.nan
    before = service.metric("stallwatch_ingest_rejected_total", payload="batch")
    rank = attach()
    rank.send(steps(0, 4))
    rank.send(bad)
    rank.send(steps(8, 4))
    rank.wait_durable()
    (rejection,) = rank.rejections
    assert (rejection.sequence, rejection.field) == (2, "steps.samples[3]")
    assert rejection.message == "steps.samples[3] is NaN: samples must be finite and not negative"
    assert rank.connections == 1
    (shown,) = wait_until("the drop", lambda: [one for one in ranks(service, run) if one["dropped_steps"]])
    assert (shown["steps_received"], shown["dropped_steps"]) == (8, 4)
    # Ranks are asked of the analyzer; the rest is as of the last poll.
    wait_until(
        "the metric",
        lambda: service.metric("stallwatch_agent_dropped_total", run=run, reason="rejected") == 4,
    )
    assert service.metric("stallwatch_ingest_rejected_total", payload="batch") == before + 1
    (gap,) = service.get(f"/api/v1/runs/{quote(run, safe='')}/gaps")["gaps"]
    assert gap["text"] == "Data is missing from step 4 to 7 (rejected by the detector, rank 0)"
    assert (gap["reasons"], gap["steps"]) == (["rejected"], 4)


def test_a_batch_of_a_million_steps_is_rejected_or_refused(service, bystander, run):
    """Rejected when it fits into a message; RESOURCE_EXHAUSTED, on that stream alone, when it does not."""
    with Stream(service.grpc_address) as stream:
        stream.send(hello=hello(run))
        limit = stream.receive("welcome").max_message_bytes
        small = pb.Batch(sequence=1, steps=pb.StepBatch(step=range(1_000_000)))
        assert small.ByteSize() < limit
        stream.send(batch=small)
        rejection = stream.receive("rejection")
        assert rejection.message == "steps.step has 1000000 steps: at most 4096 are allowed"
        assert stream.receive("acknowledgement").accepted_sequence == 1
        stream.send(batch=pb.Batch(sequence=2, steps=steps(0, 1_000_000)))
        code, details = stream.outcome()
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in details


def test_a_sequence_that_goes_back_changes_nothing(service, bystander, run):
    """It is acknowledged and counted as a duplicate, whatever it holds."""
    with Stream(service.grpc_address) as stream:
        stream.send(hello=hello(run))
        stream.receive("welcome")
        for sequence, first in ((1, 0), (2, 4), (5, 8), (2, 400), (1, 500)):
            stream.send(batch=pb.Batch(sequence=sequence, steps=steps(first, 4)))
        (shown,) = wait_until(
            "the duplicates", lambda: [one for one in ranks(service, run) if one["duplicate_batches"] == 2]
        )
        assert (shown["steps_received"], shown["last_step"]) == (12, 11)
        wait_until(
            "the metric",
            lambda: service.metric("stallwatch_ingest_run_duplicate_batches_total", run=run) == 2,
        )
        stream.send(goodbye=pb.Goodbye(reason="finished", last_step=11))
        stream.close_sending()
        assert stream.outcome()[0] is grpc.StatusCode.OK


def test_a_bad_heartbeat_is_a_counted_drop(service, bystander, run):
    """It has no sequence; the stream goes on."""
    with Stream(service.grpc_address) as stream:
        stream.send(hello=hello(run))
        stream.send(heartbeat=pb.Heartbeat(phase_seconds=math.inf))
        assert stream.receive("rejection").field == "heartbeat.phase_seconds"
        stream.send(batch=pb.Batch(sequence=1, steps=steps(0, 1)))
        assert stream.receive("acknowledgement").accepted_sequence == 1
        stream.send(goodbye=pb.Goodbye(reason="finished"))
        stream.close_sending()
        assert stream.outcome()[0] is grpc.StatusCode.OK


@pytest.mark.parametrize("seed", range(3))
def test_garbage_on_the_port_disturbs_nobody(service, bystander, seed):
    """Noise, half a handshake, and HTTP of another version."""
    noise = random.Random(seed)
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    for data in (noise.randbytes(4096), preface + noise.randbytes(512), b"GET / HTTP/1.1\r\n\r\n", b""):
        with socket.create_connection(("127.0.0.1", service.grpc_port)) as connection:
            connection.sendall(data)


def test_garbage_instead_of_messages_ends_that_stream_only(service, bystander, run):
    """Valid gRPC around bytes that are no message, first or later."""
    good = pb.StreamRequest(hello=hello(run)).SerializeToString()
    before = service.metric("stallwatch_ingest_rejected_total", payload="unknown")
    for messages in ([b"\xff\xff\xff"], [good, b"\xff\xff\xff"]):
        assert_refused(service, messages)
    assert service.metric("stallwatch_ingest_rejected_total", payload="unknown") == before + 1
    assert "Traceback" not in service.log.read_text()


def assert_refused(service, messages: list[bytes]) -> None:
    """The stream of these bytes ends with INVALID_ARGUMENT."""
    with grpc.insecure_channel(service.grpc_address) as channel:
        call = channel.stream_stream("/stallwatch.v1.TelemetryService/Stream")(iter(messages))
        with pytest.raises(grpc.RpcError) as error:
            list(call)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_the_health_service_answers(service):
    """For load balancers and probes of gRPC."""
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.insecure_channel(service.grpc_address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", "stallwatch.v1.TelemetryService"):
            answer = stub.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
