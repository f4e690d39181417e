"""What a message is made of between objects and bytes."""

__all__ = ["Buffer", "Frames"]

#: One frame: bytes, or flat memory of single bytes.
Buffer = bytes | bytearray | memoryview

#: One message.
Frames = list[Buffer]
