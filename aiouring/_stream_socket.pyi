"""What Python sees of the socket under a stream transport: nothing but the class, which the transport's core inherits from."""

from aiouring._transport import TransportCore

class StreamSocket(TransportCore): ...
