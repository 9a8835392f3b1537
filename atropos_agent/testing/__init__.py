"""Public fakes: a scripted policy and a scripted inference server, for the tests of your own environments."""

from atropos_agent.testing.fake_policy import ByteCodec, Codec, FakePolicy, FakeReply, FakeRequest

__all__ = ["ByteCodec", "Codec", "FakePolicy", "FakeReply", "FakeRequest"]
