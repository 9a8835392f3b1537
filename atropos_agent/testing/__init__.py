"""Public fakes for the tests of your own environments: a scripted policy and a scripted inference server."""

from atropos_agent.testing.codecs import ByteCodec, Codec, TokenizerCodec
from atropos_agent.testing.fake_answers import Fault
from atropos_agent.testing.fake_policy import FakePolicy, FakeReply, FakeRequest
from atropos_agent.testing.fake_server import FakeAsk, FakeServer
from atropos_agent.testing.scripts import ServerScript, load_server_script

__all__ = [
    "ByteCodec",
    "Codec",
    "FakeAsk",
    "FakePolicy",
    "FakeReply",
    "FakeRequest",
    "FakeServer",
    "Fault",
    "ServerScript",
    "TokenizerCodec",
    "load_server_script",
]
