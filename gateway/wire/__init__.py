"""Bytes and messages: the HTTP/1.1 server, gRPC frames, protobuf."""
